//! The patients an export is limited to: the one, those listed, or the members of the Group, as of an instant
//! (rules G6, H7, H11).

use std::collections::BTreeSet;

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::level::Level;
use super::request::ExportRequest;
use crate::fhir::reference::PatientBases;
use crate::fhir::resource_type::ResourceType;
pub(crate) use crate::resource::clock::present;
use crate::resource::group;
pub(crate) use crate::resource::group::Error as NotChosen;
use crate::resource::read::unknown;

/// Of the Patients that are not chosen so many are named.
const NAMED: usize = 20;

/// Whom a request is about.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    /// Ids of Patients.
    pub(crate) patients: BTreeSet<String>,
    /// Those among them who were no members at `_since`, and come with their whole history (rule H9).
    pub(crate) new: BTreeSet<String>,
    /// Listed, but not there.
    unknown: BTreeSet<String>,
    /// Listed, but not among those of the level.
    outside: BTreeSet<String>,
}

impl Chosen {
    /// Those of a request that is limited to some, by their state at an instant.
    pub(crate) async fn at(
        connection: &mut PgConnection,
        request: &ExportRequest,
        at: OffsetDateTime,
        bases: &PatientBases,
    ) -> Result<Option<Self>, NotChosen> {
        let of_level = match &request.level {
            Level::System => return Ok(None),
            Level::Patients if request.patients.is_empty() => return Ok(None),
            Level::Patients => None,
            Level::Patient(id) => Some(BTreeSet::from([id.clone()])),
            Level::Group(id) => Some(group::members(connection, id, at, bases).await?),
        };
        let listed: Vec<&str> = request.patients.iter().map(String::as_str).collect();
        let unknown = unknown(&mut *connection, ResourceType::PATIENT, &listed, at).await?;
        let mut chosen = Self::among(of_level, &request.patients, unknown.into_iter().collect());
        if let (Level::Group(id), Some(since), true) = (&request.level, request.since, request.new_members_full_history)
        {
            chosen.new = &chosen.patients - &members_before(connection, id, since, bases).await?;
        }
        Ok(Some(chosen))
    }

    fn among(of_level: Option<BTreeSet<String>>, listed: &BTreeSet<String>, unknown: BTreeSet<String>) -> Self {
        let Some(of_level) = of_level else {
            return Self { patients: listed - &unknown, unknown, ..Self::default() };
        };
        if listed.is_empty() {
            return Self { patients: of_level, unknown, ..Self::default() };
        }
        let known = listed - &unknown;
        Self { patients: &known & &of_level, outside: &known - &of_level, unknown, ..Self::default() }
    }

    /// Those listed that are not there, in words.
    pub(crate) fn unknown(&self) -> Option<String> {
        (!self.unknown.is_empty()).then(|| format!("patient: there is no {}.", named(&self.unknown)))
    }

    /// Those listed that are not among those of the level, in words.
    pub(crate) fn outside(&self) -> Option<String> {
        (!self.outside.is_empty())
            .then(|| format!("patient: {} is not among those exported here.", named(&self.outside)))
    }
}

/// Whoever cannot be shown to have been a member is taken for a new one: a Group that was not there, or whose version of
/// that time is pruned or unreadable, had none.
async fn members_before(
    connection: &mut PgConnection,
    id: &str,
    since: OffsetDateTime,
    bases: &PatientBases,
) -> Result<BTreeSet<String>, sqlx::Error> {
    match group::members(connection, id, since, bases).await {
        Ok(members) => Ok(members),
        Err(NotChosen::Gone(_) | NotChosen::Unreadable(_)) => Ok(BTreeSet::new()),
        Err(NotChosen::Database(error)) => Err(error),
    }
}

fn named(ids: &BTreeSet<String>) -> String {
    let mut named = ids.iter().take(NAMED).map(|id| format!("Patient/{id}")).collect::<Vec<_>>().join(", ");
    if ids.len() > NAMED {
        named.push_str(", …");
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &str) -> BTreeSet<String> {
        ids.split_whitespace().map(str::to_owned).collect()
    }

    // G6, H11
    #[test]
    fn a_list_limits_the_level_and_never_widens_it() {
        let among = |level: Option<&str>, listed, unknown| {
            let chosen = Chosen::among(level.map(set), &set(listed), set(unknown));
            [chosen.patients, chosen.unknown, chosen.outside]
        };
        assert_eq!(among(Some("a b"), "", ""), [set("a b"), set(""), set("")]);
        assert_eq!(among(Some("a b"), "b c d", "d"), [set("b"), set("d"), set("c")]);
        assert_eq!(among(Some("a"), "b", ""), [set(""), set(""), set("b")]);
        assert_eq!(among(None, "b c", "c"), [set("b"), set("c"), set("")]);
    }
}
