//! The resource types of FHIR R4, as one interned name each.

use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// All R4 type names, sorted; from the official definitions.
static NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let mut names: Vec<&'static str> = serde_json::from_str(include_str!("r4/resource-types.json")).unwrap_or_default();
    names.sort_unstable();
    names
});

/// The name of an R4 resource type; no other name can be held.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceType(&'static str);

impl ResourceType {
    /// `Patient`.
    pub const PATIENT: Self = Self("Patient");
    /// `Provenance`.
    pub const PROVENANCE: Self = Self("Provenance");
    /// `Group`.
    pub const GROUP: Self = Self("Group");

    /// The type of exactly this (case-sensitive) name, if R4 has it.
    pub fn parse(name: &str) -> Option<Self> {
        let index = NAMES.binary_search(&name).ok()?;
        NAMES.get(index).map(|name| Self(name))
    }

    /// Every type the store holds and an export may contain: all of R4 but Binary (rule B20), in order of name.
    pub fn exportable() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|name| Self(name)).filter(|t| t.is_exportable())
    }

    /// Whether an export may contain this type: Binary may not (rule B20), so that no job exports its own output.
    pub fn is_exportable(self) -> bool {
        self.0 != "Binary"
    }

    /// The name as FHIR writes it.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Serialize for ResourceType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for ResourceType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&name).ok_or_else(|| serde::de::Error::custom(format!("`{name}` is no R4 resource type")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r4_has_146_types_and_binary_is_not_exported() {
        assert_eq!(NAMES.len(), 146);
        assert_eq!(ResourceType::exportable().count(), 145);
        assert!(ResourceType::parse("patient").is_none());
        assert_eq!(ResourceType::parse("Patient"), Some(ResourceType::PATIENT));
    }
}
