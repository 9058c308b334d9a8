//! The members of a Group as of an instant (rule H7): Patients, its own and those of the Groups that are its members.
//! Inactive members, and those whose period does not have that instant in it, are none; nor is what is no Patient.

use std::collections::BTreeSet;

use serde::Deserialize;
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::fhir::period::Period;
use crate::fhir::reference::{self, PatientBases};
use crate::fhir::resource_type::ResourceType;

/// Why its members cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the Group {0} is not there any more")]
    Gone(String),
    /// To leave a member out would be worse than to say so.
    #[error("the members of the Group {0} are not as FHIR has them")]
    Unreadable(String),
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    member: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    entity: Option<Entity>,
    #[serde(default)]
    inactive: bool,
    #[serde(default)]
    period: Period,
}

#[derive(Deserialize)]
struct Entity {
    reference: Option<String>,
}

/// A Group as it was.
struct Group {
    id: String,
    /// The Patients it refers to as members, by the rules that hold for any reference.
    patients: Vec<String>,
    body: String,
}

/// The ids of the Patients that are members of this Group. A Group among its members that is not there has none; one
/// that is met again, also by way of itself, adds nothing.
pub(crate) async fn members(
    connection: &mut PgConnection,
    id: &str,
    at: OffsetDateTime,
) -> Result<BTreeSet<String>, Error> {
    let mut members = BTreeSet::new();
    let mut met = BTreeSet::from([id.to_owned()]);
    let mut next = vec![id.to_owned()];
    while !next.is_empty() {
        let groups = as_of(connection, &next, at).await?;
        if met.len() == 1 && groups.is_empty() {
            return Err(Error::Gone(id.to_owned()));
        }
        next.clear();
        for group in groups {
            for reference in group.references(at)? {
                if let Some(patient) = reference::patient_id(&reference, &PatientBases::default()) {
                    if group.has_patient(patient) {
                        members.insert(patient.to_owned());
                    }
                } else if let Some(nested) = reference::relative_id(&reference, ResourceType::GROUP)
                    && met.insert(nested.to_owned())
                {
                    next.push(nested.to_owned());
                }
            }
        }
    }
    Ok(members)
}

impl Group {
    /// What its members at that instant refer to.
    fn references(&self, at: OffsetDateTime) -> Result<impl Iterator<Item = String>, Error> {
        let body: Body = serde_json::from_str(&self.body).map_err(|_| Error::Unreadable(self.id.clone()))?;
        let members = body.member.into_iter().filter(move |member| !member.inactive && member.period.contains(at));
        Ok(members.filter_map(|member| member.entity?.reference))
    }

    /// Whether the reference it was found in points at one of our Patients: that was decided when it was written.
    fn has_patient(&self, id: &str) -> bool {
        self.patients.binary_search_by(|patient| patient.as_str().cmp(id)).is_ok()
    }
}

async fn as_of(connection: &mut PgConnection, ids: &[String], at: OffsetDateTime) -> Result<Vec<Group>, sqlx::Error> {
    sqlx::query_as!(
        Group,
        r#"-- resource.group.as_of
        select id, patients, body as "body!" from resource
        where resource_type = 'Group' and id = any($1) and last_updated <= $2 and not deleted
            -- Two conditions, for there is an index for each.
            and (superseded_at = 'infinity' or (superseded_at > $2 and superseded_at < 'infinity'))"#,
        ids,
        at
    )
    .fetch_all(connection)
    .await
}
