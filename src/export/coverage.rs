//! The last look before a job is completed: do its parts cover what was planned, and do its files hold what its parts
//! say? That they do follows from how they are made; a completed export that misses something is the one thing that
//! must never be, so it is not left to reasoning.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::part::Stage;
use super::request::ExportRequest;
use crate::binary;
use crate::fhir::resource_type::ResourceType;
use crate::resource::sample::ALL_KEYS;

/// A part that is done.
#[derive(Debug, Clone)]
struct Done {
    ordinal: i32,
    stage: String,
    resource_types: Vec<String>,
    key_from: i64,
    key_to: i64,
    resources: i64,
}

/// What is wrong, if anything is. All parts of the job are to be done, and its row to be locked.
pub(super) async fn gap(connection: &mut PgConnection, job: Uuid) -> Result<Option<String>, sqlx::Error> {
    let planned = sqlx::query!(
        r#"-- export.coverage.planned
        select planned_types, request as "request: Json<ExportRequest>" from export_job where id = $1"#,
        job
    )
    .fetch_one(&mut *connection)
    .await?;
    let parts = sqlx::query_as!(
        Done,
        "-- export.coverage.parts
        select ordinal, stage, resource_types, key_from, key_to, resources from export_part
        where job_id = $1 and stage <> 'outcome'",
        job
    )
    .fetch_all(&mut *connection)
    .await?;
    let stored = binary::resources_by_part(connection, job).await?;
    // A job that was planned by a version without this check has no such list.
    let planned = stages(planned.planned_types.unwrap_or_default(), &planned.request);
    Ok(keys_gap(&planned, &parts).or_else(|| resources_gap(&parts, &stored)))
}

/// The stages of each planned type.
fn stages(planned_types: Vec<String>, request: &ExportRequest) -> Vec<(&'static [Stage], Vec<String>)> {
    if planned_types.is_empty() {
        return Vec::new();
    }
    let is_of = |types: &BTreeSet<ResourceType>, name: &String| types.iter().any(|listed| listed.as_str() == name);
    let (referenced, types): (Vec<_>, Vec<_>) =
        planned_types.into_iter().partition(|name| is_of(&request.referenced, name));
    let (associated, output): (Vec<_>, Vec<_>) =
        types.iter().cloned().partition(|name| is_of(&request.associated_later(), name));
    let searched = request.searched().iter().map(ToString::to_string).collect();
    let is_told = |name: &String| ResourceType::parse(name).is_none_or(|of| request.is_told_of_deletions(of));
    let deleted = types.into_iter().filter(|name| request.since.is_some() && is_told(name)).collect();
    vec![
        (&[Stage::Search], searched),
        (&[Stage::Output], output),
        (&[Stage::Deleted], deleted),
        (&[Stage::Associated], associated),
        (&[Stage::Referenced], referenced),
    ]
}

/// Every planned type in every of its stages, and every type of a part, has all keys, each once.
fn keys_gap(planned: &[(&[Stage], Vec<String>)], parts: &[Done]) -> Option<String> {
    let mut ranges: BTreeMap<(&str, &str), Vec<Range<i64>>> = BTreeMap::new();
    for (stages, types) in planned {
        for stage in *stages {
            ranges.extend(types.iter().map(|resource_type| ((stage.as_str(), resource_type.as_str()), Vec::new())));
        }
    }
    for part in parts {
        for resource_type in &part.resource_types {
            ranges.entry((&part.stage, resource_type)).or_default().push(part.key_from..part.key_to);
        }
    }
    ranges.into_iter().find_map(|((stage, resource_type), ranges)| {
        (!is_all_keys(ranges)).then(|| format!("the parts do not cover {resource_type} ({stage}) exactly once"))
    })
}

fn is_all_keys(mut ranges: Vec<Range<i64>>) -> bool {
    ranges.sort_by_key(|range| (range.start, range.end));
    let end = ranges.iter().try_fold(ALL_KEYS.start, |end, range| (range.start == end).then_some(range.end));
    end == Some(ALL_KEYS.end)
}

/// The files of every part hold as many resources as it has put out.
fn resources_gap(parts: &[Done], stored: &BTreeMap<(i32, String), i64>) -> Option<String> {
    parts.iter().find_map(|part| {
        let kind = Stage::from(part.stage.as_str()).kind().as_str().to_owned();
        let found = stored.get(&(part.ordinal, kind)).copied().unwrap_or_default();
        let Done { ordinal, resources, .. } = part;
        (found != *resources).then(|| format!("part {ordinal} put out {resources} resources, its files hold {found}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(ordinal: i32, types: &[&str], keys: Range<i64>) -> Done {
        Done {
            ordinal,
            stage: "output".to_owned(),
            resource_types: types.iter().map(|name| (*name).to_owned()).collect(),
            key_from: keys.start,
            key_to: keys.end,
            resources: 3,
        }
    }

    proptest! {
        #[test]
        fn any_change_to_a_plan_is_found(
            mut cuts in proptest::collection::btree_set(1i64..1000, 0..6),
            which in any::<prop::sample::Index>(),
            change in 0..4,
        ) {
            cuts.insert(i64::MAX);
            let mut from = 0;
            let mut parts: Vec<Done> = Vec::new();
            for (ordinal, to) in (0..).zip(cuts) {
                parts.push(part(ordinal, &["Task"], from..to));
                from = to;
            }
            let planned: [(&[Stage], _); 1] = [(&[Stage::Output], vec!["Task".to_owned()])];
            prop_assert_eq!(keys_gap(&planned, &parts), None);
            let which = which.index(parts.len());
            match change {
                0 => drop(parts.remove(which)),
                1 => parts.push(parts[which].clone()),
                2 => parts[which].key_from += 1,
                _ => parts[which].key_to -= 1,
            }
            prop_assert!(keys_gap(&planned, &parts).is_some());
        }
    }

    #[test]
    fn a_planned_type_without_a_part_is_found() {
        let parts = [part(0, &["Task"], ALL_KEYS)];
        let gap = |stages: &[Stage], types: &[&str]| {
            keys_gap(&[(stages, types.iter().map(|name| (*name).to_owned()).collect())], &parts).unwrap()
        };
        let both = gap(&[Stage::Output], &["Device", "Task"]);
        assert_eq!(both, "the parts do not cover Device (output) exactly once");
        let deleted = gap(&[Stage::Output, Stage::Deleted], &["Task"]);
        assert_eq!(deleted, "the parts do not cover Task (deleted) exactly once");
        let referenced = gap(&[Stage::Referenced], &["Device"]);
        assert_eq!(referenced, "the parts do not cover Device (referenced) exactly once");
    }

    #[test]
    fn a_file_that_is_missing_is_found() {
        let parts = [part(0, &["Task"], ALL_KEYS)];
        let stored = |resources| BTreeMap::from([((0, "output".to_owned()), resources)]);
        assert_eq!(resources_gap(&parts, &stored(3)), None);
        assert_eq!(resources_gap(&parts, &stored(2)).unwrap(), "part 0 put out 3 resources, its files hold 2");
        assert!(resources_gap(&parts, &BTreeMap::new()).is_some());
        let referenced = [Done { stage: "referenced".to_owned(), ..parts[0].clone() }];
        assert_eq!(resources_gap(&referenced, &stored(3)), None);
    }
}
