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

/// The ids of the Patients that are members of this Group. A Group among its members that is not there has none; one
/// that is met again, also by way of itself, adds nothing.
pub(crate) async fn members(
    connection: &mut PgConnection,
    id: &str,
    at: OffsetDateTime,
    bases: &PatientBases,
) -> Result<BTreeSet<String>, Error> {
    let mut members = BTreeSet::new();
    let mut met = BTreeSet::from([id.to_owned()]);
    let mut next = vec![id.to_owned()];
    // One at a time: a Group may be large.
    while let Some(group) = next.pop() {
        let Some(body) = as_of(connection, &group, at).await? else {
            if group == id {
                return Err(Error::Gone(group));
            }
            continue;
        };
        for reference in references(&body, at).map_err(|_| Error::Unreadable(group))? {
            if let Some(patient) = reference::patient_id(&reference, bases) {
                members.insert(patient.to_owned());
            } else if let Some(nested) = reference::relative_id(&reference, ResourceType::GROUP)
                && met.insert(nested.to_owned())
            {
                next.push(nested.to_owned());
            }
        }
    }
    Ok(members)
}

/// What its members at that instant refer to.
fn references(body: &str, at: OffsetDateTime) -> Result<impl Iterator<Item = String>, serde_json::Error> {
    let body: Body = serde_json::from_str(body)?;
    let members = body.member.into_iter().filter(move |member| !member.inactive && member.period.contains(at));
    Ok(members.filter_map(|member| member.entity?.reference))
}

async fn as_of(connection: &mut PgConnection, id: &str, at: OffsetDateTime) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- resource.group.as_of
        select body as "body!" from resource
        where resource_type = 'Group' and id = $1 and last_updated <= $2 and not deleted
            -- Two conditions, for there is an index for each.
            and (superseded_at = 'infinity' or (superseded_at > $2 and superseded_at < 'infinity'))"#,
        id,
        at
    )
    .fetch_optional(connection)
    .await
}
