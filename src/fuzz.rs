//! What fuzzers feed: one function for each target, which takes whatever bytes there are and checks what must hold of what
//! comes of them. Built with `--cfg fuzzing` and for the test below; `fuzz/README.md` says how to run them.

#![expect(clippy::expect_used, reason = "what does not hold ends the run")]

use std::collections::BTreeSet;

use serde::de::IgnoredAny;
use time::macros::datetime;

pub use crate::http::fuzz::{headers, range};
pub use crate::identity::fuzz::{scopes, token};
pub use crate::resource::load::fuzz::load;

use crate::export::level::Level;
use crate::export::request::{ExportRequest, Refused, Terms};
use crate::fhir::parameters::{self, Parameter};
use crate::fhir::reference::{self, PatientBases};
use crate::fhir::resource_type::ResourceType;
use crate::identity::TypeGrant;
use crate::json::scan;
use crate::resource::body::{References, Resource};
use crate::search::{Context, Filters, Judgement, Query, listed};

/// The first byte says where it is called and how it is handled, the rest is the query of the URL.
pub fn kick_off(data: &[u8]) {
    let Some((first, query)) = text_after_a_byte(data) else { return };
    let level = match first % 4 {
        0 => Level::System,
        1 => Level::Patients,
        2 => Level::Patient("p".to_owned()),
        _ => Level::Group("g".to_owned()),
    };
    if let Ok(parameters) = parameters::from_query(query) {
        request(level, &parameters, first & 4 == 0);
    }
}

/// The same as a Parameters resource.
pub fn parameters(data: &[u8]) {
    if let Ok(parameters) = parameters::from_body(data) {
        assert!(parameters.iter().all(|one| !one.name.contains('\0') && !one.value.contains('\0')));
        request(Level::Patients, &parameters, true);
    }
}

fn request(level: Level, parameters: &[Parameter], lenient: bool) {
    let referenced = ["Practitioner", "Location"].into_iter().filter_map(ResourceType::parse).collect();
    let bases = PatientBases::default();
    let terms = Terms { lenient, granted: &TypeGrant::All, referenced: &referenced, bases: &bases };
    match ExportRequest::read(format!("https://h/fhir/{}", level.path()), level, parameters, terms) {
        Ok(request) => {
            assert!(!(request.types.is_empty() && request.referenced.is_empty()), "nothing is asked for");
            assert!(request.remarks.len() <= 102);
            let stored = serde_json::to_string(&request).expect("it can be stored");
            assert!(!has_nul(&stored), "Postgres takes no NUL");
            assert_eq!(serde_json::from_str::<ExportRequest>(&stored).expect("and read again"), request);
        }
        Err(Refused::Invalid(issues)) => {
            assert!((1..=101).contains(&issues.len()));
            assert!(issues.iter().all(|issue| issue.text.len() < 4_000), "what is repeated is short");
        }
        Err(Refused::Forbidden(types)) => assert!(!types.is_empty()),
    }
}

/// A query in the first line, and the members of a resource of its type in the rest.
pub fn type_filter(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (queries, members) = text.split_once('\n').unwrap_or((text, ""));
    let queries: Vec<Query> = listed(queries).into_iter().filter_map(|query| Query::parse(query).ok()).collect();
    let Some(resource_type) = queries.first().map(Query::resource_type) else { return };
    let mut filters = Filters::default();
    filters.queries = queries;
    let stored = serde_json::to_string(&filters).expect("it can be stored");
    assert!(!has_nul(&stored), "Postgres takes no NUL");
    assert_eq!(serde_json::from_str::<Filters>(&stored).expect("and read again"), filters);
    if filters.excess().is_some() {
        return;
    }
    let (bases, at) = (PatientBases::default(), datetime!(2026-01-01 0:00 UTC));
    let comma = if members.is_empty() { "" } else { "," };
    let written = format!(r#"{{"resourceType":"{resource_type}","id":"x"{comma}{members}}}"#);
    let Ok(resource) = Resource::parse(written.as_bytes(), &bases) else { return };
    let body = resource.body(1, at);
    let Some(filter) = filters.of(resource_type) else { return };
    let context = Context { at, bases };
    for known in [None, Some(false), Some(true)] {
        match filter.judge(&body, &context, &|_| known) {
            Judgement::Admitted => {
                let narrowed = filter.narrowed();
                let is_one = |ids: &Option<BTreeSet<String>>, of: &[String]| {
                    ids.as_ref().is_none_or(|ids| of.iter().any(|id| ids.contains(id)))
                };
                assert!(is_one(&narrowed.ids, &["x".to_owned()]), "the index would leave it out by its id");
                assert!(is_one(&narrowed.patients, resource.patients()), "… by its patient");
                assert!(narrowed.from.is_none_or(|from| from <= at), "… by its date");
                assert!(narrowed.before.is_none_or(|before| at < before), "… by its date");
            }
            Judgement::Depends(lookups) => assert!(known.is_none() && !lookups.is_empty()),
            Judgement::LeftOut | Judgement::Unreadable(_) | Judgement::Untold => {}
        }
    }
    for search in filters.searches() {
        let _ = search.finds(&body, &context);
    }
}

/// A literal reference; and a JSON text whose references are found however it is cut.
pub fn references(data: &[u8]) {
    let Some((first, text)) = text_after_a_byte(data) else { return };
    let bases = PatientBases::from(vec!["https://h/fhir".to_owned()]);
    for bases in [&bases, &PatientBases::default()] {
        if let Some((_, id)) = reference::target(text, bases) {
            assert!(reference::is_id(id));
        }
        if let Some(id) = reference::patient_id(text, bases) {
            assert!(reference::is_id(id));
        }
    }
    if let Some((_, id)) = reference::own(text, "https://h/fhir") {
        assert!(reference::is_id(id));
    }
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        return;
    }
    let Some(minified) = scan::minify(text, 256) else { return };
    let found_in = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut references, mut found) = (References::default(), Vec::new());
        for piece in pieces {
            references.read(piece, |reference| found.push(reference.to_owned()));
        }
        found
    };
    let length = usize::from(first) + 1;
    let whole = found_in(&mut std::iter::once(minified.as_bytes()));
    assert_eq!(found_in(&mut minified.as_bytes().chunks(length)), whole, "cut every {length} bytes");
}

/// Written as an escape, and not as what follows an escaped backslash.
fn has_nul(json: &str) -> bool {
    json.replace(r"\\", "").contains(r"\u0000")
}

fn text_after_a_byte(data: &[u8]) -> Option<(u8, &str)> {
    let (first, text) = data.split_first()?;
    Some((*first, std::str::from_utf8(text).ok()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 9] = [
        ("headers", super::headers),
        ("kick_off", super::kick_off),
        ("load", super::load),
        ("parameters", super::parameters),
        ("range", super::range),
        ("references", super::references),
        ("scopes", super::scopes),
        ("token", super::token),
        ("type_filter", super::type_filter),
    ];

    fn feed(folder: &Path, target: Target) {
        let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty(), "{folder:?} is empty");
        for file in files {
            let data = fs::read(&file).unwrap();
            let held = std::panic::catch_unwind(|| target(&data));
            assert!(held.is_ok(), "{file:?}: {:?}", String::from_utf8_lossy(&data));
        }
    }

    #[test]
    fn what_fuzzers_have_found_holds() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        for (name, target) in TARGETS {
            feed(&fuzz.join("seeds").join(name), target);
            let unpacked = tempfile::tempdir().unwrap();
            let packed = fuzz.join("corpora").join(format!("{name}.tar.gz"));
            let tar = Command::new("tar").arg("-xzf").arg(packed).arg("-C").arg(unpacked.path()).status().unwrap();
            assert!(tar.success(), "{name}: {tar}");
            feed(unpacked.path(), target);
        }
    }

    #[test]
    fn every_target_that_is_built_is_fed() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
        let built: BTreeMap<String, String> = fs::read_dir(sources)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap()))
            .collect();
        assert!(built.keys().eq(TARGETS.iter().map(|(name, _)| name)), "{:?}", built.keys());
        for (name, source) in built {
            assert!(source.contains(&format!("fhir_bulk_export::fuzz::{name}(data)")), "{name}: {source}");
        }
    }
}
