//! Which elements of which types an export has (rule G5).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::fhir::elements;
use crate::fhir::outcome::shown;
use crate::fhir::resource_type::ResourceType;
use crate::resource::body::Subset;

/// The elements that are asked for; none: all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ElementList {
    /// Those named without a type are asked of every type, also of one that has no such element.
    every_type: Option<BTreeSet<String>>,
    /// Those named with one, `Patient.name`, say nothing of other types.
    by_type: BTreeMap<ResourceType, BTreeSet<String>>,
}

impl ElementList {
    pub(super) fn is_empty(&self) -> bool {
        self.every_type.is_none() && self.by_type.is_empty()
    }

    /// Adds an element by the name a client gives it, `element` or `Type.element`. One that there is not is left out, in
    /// a list that is there all the same: it never lets more through than was asked for.
    ///
    /// # Errors
    /// What is wrong with it, in words for the client. `types` are those that it may mean without naming one.
    pub(super) fn add(&mut self, name: &str, types: &BTreeSet<ResourceType>) -> Result<(), String> {
        let (resource_type, element) = split(name)?;
        let asked = match &resource_type {
            Some(resource_type) => &BTreeSet::from([*resource_type]),
            None => types,
        };
        let list = match resource_type {
            Some(resource_type) => self.by_type.entry(resource_type).or_default(),
            None => self.every_type.get_or_insert_default(),
        };
        if element.contains('.') {
            return Err(format!(
                "_elements: {} is not at the root of a resource; only elements such as Patient.name can be chosen.",
                shown(name)
            ));
        }
        if asked.iter().all(|asked| elements::of(*asked).members(element).is_none()) {
            return Err(unknown(element, asked));
        }
        list.insert(element.to_owned());
        Ok(())
    }

    /// What is left of the resources of this type; nothing if they are whole.
    pub(super) fn subset(&self, resource_type: ResourceType) -> Option<Subset> {
        let lists = [self.every_type.as_ref(), self.by_type.get(&resource_type)];
        if lists == [None, None] {
            return None;
        }
        let known = elements::of(resource_type);
        let asked = lists.into_iter().flatten().flatten().filter_map(|name| known.members(name)).flatten();
        Some(Subset::of(known.mandatory().chain(asked.map(String::as_str))))
    }
}

/// Elements begin with a small letter, types with a capital.
fn split(name: &str) -> Result<(Option<ResourceType>, &str), String> {
    match name.split_once('.') {
        Some((type_name, element)) if type_name.starts_with(|c: char| c.is_ascii_uppercase()) => {
            let unknown =
                || format!("_elements: {} names no resource type; type names are case-sensitive.", shown(name));
            Ok((Some(ResourceType::parse(type_name).ok_or_else(unknown)?), element))
        }
        _ => Ok((None, name)),
    }
}

fn unknown(element: &str, asked: &BTreeSet<ResourceType>) -> String {
    let element = shown(element);
    match asked.first() {
        Some(only) if asked.len() == 1 => {
            let names = elements::of(*only).names().collect::<Vec<_>>().join(", ");
            format!("_elements: {only} has no element {element}; it has {names}.")
        }
        _ => format!("_elements: no type that is exported has an element {element}; names are case-sensitive."),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;
    use crate::fhir::reference::PatientBases;
    use crate::resource::body::Resource;

    const TAG: &str = r#"{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED"}"#;
    const MANDATORY: &str = "*";
    const VALUE: &[&str] = &["value", "value[x]"];

    /// Members of an Observation, each with the names by which an element list keeps it.
    const MEMBERS: [(&str, &[&str], Option<&str>); 16] = [
        ("status", &[MANDATORY], None),
        ("_status", &[MANDATORY], None),
        (r"c\u006fde", &[MANDATORY], None),
        ("subject", &["subject"], None),
        ("issued", &["issued"], None),
        ("_issued", &["issued"], None),
        (r"\u005fissued2", &[], None),
        ("extension", &["extension"], None),
        ("contained", &["contained"], None),
        ("valueQuantity", VALUE, Some("valueQuantity")),
        ("valueString", VALUE, Some("valueString")),
        ("_valueString", VALUE, Some("valueString")),
        ("valueAddress", &[], None),
        ("value", &[], None),
        ("birthDate", &[], None),
        (r#"odd \" {"#, &[], None),
    ];

    fn observation() -> ResourceType {
        ResourceType::parse("Observation").unwrap()
    }

    fn list(names: &[&str]) -> ElementList {
        let types = ResourceType::exportable().collect();
        let mut list = ElementList::default();
        for name in names {
            list.add(name, &types).unwrap();
        }
        list
    }

    fn value() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "1.00",
            "-0",
            "1.0e3",
            "null",
            "true",
            r#""""#,
            r#"" \" }],{ \u00e9 é ☃""#,
            "[]",
            "{}",
            r#"[{"a":[1.0,"]"]},2]"#,
            r#"{"status":"x","reference":"Group/1","b":{"c":[{}]}}"#,
        ])
    }

    fn meta() -> impl Strategy<Value = (&'static str, String)> {
        let ours = format!(r#""tag":[{{"code":"x"}},{TAG}],"security":[]"#);
        prop_oneof![
            Just(("", format!(r#","tag":[{TAG}]"#))),
            Just((r#""profile":["p"]"#, format!(r#","profile":["p"],"tag":[{TAG}]"#))),
            Just((r#""tag":[{"code":"x"}],"security":[]"#, format!(",{ours}"))),
            Just((&*ours.clone().leak(), format!(",{ours}"))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        // G5, L: decimals
        #[test]
        fn exactly_the_allowed_members_are_left_byte_for_byte_and_the_tag(
            members in prop::sample::subsequence(MEMBERS.to_vec(), 0..=MEMBERS.len()).prop_shuffle(),
            values in prop::collection::vec(value(), MEMBERS.len()),
            (meta, tagged) in meta(),
            asked in prop::sample::subsequence(
                vec!["id", "subject", "issued", "extension", "contained", "value", "value[x]", "valueQuantity",
                    "valueString", "component", "birthDate"], 1..6),
            typed in prop::collection::vec(any::<bool>(), 6),
        ) {
            let members: Vec<_> = members.iter().zip(&values)
                .map(|((name, kept_by, only), value)| (format!(r#","{name}":{value}"#), *kept_by, *only))
                .collect();
            let rest: String = members.iter().map(|(text, ..)| text.as_str()).collect();
            let text = format!(r#"{{"resourceType":"Observation","id":"o","meta":{{{meta}}}{rest}}}"#);
            let body = Resource::parse(text.as_bytes(), &PatientBases::default()).unwrap();
            let body = body.body(7, datetime!(2026-01-01 0:00 UTC));

            let names: Vec<_> = asked.iter().zip(&typed)
                .filter(|(name, typed)| !(**typed && **name == "birthDate"))
                .map(|(name, typed)| if *typed { format!("Observation.{name}") } else { (*name).to_owned() })
                .collect();
            let list = list(&names.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assume!(!list.is_empty());

            let is_kept = |by: &str| by == MANDATORY || asked.contains(&by);
            let left: String = members.iter()
                .filter(|(_, kept_by, only)| kept_by.iter().copied().chain(*only).any(is_kept))
                .map(|(text, ..)| text.as_str())
                .collect();
            let head = r#"{"resourceType":"Observation","id":"o","meta":{"versionId":"7","lastUpdated":"2026-01-01T00:00:00.000Z""#;
            let cut = list.subset(observation()).unwrap().cut(&body).concat();
            prop_assert_eq!(&cut, &format!("{head}{tagged}}}{left}}}"));
            prop_assert_eq!(list.subset(observation()).unwrap().cut(&cut).concat(), cut);
            let kept = serde_json::to_string(&list).unwrap();
            prop_assert_eq!(serde_json::from_str::<ElementList>(&kept).unwrap(), list);
        }
    }

    // G5
    #[test]
    fn an_element_with_a_type_says_nothing_of_other_types() {
        assert!(ElementList::default().subset(ResourceType::PATIENT).is_none());
        assert!(list(&["Observation.value"]).subset(ResourceType::PATIENT).is_none());
        let both = list(&["Observation.value", "id"]);
        assert!(both.subset(ResourceType::PATIENT).is_some() && both.subset(observation()).is_some());
    }

    // G5
    #[test]
    fn what_is_no_element_is_refused_with_what_there_is() {
        let only = BTreeSet::from([ResourceType::PATIENT]);
        let refused = |name| ElementList::default().add(name, &only).unwrap_err();
        for name in ["Observation.values", "values", "Patient.birthdate", "Patient", "_birthDate", "Patient.", ""] {
            assert!(refused(name).contains("; it has "), "{name}: {}", refused(name));
        }
        assert!(refused("Observation.values").contains("Observation has no element values; it has basedOn, "));
        assert!(refused("Patinet.name").contains("Patinet.name names no resource type"));
        assert!(refused("name.family").contains("root") && refused("Patient.name.family").contains("root"));
        let all = ResourceType::exportable().collect();
        assert!(ElementList::default().add("valueAddress", &all).unwrap_err().contains("no type"));
        assert!(ElementList::default().add("birthDate", &all).is_ok());
    }

    // B17: left out, but nobody gets more for it
    #[test]
    fn a_list_of_nothing_known_keeps_what_is_mandatory() {
        let mut list = ElementList::default();
        assert!(list.add("Observation.values", &BTreeSet::new()).is_err());
        let cut = list.subset(observation()).unwrap().cut(r#"{"meta":{},"status":1,"subject":2}"#).concat();
        assert_eq!(cut, format!(r#"{{"meta":{{"tag":[{TAG}]}},"status":1}}"#));
    }
}
