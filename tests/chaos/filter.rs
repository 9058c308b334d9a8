//! Filters that clients export with, each beside what it means: plain code over the state at an instant, which shares
//! nothing with the server's.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use crate::history::Name;

/// What is there at an instant, by name.
pub type State<'a> = BTreeMap<&'a Name, &'a Arc<str>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Observations that are final.
    Plain,
    /// Observations of women.
    Chain,
    /// Patients of whom there is an Observation that is final.
    Has,
}

impl Filter {
    pub const ALL: [Self; 3] = [Self::Plain, Self::Chain, Self::Has];

    pub fn query(self) -> &'static str {
        match self {
            Self::Plain => "Observation?status=final",
            Self::Chain => "Observation?subject:Patient.gender=female",
            Self::Has => "Patient?_has:Observation:subject:status=final",
        }
    }

    fn of_type(self) -> &'static str {
        match self {
            Self::Plain | Self::Chain => "Observation",
            Self::Has => "Patient",
        }
    }

    /// The names, `Type/id`, of what it admits.
    fn admitted(self, state: &State) -> HashSet<String> {
        let observations = || resources(state, "Observation");
        let is_final = |observation: &Value| observation["status"] == "final";
        match self {
            Self::Plain => observations().filter(|(_, it)| is_final(it)).map(|(name, _)| name).collect(),
            Self::Chain => {
                let is_woman = |(_, patient): &(String, Value)| patient["gender"] == "female";
                let women: HashSet<String> =
                    resources(state, "Patient").filter(is_woman).map(|(name, _)| name).collect();
                observations().filter(|(_, it)| women.contains(&subject(it))).map(|(name, _)| name).collect()
            }
            Self::Has => observations().filter(|(_, it)| is_final(it)).map(|(_, it)| subject(&it)).collect(),
        }
    }
}

/// What these filters let through: of a type that has some, what one of them admits; of others, all.
pub fn let_through(filters: &[Filter], state: &State) -> impl Fn(&Name) -> bool {
    let types: HashSet<&str> = filters.iter().map(|filter| filter.of_type()).collect();
    let admitted: HashSet<String> = filters.iter().flat_map(|filter| filter.admitted(state)).collect();
    move |(type_name, id)| !types.contains(type_name.as_str()) || admitted.contains(&format!("{type_name}/{id}"))
}

/// The Provenances that are about one of these, `Type/id`.
pub fn provenances_about<'a>(names: &HashSet<String>, state: &State<'a>) -> Vec<&'a Arc<str>> {
    let is_about = |text: &str| {
        let provenance: Value = serde_json::from_str(text).unwrap();
        names.contains(provenance["target"][0]["reference"].as_str().unwrap())
    };
    let provenances = state.iter().filter(|((type_name, _), _)| type_name == "Provenance");
    provenances.map(|(_, text)| *text).filter(|text| is_about(text)).collect()
}

fn resources(state: &State, type_name: &str) -> impl Iterator<Item = (String, Value)> {
    let of_type = state.iter().filter(move |((of, _), _)| of == type_name);
    of_type.map(|((of, id), text)| (format!("{of}/{id}"), serde_json::from_str(text).unwrap()))
}

fn subject(observation: &Value) -> String {
    observation["subject"]["reference"].as_str().unwrap().to_owned()
}
