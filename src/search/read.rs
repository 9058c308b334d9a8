//! Reads the text of a query: what of it there is not, or cannot be done, is refused by name.

use super::condition::{Condition, Operands};
use super::date::DateOperand;
use super::escape::{split, unescape};
use super::expression::Expression;
use super::number::{NumberOperand, QuantityOperand};
use super::parameter::{self, Kind, Parameter};
use super::query::{Finds, Query, Search, Wrong};
use super::reference::{ReferenceOperand, named};
use super::string::{StringOperand, Where};
use super::token::{OfType, TokenOperand, WITH_TEXT};
use super::uri::{Relation, UriOperand};
use crate::fhir::outcome::shown;
use crate::fhir::resource_type::ResourceType;

/// A query asks no more than so many conditions, with so many values in all.
const MAX_CONDITIONS: usize = 30;
const MAX_VALUES: usize = 1_000;
/// A chain that names no type searches those to which it may lead, if they are no more than this.
const MAX_CHAINED_TYPES: usize = 8;

/// They say how a search is answered: an export has no use for them (rule G9).
const RESULT_PARAMETERS: [&str; 13] = [
    "_sort",
    "_count",
    "_include",
    "_revinclude",
    "_summary",
    "_total",
    "_elements",
    "_contained",
    "_containedType",
    "_offset",
    "_getpages",
    "_format",
    "_pretty",
];

/// Type and conditions of a query.
pub(super) fn query(text: &str) -> Result<(ResourceType, Vec<Condition>), Wrong> {
    let (name, parameters) = text.split_once('?').unwrap_or((text, ""));
    // Clients differ in whether they encode what is within an encoded value; a `+` is one (rule G9).
    let plus = parameters.replace('+', "%2B");
    let parameters: Vec<_> = url::form_urlencoded::parse(plus.as_bytes()).collect();
    if parameters.is_empty() {
        return Err(Wrong::Unsupported(format!("must be in the format [resourceType]?[parameters]: {}", shown(text))));
    }
    let Some(resource_type) = ResourceType::parse(name) else {
        return Err(Wrong::Unsupported(format!("unknown resource type: {}", shown(name))));
    };
    // Decoded once more than the parameter it came in.
    if parameters.iter().any(|(name, value)| name.contains('\0') || value.contains('\0')) {
        let text = shown(text);
        return Err(Wrong::Unsupported(format!(
            "there is a NUL character in it, which no text in FHIR may have: {text}"
        )));
    }
    if parameters.len() > MAX_CONDITIONS {
        return Err(Wrong::TooMuch(format!("a query may have {MAX_CONDITIONS} parameters at most: {}", shown(text))));
    }
    if parameters.iter().map(|(_, value)| split(value, ',').len()).sum::<usize>() > MAX_VALUES {
        return Err(Wrong::TooMuch(format!("a query may have {MAX_VALUES} values at most: {}", shown(text))));
    }
    let conditions = parameters.iter().map(|(name, value)| condition(resource_type, name, value));
    let conditions = conditions.collect::<Result<Vec<_>, String>>().map_err(|reason| {
        let text = shown(text);
        Wrong::Unsupported(format!("filter is not supported for in-memory matching \"{text}\". Reason: {reason}"))
    })?;
    Ok((resource_type, conditions))
}

fn condition(resource_type: ResourceType, name: &str, value: &str) -> Result<Condition, String> {
    if value.is_empty() {
        return Err(format!("{} has no value", shown(name)));
    }
    if let Some(rest) = name.strip_prefix("_has:") {
        return has(resource_type, rest, value);
    }
    match name.split_once('.') {
        Some((reference, rest)) => chain(resource_type, reference, rest, value),
        None => simple(resource_type, name, value),
    }
}

/// `_has:Observation:patient:code=…`: an Observation refers to it by `patient`, whose `code` is this.
fn has(resource_type: ResourceType, rest: &str, value: &str) -> Result<Condition, String> {
    let mut parts = rest.splitn(3, ':');
    let (Some(from), Some(by), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("_has is written as _has:Observation:patient:code=1234-5".to_owned());
    };
    let from = ResourceType::parse(from).ok_or_else(|| format!("_has: unknown resource type: {}", shown(from)))?;
    let by = reference_parameter(from, by)?;
    let targets: Vec<_> = by.referable().collect();
    if !targets.contains(&resource_type) {
        return Err(format!("{} of {from} refers to {}, not to {resource_type}", by.code(), named(&targets)));
    }
    one_step(name)?;
    let query = Query::of(from, name, value, simple(from, name, value)?);
    Ok(Condition::IsFound { search: Search { query, finds: Finds::Referred { by, resource_type } } })
}

/// `subject.identifier=…` or `subject:Patient.identifier=…`: it refers to one whose `identifier` is this.
fn chain(resource_type: ResourceType, reference: &str, name: &str, value: &str) -> Result<Condition, String> {
    one_step(name)?;
    let (code, target) = match reference.split_once(':') {
        Some((code, target)) => (code, Some(target)),
        None => (reference, None),
    };
    let parameter = reference_parameter(resource_type, code)?;
    let targets = match target {
        Some(target) => vec![target_of(parameter, target)?],
        None => targets_with(parameter, name)?,
    };
    let search = |target: ResourceType| {
        let query = Query::of(target, name, value, simple(target, name, value)?);
        Ok(Search { query, finds: Finds::Itself })
    };
    let searches = targets.into_iter().map(search).collect::<Result<Vec<_>, String>>()?;
    Ok(Condition::RefersToFound { parameter, searches })
}

fn one_step(name: &str) -> Result<(), String> {
    if name.contains('.') || name.starts_with("_has") {
        return Err(format!("{} goes on to further resources; one step is supported", shown(name)));
    }
    Ok(())
}

/// The types to which the parameter may refer that have this parameter themselves.
fn targets_with(parameter: &Parameter, name: &str) -> Result<Vec<ResourceType>, String> {
    let code = name.split(':').next().unwrap_or_default();
    let has_it = |target: &ResourceType| parameter::of(*target).contains_key(code);
    let targets: Vec<_> = parameter.referable().filter(has_it).collect();
    if targets.is_empty() {
        let known = named(&parameter.referable().collect::<Vec<_>>());
        return Err(format!("{} refers to {known}, of which none has the parameter {}", parameter.code(), shown(code)));
    }
    if targets.len() > MAX_CHAINED_TYPES {
        return Err(format!(
            "{0} may refer to {1} types; name one, as in {0}:{2}.{code}",
            parameter.code(),
            targets.len(),
            targets[0]
        ));
    }
    Ok(targets)
}

fn target_of(parameter: &Parameter, name: &str) -> Result<ResourceType, String> {
    let target = ResourceType::parse(name).filter(|target| parameter.referable().any(|known| known == *target));
    target.ok_or_else(|| {
        let known = named(&parameter.referable().collect::<Vec<_>>());
        format!("{} refers to {known}, not to {}", parameter.code(), shown(name))
    })
}

fn reference_parameter(resource_type: ResourceType, code: &str) -> Result<&'static Parameter, String> {
    let parameter = known(resource_type, code)?;
    if parameter.kind() != Kind::Reference {
        let references = parameter::of(resource_type).values().filter(|known| known.kind() == Kind::Reference);
        let references = references.map(Parameter::code).collect::<Vec<_>>().join(", ");
        return Err(format!("{code} of {resource_type} is no reference; {references} are"));
    }
    if !parameter.has("Reference") && !parameter.has("Resource") {
        return Err(format!("{code} of {resource_type} refers by canonical URLs, which are not followed"));
    }
    Ok(parameter)
}

fn known(resource_type: ResourceType, code: &str) -> Result<&'static Parameter, String> {
    let parameters = parameter::of(resource_type);
    parameters.get(code).ok_or_else(|| {
        let code = shown(code);
        let all = parameters.keys().copied().collect::<Vec<_>>().join(", ");
        if RESULT_PARAMETERS.contains(&&*code) {
            return format!("{code} says how a search is answered, and filters nothing");
        }
        format!("{resource_type} has no search parameter {code} that is supported; it has {all}")
    })
}

/// `code`, `code:modifier`.
fn simple(resource_type: ResourceType, name: &str, value: &str) -> Result<Condition, String> {
    let (code, modifier) = match name.split_once(':') {
        Some((code, modifier)) => (code, Some(modifier)),
        None => (name, None),
    };
    let parameter = known(resource_type, code)?;
    if modifier == Some("missing") && parameter.kind() != Kind::Composite {
        let is_missing = value.parse().map_err(|_| format!("{code}:missing is true or false"))?;
        return Ok(Condition::Missing { parameter, is_missing });
    }
    let operands = operands(parameter, modifier, &shown(name), &split(value, ','))?;
    if modifier == Some("not") {
        return Ok(Condition::IsNot { parameter, operands });
    }
    Ok(Condition::Is { parameter, operands })
}

/// What values ask for.
fn operands(parameter: &Parameter, modifier: Option<&str>, name: &str, values: &[&str]) -> Result<Operands, String> {
    let string = |place| each(name, values, |text| StringOperand::new(place, &unescape(text)));
    let uri = |relation| each(name, values, |text| UriOperand::new(relation, unescape(text)));
    let reference = |text: &str| ReferenceOperand::parse(&unescape(text), parameter.targets);
    let unsupported = || Err(unsupported(parameter, modifier.unwrap_or_default()));
    Ok(match (parameter.kind(), modifier) {
        (Kind::String, None) => Operands::String(string(Where::Start)?),
        (Kind::String, Some("contains")) => Operands::String(string(Where::Anywhere)?),
        (Kind::String, Some("exact")) => Operands::String(string(Where::Whole)?),
        (Kind::Token, None | Some("not")) => Operands::Token(each(name, values, |text| token(parameter, text))?),
        (Kind::Token, Some("text")) if has_text(parameter) => Operands::TokenText(string(Where::Start)?),
        (Kind::Token, Some("of-type")) if parameter.has("Identifier") => {
            Operands::OfType(each(name, values, OfType::parse)?)
        }
        (Kind::Date, None) => Operands::Date(each(name, values, DateOperand::parse)?),
        (Kind::Number, None) => Operands::Number(each(name, values, NumberOperand::parse)?),
        (Kind::Quantity, None) => Operands::Quantity(each(name, values, QuantityOperand::parse)?),
        (Kind::Uri, None) => Operands::Uri(uri(Relation::Same)?),
        (Kind::Uri, Some("above")) => Operands::Uri(uri(Relation::Above)?),
        (Kind::Uri, Some("below")) => Operands::Uri(uri(Relation::Below)?),
        (Kind::Reference, None) => Operands::Reference(each(name, values, reference)?),
        (Kind::Reference, Some("identifier")) if parameter.has("Reference") => {
            Operands::ReferenceIdentifier(each(name, values, TokenOperand::parse)?)
        }
        (Kind::Reference, Some(target)) if target.starts_with(|c: char| c.is_ascii_uppercase()) => {
            let target = target_of(parameter, target)?;
            Operands::Reference(each(name, values, |text| typed_reference(target, text))?)
        }
        (Kind::Composite, None) => Operands::Composite(each(name, values, |text| composite(parameter, text))?),
        _ => return unsupported(),
    })
}

/// Reads each value; what is wrong with one is said with it.
fn each<T>(name: &str, values: &[&str], read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let nothing = || "is nothing; before a comma within a value goes a \\".to_owned();
    let read = |text: &&str| {
        let operand = if text.is_empty() { Err(nothing()) } else { read(text) };
        operand.map_err(|reason| format!("{name}: {} {reason}", shown(text)))
    };
    values.iter().map(read).collect()
}

fn has_text(parameter: &Parameter) -> bool {
    WITH_TEXT.iter().any(|name| parameter.has(name))
}

/// What is known of codes that have no system beside them can be told when it is asked, rather than by finding nothing.
fn token(parameter: &Parameter, text: &str) -> Result<TokenOperand, String> {
    let token = TokenOperand::parse(text)?;
    let paths = parameter.expression.paths();
    let is_plain = |name| ["code", "boolean", "string", "id", "uri"].contains(&name);
    if token.has_system() && paths.iter().all(|path| is_plain(path.datatype.name)) {
        let mut systems = paths.iter().flat_map(|path| path.datatype.systems()).collect::<Vec<_>>();
        systems.dedup();
        if !systems.iter().any(|system| token.is_of(system)) {
            return Err(match systems.join(", ") {
                none if none.is_empty() => "has a system, where there are codes without one".to_owned(),
                known => format!("is not of the system of these codes, {known}"),
            });
        }
    }
    let is_presence = matches!(parameter.expression, Expression::Presence(_));
    let is_boolean = is_presence || paths.iter().all(|path| path.datatype.name == "boolean");
    if is_boolean && !token.code_only().is_some_and(|code| ["true", "false"].contains(&code)) {
        return Err("is neither true nor false".to_owned());
    }
    Ok(token)
}

fn typed_reference(target: ResourceType, text: &str) -> Result<ReferenceOperand, String> {
    match ReferenceOperand::parse(&unescape(text), &[target])? {
        ReferenceOperand::Here { id, .. } => Ok(ReferenceOperand::Here { resource_type: Some(target), id }),
        ReferenceOperand::Url(_) => Err(format!("is no id of a resource of the type {target}")),
    }
}

/// One value for each part, with `$` between them.
fn composite(parameter: &Parameter, text: &str) -> Result<Vec<Operands>, String> {
    let values = split(text, '$');
    if values.len() != parameter.components.len() {
        let codes = parameter.components.iter().map(Parameter::code).collect::<Vec<_>>().join("$");
        return Err(format!("has not the parts of {codes}"));
    }
    let part = |(component, value): (&Parameter, &str)| {
        operands(component, None, component.code(), &[value]).map_err(|reason| format!("is none: {reason}"))
    };
    parameter.components.iter().zip(values).map(part).collect()
}

fn unsupported(parameter: &Parameter, modifier: &str) -> String {
    if parameter.kind() == Kind::Composite {
        return format!(
            "the modifier :{} of {} is not supported; a composite has none",
            shown(modifier),
            parameter.code()
        );
    }
    let mut modifiers = vec![":missing"];
    match parameter.kind() {
        Kind::String => modifiers.extend([":exact", ":contains"]),
        Kind::Token => {
            modifiers.push(":not");
            modifiers.extend(has_text(parameter).then_some(":text"));
            modifiers.extend(parameter.has("Identifier").then_some(":of-type"));
        }
        Kind::Uri => modifiers.extend([":above", ":below"]),
        Kind::Reference => {
            modifiers.push(":[type]");
            modifiers.extend(parameter.has("Reference").then_some(":identifier"));
        }
        Kind::Date | Kind::Number | Kind::Quantity | Kind::Composite | Kind::Special => {}
    }
    format!("the modifier :{} of {} is not supported; {} are", shown(modifier), parameter.code(), modifiers.join(", "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> String {
        match query(text) {
            Err(Wrong::Unsupported(reason)) => reason,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn too_much(text: &str) -> String {
        match query(text) {
            Err(Wrong::TooMuch(reason)) => reason,
            other => panic!("{text}: {other:?}"),
        }
    }

    // G9, G12, B.5
    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (text, named) in [
            ("Patient", "must be in the format [resourceType]?[parameters]: Patient"),
            ("Patient?", "must be in the format"),
            ("Patient?&", "must be in the format"),
            ("?gender=male", "unknown resource type: "),
            ("Patients?gender=male", "unknown resource type: Patients"),
            ("Patient/1/Observation?code=x", "unknown resource type: Patient/1/Observation"),
            ("Patient?foo=1", "Patient has no search parameter foo that is supported; it has _id, _lastUpdated,"),
            ("Patient?_sort=name", "_sort says how a search is answered"),
            ("Patient?_count=5", "_count says how a search is answered"),
            ("Patient?_text=x", "no search parameter _text that is supported"),
            ("Patient?phonetic=x", "no search parameter phonetic"),
            ("Location?near=1|2", "no search parameter near"),
            ("Patient?gender", "gender has no value"),
            ("Patient?gender=", "gender has no value"),
            ("Patient?gender=male,", "gender:  is nothing"),
            ("Patient?gender:in=http://x", ":in of gender is not supported; :missing, :not are"),
            ("Patient?gender:text=x", ":text of gender is not supported"),
            ("Condition?code:below=x", ":below of code is not supported; :missing, :not, :text are"),
            (
                "Patient?identifier:exact=x",
                ":exact of identifier is not supported; :missing, :not, :text, :of-type are",
            ),
            ("Patient?family:not=x", ":not of family is not supported; :missing, :exact, :contains are"),
            ("Patient?birthdate:exact=2020", ":exact of birthdate is not supported; :missing are"),
            ("Patient?gender:missing=yes", "gender:missing is true or false"),
            (
                "Patient?gender=http://x|male",
                "is not of the system of these codes, http://hl7.org/fhir/administrative-gender",
            ),
            ("Patient?active=yes", "active: yes is neither true nor false"),
            ("Patient?deceased=yes", "deceased: yes is neither true nor false"),
            ("Patient?name=%CC%81", "is nothing but accents"),
            ("Questionnaire?_has:QuestionnaireResponse:questionnaire:status=completed", "canonical URLs"),
            ("QuestionnaireResponse?questionnaire.title=x", "canonical URLs, which are not followed"),
            ("Group?_has:Observation:patient:code=x", "patient of Observation refers to Patient, not to Group"),
            ("Patient?active=http://x|true", "has a system, where there are codes without one"),
            ("Patient?identifier=a|b|c", "identifier: a|b|c is no token"),
            ("Patient?identifier=|", "is no token"),
            ("Patient?identifier:of-type=a|b", "is no typed identifier"),
            ("Patient?birthdate=yesterday", "birthdate: yesterday is no date"),
            ("Patient?birthdate=xx2020", "is no date"),
            ("RiskAssessment?probability=1.2.3", "is no number"),
            ("RiskAssessment?probability=gt", "is no number"),
            ("RiskAssessment?probability=1e99999", "is no number"),
            ("Observation?value-quantity=1|mg", "is no quantity"),
            ("Observation?subject=Encounter/1", "is to another type than"),
            ("Observation?subject=Patient/1/x", "is no reference"),
            ("Observation?subject:Encounter=1", "not to Encounter"),
            ("Observation?patient:Group=1", "patient refers to Patient, not to Group"),
            ("Observation?subject:Patient=http://x/Patient/1", "is no id of a resource of the type Patient"),
            ("ValueSet?url:below=urn:oid:1.2", "is no URL"),
            ("Observation?code-value-quantity=x", "has not the parts of code$value-quantity"),
            ("Observation?code-value-quantity=x$y", "x$y is none: value-quantity: y is no number"),
            ("Observation?code-value-quantity:missing=true", "a composite has none"),
            ("Observation?subject.name.x=1", "one step is supported"),
            ("Observation?code.text=1", "code of Observation is no reference"),
            ("Observation?subject.foo=1", "of which none has the parameter foo"),
            ("Provenance?target._id=1", "name one, as in target:Account._id"),
            ("Patient?_has:Observation:patient=1", "_has is written as"),
            ("Patient?_has:Observation:code:code=1", "code of Observation is no reference"),
            ("Patient?_has:Observation:encounter:code=1", "encounter of Observation refers to"),
            ("Patient?_has:Observation:patient:_has:Encounter:diagnosis:_id=1", "one step is supported"),
            ("Patient?_has:Observation:patient:foo=1", "Observation has no search parameter foo"),
        ] {
            let reason = refused(text);
            assert!(reason.contains(named), "{text}: {reason}");
        }
        let many = |parameter: &str, count| format!("Patient?{}", vec![parameter; count].join("&"));
        assert!(query(&many("gender=male", 30)).is_ok());
        assert!(too_much(&many("gender=male", 31)).contains("30 parameters at most"));
        let values = |count| format!("Patient?_id={}", vec!["a"; count].join(","));
        assert!(query(&values(1_000)).is_ok());
        assert!(too_much(&values(1_001)).contains("1000 values at most"));
    }

    // G9
    #[test]
    fn a_chain_without_a_type_searches_all_types_that_have_the_parameter() {
        let (_, conditions) = query("Observation?subject.name=x").unwrap();
        let [Condition::RefersToFound { searches, .. }] = &*conditions else { panic!("{conditions:?}") };
        let types: BTreeSet<_> = searches.iter().map(|search| search.resource_type().as_str()).collect();
        // In R4 a Group has no name to search by, and a Device has another.
        assert_eq!(types, BTreeSet::from(["Location", "Patient"]));
        let (_, conditions) = query("Observation?patient.name=x").unwrap();
        let [Condition::RefersToFound { searches, .. }] = &*conditions else { panic!("{conditions:?}") };
        assert_eq!(searches.len(), 1, "{searches:?}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(
            name in "(Patient|Observation|ValueSet|x)",
            parts in prop::collection::vec(prop::sample::select(vec![
                "?", "&", "=", ",", "|", "$", "\\", ":", ".", "%2C", "%", "+", " ", "1", "-", "e", "gt", "2020", "T", "é",
                "code", "subject", "Patient", "_has:", "value-quantity", "code-value-quantity", "date", "birthdate", "url",
                "identifier", "missing", "not", "of-type", "contains", "below", "http://x/", "/_history/",
            ]), 0..14),
        ) {
            let _ = query(&format!("{name}?{}", parts.concat()));
            let _ = query(&parts.concat());
        }
    }
}
