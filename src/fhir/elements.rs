//! The root elements of every R4 type (rule G5): what they are called, and which a resource must have.
//!
//! The table in `r4/elements.json` has each element as the definitions name it; `min` is there where it is mandatory, the
//! types where it is a choice. In JSON a choice has another name for each of its types: `value[x]` is `valueQuantity`,
//! `valueString`, …

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::resource_type::ResourceType;

static ELEMENTS: LazyLock<BTreeMap<ResourceType, Elements>> = LazyLock::new(|| {
    let table: BTreeMap<&'static str, BTreeMap<&'static str, Definition<'static>>> =
        serde_json::from_str(include_str!("r4/elements.json")).unwrap_or_default();
    let compiled = |(name, elements): (_, BTreeMap<_, _>)| {
        Some((ResourceType::parse(name)?, Elements(elements.into_iter().map(Element::new).collect())))
    };
    table.into_iter().filter_map(compiled).collect()
});

static NONE: Elements = Elements(Vec::new());

#[derive(Deserialize)]
struct Definition<'a> {
    #[serde(default)]
    min: u8,
    #[serde(borrow, default)]
    types: Vec<&'a str>,
}

/// The root elements of a type, in order of name.
#[derive(Debug)]
pub(crate) struct Elements(Vec<Element>);

#[derive(Debug)]
struct Element {
    /// As the definitions name it: `value[x]`.
    name: &'static str,
    is_mandatory: bool,
    /// What it is called in JSON: a choice has several names.
    members: Vec<String>,
}

/// The root elements of this type.
pub(crate) fn of(resource_type: ResourceType) -> &'static Elements {
    ELEMENTS.get(&resource_type).unwrap_or(&NONE)
}

impl Elements {
    /// The names in JSON of the element that a client calls so, if there is one. A choice is called by its name, with or
    /// without `[x]`, or by that of one of its types, which means that one only.
    pub(crate) fn members(&self, name: &str) -> Option<&[String]> {
        self.0.iter().find_map(|element| element.members(name))
    }

    /// The names in JSON of what every resource of the type must have.
    pub(crate) fn mandatory(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|element| element.is_mandatory).flat_map(|element| &element.members).map(String::as_str)
    }

    /// All elements, as the definitions name them.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|element| element.name)
    }
}

impl Element {
    fn new((name, Definition { min, types }): (&'static str, Definition<'static>)) -> Self {
        let members = match name.strip_suffix("[x]") {
            Some(stem) => types.iter().map(|choice| format!("{stem}{}", capitalized(choice))).collect(),
            None => vec![name.to_owned()],
        };
        Self { name, is_mandatory: min > 0, members }
    }

    fn members(&self, name: &str) -> Option<&[String]> {
        if self.name == name || self.name.strip_suffix("[x]") == Some(name) {
            return Some(&self.members);
        }
        self.members.iter().find(|member| *member == name).map(std::slice::from_ref)
    }
}

/// `dateTime` as it stands in `valueDateTime`. Names of types are ASCII.
fn capitalized(name: &str) -> String {
    let mut name = name.to_owned();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_type(name: &str) -> &'static Elements {
        of(ResourceType::parse(name).unwrap())
    }

    #[test]
    fn the_table_of_r4_is_complete() {
        assert_eq!(ELEMENTS.len(), 146);
        let all = || ELEMENTS.values().flat_map(|elements| &elements.0);
        assert_eq!(all().count(), 3620);
        assert_eq!(all().filter(|element| element.is_mandatory).count(), 305);
        assert_eq!(all().filter(|element| element.name.ends_with("[x]")).count(), 61);
        assert!(all().all(|element| !element.members.is_empty()));
    }

    // G5
    #[test]
    fn a_choice_is_called_by_its_name_or_by_one_of_its_types() {
        let observation = of_type("Observation");
        assert_eq!(observation.members("value").unwrap().len(), 11);
        assert_eq!(observation.members("value[x]"), observation.members("value"));
        assert_eq!(observation.members("valueDateTime").unwrap(), ["valueDateTime"]);
        assert_eq!(observation.members("subject").unwrap(), ["subject"]);
        for unknown in ["valueAddress", "val", "subject[x]", "Subject", "", "birthDate"] {
            assert_eq!(observation.members(unknown), None, "{unknown}");
        }
    }

    // G5
    #[test]
    fn a_choice_that_is_mandatory_is_so_in_all_its_types() {
        let mandatory: Vec<_> = of_type("MedicationRequest").mandatory().collect();
        assert_eq!(mandatory, ["intent", "medicationCodeableConcept", "medicationReference", "status", "subject"]);
        assert_eq!(of_type("Patient").mandatory().count(), 0);
    }
}
