//! Whose data an export is about (rules B1, H1, H11): its level, and the patients it is limited to.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::fhir::compartment;
use crate::fhir::resource_type::ResourceType;
use crate::resource::read::unknown;

/// Where the operation was called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Everything there is.
    #[default]
    System,
    /// What belongs to any patient.
    Patients,
    /// What belongs to the Patient of this id.
    Patient(String),
    /// What belongs to the members of the Group of this id.
    Group(String),
}

impl Level {
    /// The level of a kick-off at this path below the base, if it is one.
    pub(crate) fn at(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match segments.as_slice() {
            ["$export"] => Some(Self::System),
            ["Patient", "$export"] => Some(Self::Patients),
            ["Patient", id, "$export"] => Some(Self::Patient((*id).to_owned())),
            ["Group", id, "$export"] => Some(Self::Group((*id).to_owned())),
            _ => None,
        }
    }

    /// The path below the base.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::System => "$export".to_owned(),
            Self::Patients => "Patient/$export".to_owned(),
            Self::Patient(id) => format!("Patient/{id}/$export"),
            Self::Group(id) => format!("Group/{id}/$export"),
        }
    }

    /// The Patient or Group it is about, if there is none such at an instant.
    pub(crate) async fn missing(
        &self,
        connection: &mut PgConnection,
        at: OffsetDateTime,
    ) -> Result<Option<String>, sqlx::Error> {
        let (resource_type, id) = match self {
            Self::System | Self::Patients => return Ok(None),
            Self::Patient(id) => (ResourceType::PATIENT, id.as_str()),
            Self::Group(id) => (ResourceType::GROUP, id.as_str()),
        };
        let unknown = unknown(connection, resource_type, &[id], at).await?;
        Ok(unknown.first().map(|id| format!("{resource_type}/{id}")))
    }

    /// Whether resources of this type can be among it.
    pub(crate) fn includes(&self, resource_type: ResourceType) -> bool {
        *self == Self::System || compartment::paths(resource_type).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_path() {
        for path in ["$export", "Patient/$export", "Patient/a-1/$export", "Group/g/$export"] {
            assert_eq!(Level::at(&format!("/{path}")).unwrap().path(), path);
        }
        for path in ["/", "/Group/$export", "/Device/d/$export", "/Patient/a/b/$export"] {
            assert_eq!(Level::at(path), None, "{path}");
        }
    }

    // H4
    #[test]
    fn the_compartment_limits_the_types() {
        let task = ResourceType::parse("Task").unwrap();
        assert!(Level::System.includes(task) && !Level::Patients.includes(task));
        assert!(Level::Patients.includes(ResourceType::PATIENT));
    }
}
