//! The fuzz target of what is loaded.

#![expect(clippy::expect_used, reason = "what does not hold ends the run")]

use time::macros::datetime;

use super::{Rules, bundle};
use crate::fhir::reference::{PatientBases, is_id};
use crate::resource::body::{Resource, Subset};
use crate::resource::write::Change;

/// A line of NDJSON, or a document.
pub fn load(data: &[u8]) {
    const MAX_RESOURCE: usize = 2_048;
    let bases = PatientBases::default();
    let rules = Rules { bases: bases.clone(), max_resource: MAX_RESOURCE, max_document: usize::MAX };
    for change in bundle::changes(data, &rules).changes {
        assert!(is_id(change.id()));
        let Change::Put(resource) = change else { continue };
        let body = resource.body(7, datetime!(2026-01-01 0:00 UTC));
        assert!(body.len() <= MAX_RESOURCE + 200 && !body.contains('\n'));
        let again = Resource::parse(body.as_bytes(), &bases).expect("what was loaded can be loaded again");
        assert!(again == resource && again.body(7, datetime!(2026-01-01 0:00 UTC)) == body);
        assert!(resource.patients().iter().all(|patient| resource.mentions().contains(patient)));
        let cut = Subset::of(["name", "subject"].into_iter()).cut(&body).concat();
        assert!(Resource::parse(cut.as_bytes(), &bases).is_ok(), "{cut}");
    }
}
