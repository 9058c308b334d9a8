//! R4's search parameters: what each looks at, compiled from the official definitions (`r4/search-parameters.json`).

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{LazyLock, OnceLock};

use serde::Deserialize;

use super::expression::{Expression, Path, Start, compile};
use crate::fhir::resource_type::ResourceType;
use crate::json::{Object, Value};

static DEFINITIONS: LazyLock<BTreeMap<&'static str, BTreeMap<&'static str, Definition>>> =
    LazyLock::new(|| serde_json::from_str(include_str!("../fhir/r4/search-parameters.json")).unwrap_or_default());

/// Of every type.
static PARAMETERS: LazyLock<BTreeMap<ResourceType, OnceLock<BTreeMap<&'static str, Parameter>>>> =
    LazyLock::new(|| ResourceType::exportable().map(|resource_type| (resource_type, OnceLock::new())).collect());

/// Parameters that look at no elements, or at what they sound like.
const NOT_OF_ELEMENTS: [&str; 5] = ["_text", "_content", "_query", "near", "phonetic"];

#[derive(Deserialize)]
struct Definition {
    #[serde(rename = "type")]
    kind: Kind,
    expression: String,
    #[serde(default)]
    target: Vec<ResourceType>,
    #[serde(default)]
    components: Vec<ComponentDefinition>,
}

#[derive(Deserialize)]
struct ComponentDefinition {
    code: String,
    expression: String,
}

/// What kind of values a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    String,
    Token,
    Date,
    Number,
    Quantity,
    Reference,
    Uri,
    Composite,
    Special,
}

impl Kind {
    /// As the definitions call it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Token => "token",
            Self::Date => "date",
            Self::Number => "number",
            Self::Quantity => "quantity",
            Self::Reference => "reference",
            Self::Uri => "uri",
            Self::Composite => "composite",
            Self::Special => "special",
        }
    }

    /// The types of elements whose values can be compared with those of the parameter.
    fn takes(self, datatype: &str) -> bool {
        let taken: &[&str] = match self {
            Self::String => &["string", "markdown", "HumanName", "Address"],
            Self::Token => {
                &["Coding", "CodeableConcept", "Identifier", "ContactPoint", "code", "boolean", "string", "id", "uri"]
            }
            Self::Date => &["date", "dateTime", "instant", "Period", "Timing"],
            Self::Number => &["integer", "decimal", "Range"],
            Self::Quantity => &["Quantity", "Age", "Duration", "Money", "Range"],
            Self::Reference => &["Reference", "canonical", "uri", "Resource"],
            Self::Uri => &["uri", "url", "canonical"],
            Self::Composite | Self::Special => &[],
        };
        taken.contains(&datatype)
    }
}

/// A search parameter of a type.
#[derive(Debug)]
pub(crate) struct Parameter {
    pub(super) code: &'static str,
    pub(super) kind: Kind,
    pub(super) expression: Expression,
    /// What it may refer to.
    pub(super) targets: &'static [ResourceType],
    /// Of a composite: its parts, which look at elements below those of the expression.
    pub(super) components: Vec<Parameter>,
}

impl Parameter {
    /// The name by which clients call it.
    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// What kind of values it takes.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it looks at elements of this type.
    pub(super) fn has(&self, datatype: &str) -> bool {
        self.expression.paths().iter().any(|path| path.datatype.name == datatype)
    }

    /// The types to which it may refer.
    pub(super) fn referable(&self) -> impl Iterator<Item = ResourceType> {
        let paths = self.expression.paths();
        let may = |target: ResourceType| paths.iter().any(|path| path.target.is_none_or(|only| only == target));
        self.targets.iter().copied().filter(move |target| may(*target))
    }

    /// The elements it looks at, each with the way to it.
    pub(super) fn elements<'a>(&self, resource: &Object<'a>) -> Vec<(Value<'a>, &Path)> {
        let mut elements = Vec::new();
        for path in self.expression.paths() {
            let _all = path.visit(Start::Resource(resource), &mut |element| {
                elements.push((element, path));
                ControlFlow::Continue(())
            });
        }
        elements
    }
}

/// The search parameters of this type that can be evaluated, by name.
pub(crate) fn of(resource_type: ResourceType) -> &'static BTreeMap<&'static str, Parameter> {
    static NONE: BTreeMap<&str, Parameter> = BTreeMap::new();
    let Some(parameters) = PARAMETERS.get(&resource_type) else { return &NONE };
    parameters.get_or_init(|| {
        definitions(resource_type)
            .filter(|(code, _)| !NOT_OF_ELEMENTS.contains(code))
            .filter_map(|(code, definition)| Some((code, definition.compile(resource_type, code).ok()?)))
            .collect()
    })
}

fn definitions(resource_type: ResourceType) -> impl Iterator<Item = (&'static str, &'static Definition)> {
    let of = |name| DEFINITIONS.get(name).into_iter().flatten().map(|(code, definition)| (*code, definition));
    of("Resource").chain(of(resource_type.as_str()))
}

impl Definition {
    fn compile(&'static self, resource_type: ResourceType, code: &'static str) -> Result<Parameter, String> {
        let expression = compile(resource_type, &[], &self.expression)?;
        let components = self.components.iter().map(|component| component.compile(resource_type, &expression));
        let components = components.collect::<Result<Vec<_>, _>>()?;
        let (kind, targets) = (self.kind, &*self.target);
        let expression = if kind == Kind::Composite { expression } else { only(kind, expression) };
        let leads = !expression.paths().is_empty();
        leads
            .then_some(Parameter { code, kind, expression, targets, components })
            .ok_or_else(|| format!("{code} leads nowhere"))
    }
}

impl ComponentDefinition {
    /// A component has the kind of the parameter of its name.
    fn compile(&'static self, resource_type: ResourceType, parent: &Expression) -> Result<Parameter, String> {
        let code: &'static str = &self.code;
        let definition = definitions(resource_type).find(|(name, _)| *name == code).map(|(_, definition)| definition);
        let Definition { kind, target, .. } = definition.ok_or_else(|| format!("there is no {code}"))?;
        let mut paths: Vec<Path> = Vec::new();
        for above in parent.paths() {
            let found = compile(resource_type, std::slice::from_ref(above), &self.expression)?;
            for path in found.paths() {
                let path = path.below(above);
                if !paths.contains(&path) {
                    paths.push(path);
                }
            }
        }
        let expression = only(*kind, Expression::Elements(paths));
        let leads = !expression.paths().is_empty();
        let component = Parameter { code, kind: *kind, expression, targets: target, components: Vec::new() };
        leads.then_some(component).ok_or_else(|| format!("{code} leads nowhere"))
    }
}

/// What of it can be compared with values of this kind.
fn only(kind: Kind, expression: Expression) -> Expression {
    match expression {
        Expression::Elements(paths) => {
            Expression::Elements(paths.into_iter().filter(|path| kind.takes(path.datatype.name)).collect())
        }
        presence @ Expression::Presence(_) => presence,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_expression_of_r4_is_compiled() {
        let (mut all, mut compiled) = (0, 0);
        let mut out_of_reach = BTreeSet::new();
        let mut not_compared = BTreeSet::new();
        for resource_type in ResourceType::exportable().chain(ResourceType::parse("Binary")) {
            for (code, definition) in definitions(resource_type) {
                all += 1;
                if NOT_OF_ELEMENTS.contains(&code) {
                    out_of_reach.insert(code);
                    continue;
                }
                let parameter = definition.compile(resource_type, code);
                let parameter = parameter.unwrap_or_else(|error| panic!("{resource_type} {code}: {error}"));
                assert_eq!(parameter.kind == Kind::Composite, parameter.components.len() >= 2, "{code}");
                compiled += 1;
                for path in compile(resource_type, &[], &definition.expression).unwrap().paths() {
                    let is_compared = parameter.kind == Kind::Composite || definition.kind.takes(path.datatype.name);
                    not_compared.extend((!is_compared).then_some((definition.kind.as_str(), path.datatype.name)));
                }
            }
        }
        assert_eq!((all, compiled), (3011, 2566));
        assert_eq!(out_of_reach.len(), NOT_OF_ELEMENTS.len());
        // One type of a choice, none of whose values can be compared with those of the parameter.
        let of_choices = [
            ("date", "Age"),
            ("date", "Range"),
            ("date", "string"),
            ("quantity", "SampledData"),
            ("reference", "Attachment"),
            ("token", "dateTime"),
        ];
        assert_eq!(not_compared, BTreeSet::from(of_choices));
    }
}
