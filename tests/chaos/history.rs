//! The independent reference: every version the store holds, read once the run is over, and the state at any instant,
//! computed from the dates of the versions alone. Nothing of the code under test is used, and `superseded_at`, by which
//! the server reads, is only compared.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures_util::TryStreamExt;
use sqlx::{PgPool, Row};
use time::OffsetDateTime;

use crate::export::{Asked, Export, brief};
use crate::filter::{State, let_through, provenances_about};
use crate::findings::Findings;

/// One version; a deletion has no text.
pub struct Version {
    number: i64,
    at: OffsetDateTime,
    text: Option<Arc<str>>,
}

/// `Type/id`, split.
pub type Name = (String, String);

pub struct History {
    resources: BTreeMap<Name, Vec<Version>>,
    /// Whose a text is.
    names: HashMap<Arc<str>, Name>,
}

impl History {
    pub async fn read(pool: &PgPool, findings: &Findings) -> Self {
        let mut history = Self { resources: BTreeMap::new(), names: HashMap::new() };
        let mut rows = sqlx::query(
            "select resource_type, id, version_id, last_updated, deleted, body from resource
            order by resource_type, id, version_id",
        )
        .fetch(pool);
        while let Some(row) = rows.try_next().await.unwrap() {
            let name: Name = (row.get(0), row.get(1));
            let text = row.get::<Option<&str>, _>(5).map(|body| findings.line(body));
            if text.is_none() != row.get::<bool, _>(4) {
                findings.violation(format!("a version of {name:?} without a body is no deletion, or one with it is"));
            }
            if let Some(text) = &text {
                history.names.insert(Arc::clone(text), name.clone());
            }
            let version = Version { number: row.get(2), at: row.get(3), text };
            history.resources.entry(name).or_default().push(version);
        }
        history.check_versions(findings);
        history
    }

    /// Versions are numbered without a gap, and each is dated after the one before.
    fn check_versions(&self, findings: &Findings) {
        for (name, versions) in &self.resources {
            let is_next = |pair: &[Version]| pair[1].number == pair[0].number + 1 && pair[1].at > pair[0].at;
            if versions[0].number != 1 || !versions.windows(2).all(is_next) {
                let told: Vec<_> = versions.iter().map(|version| (version.number, version.at)).collect();
                findings.violation(format!("the versions of {name:?} do not follow each other: {told:?}"));
            }
        }
    }

    pub fn versions(&self) -> usize {
        self.resources.values().map(Vec::len).sum()
    }

    /// What is the latest of each resource at this instant, deletions included.
    fn at(&self, instant: OffsetDateTime) -> impl Iterator<Item = (&Name, &Version)> {
        self.resources.iter().filter_map(move |(name, versions)| {
            let until = versions.partition_point(|version| version.at <= instant);
            Some((name, versions.get(until.checked_sub(1)?)?))
        })
    }

    /// The state of these types at an instant, by name; of all types where none is named.
    fn state(&self, instant: OffsetDateTime, types: &[String]) -> State<'_> {
        self.at(instant)
            .filter(|(name, _)| types.is_empty() || types.contains(&name.0))
            .filter_map(|(name, version)| Some((name, version.text.as_ref()?)))
            .collect()
    }

    /// Whether the export is exactly what was asked for; says what differs.
    pub fn check(&self, export: &Export, findings: &Findings) {
        let Asked { types, since, filters, with_provenance } = &export.asked;
        let since = since.as_ref().map(|since| parse(since));
        let state = self.state(export.transaction_time, &[]);
        let is_let_through = let_through(filters, &state);
        let is_wanted = |(name, version): &(&Name, &Version)| {
            (types.is_empty() || types.contains(&name.0))
                && !(*with_provenance && name.0 == "Provenance")
                && since.is_none_or(|since| version.at > since)
        };
        let (mut output, mut names, mut deleted) = (Vec::new(), HashSet::new(), Vec::new());
        for (name, version) in self.at(export.transaction_time).filter(is_wanted) {
            match &version.text {
                Some(text) if is_let_through(name) => {
                    output.push(text.as_ref());
                    names.insert(format!("{}/{}", name.0, name.1));
                }
                None if since.is_some() => deleted.push(format!("{}/{}", name.0, name.1)),
                _ => {}
            }
        }
        if *with_provenance {
            output.extend(provenances_about(&names, &state).into_iter().map(AsRef::as_ref));
        }
        let found: Vec<&str> = export.output.iter().map(AsRef::as_ref).collect();
        let deletions: Vec<&str> = export.deleted.iter().map(String::as_str).collect();
        let expected: Vec<&str> = deleted.iter().map(String::as_str).collect();
        for (list, differences) in
            [("output", differences(found, output)), ("deleted", differences(deletions, expected))]
        {
            if let Some(differences) = differences {
                let Export { job, asked, transaction_time, .. } = export;
                findings.violation(format!(
                    "job {job} ({asked:?}) is not the state at {transaction_time}, in {list}: {differences}"
                ));
            }
        }
    }

    /// Replays a chain of `_since` into a map, which is the store after every link.
    pub fn replay(&self, chain: &[&Export], findings: &Findings) {
        let mut copy: BTreeMap<&Name, &Arc<str>> = BTreeMap::new();
        for export in chain {
            let deleted: HashSet<Name> = export
                .deleted
                .iter()
                .filter_map(|name| name.split_once('/'))
                .map(|(type_name, id)| (type_name.to_owned(), id.to_owned()))
                .collect();
            copy.retain(|name, _| !deleted.contains(name));
            // A line that is nobody's has been told of already.
            copy.extend(export.output.iter().filter_map(|line| Some((self.names.get(line)?, line))));
            let state = self.state(export.transaction_time, &export.asked.types);
            if copy != state {
                let wrong = copy.iter().filter(|(name, line)| state.get(*name) != Some(line)).count();
                let missing = state.keys().filter(|name| !copy.contains_key(*name)).count();
                let (link, job) = (export.link, &export.job);
                findings.violation(format!(
                    "the chain of _since is not the store after link {link:?} (job {job}): {wrong} wrong, {missing} missing"
                ));
            }
        }
    }
}

fn parse(instant: &str) -> OffsetDateTime {
    OffsetDateTime::parse(instant, &time::format_description::well_known::Rfc3339).unwrap()
}

/// What one list has more or less often than the other; none if they hold the same.
fn differences(mut found: Vec<&str>, mut expected: Vec<&str>) -> Option<String> {
    found.sort_unstable();
    expected.sort_unstable();
    if found == expected {
        return None;
    }
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for line in &found {
        *counts.entry(line).or_default() += 1;
    }
    for line in &expected {
        *counts.entry(line).or_default() -= 1;
    }
    let told = |sign: &str, lines: Vec<(&&str, &i64)>| {
        let first: String =
            lines.iter().take(5).map(|(line, by)| format!("\n      {sign}{by} {}", brief(line))).collect();
        format!("{} lines {first}", lines.len())
    };
    let (more, less): (Vec<_>, Vec<_>) = counts.iter().filter(|(_, by)| **by != 0).partition(|(_, by)| **by > 0);
    Some(format!("too much: {}\n    missing: {}", told("+", more), told("", less)))
}
