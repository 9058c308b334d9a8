//! Literal references: what, and which Patient, if any, does `Reference.reference` point at? Rule H6.
//!
//! Fragments (`#x`), `urn:` references, conditional references (`Patient?identifier=..`) and references to other types
//! point at no Patient. A version (`/_history/2`) is still a version of that Patient.

use super::resource_type::ResourceType;

/// The bases under which an absolute URL `<base>/Patient/<id>` means a Patient of this server. None given: every base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatientBases(Vec<String>);

impl From<Vec<String>> for PatientBases {
    /// A slash at the end of a base says nothing and is dropped.
    fn from(bases: Vec<String>) -> Self {
        Self(bases.iter().map(|base| base.trim_end_matches('/').to_owned()).collect())
    }
}

impl PatientBases {
    fn accept(&self, base: &str) -> bool {
        let base = base.trim_end_matches('/');
        is_http_base(base) && (self.0.is_empty() || self.0.iter().any(|ours| ours == base))
    }
}

/// The type and the id of what the literal reference points at, if that is here.
pub(crate) fn target<'a>(reference: &'a str, bases: &PatientBases) -> Option<(&'a str, &'a str)> {
    let (path, id) = without_version(reference)?.rsplit_once('/')?;
    let (ours, resource_type) = match path.rsplit_once('/') {
        Some((base, resource_type)) => (bases.accept(base), resource_type),
        None => (true, path),
    };
    (ours && is_id(id)).then_some((resource_type, id))
}

/// The id of the Patient that the literal reference points at.
pub(crate) fn patient_id<'a>(reference: &'a str, bases: &PatientBases) -> Option<&'a str> {
    target(reference, bases).filter(|(resource_type, _)| *resource_type == "Patient").map(|(_, id)| id)
}

/// The id in the relative literal reference to a resource of this type.
pub(crate) fn relative_id(reference: &str, resource_type: ResourceType) -> Option<&str> {
    let (found, id) = without_version(reference)?.split_once('/')?;
    (found == resource_type.as_str() && is_id(id)).then_some(id)
}

/// Type and id in the literal reference to a resource of this server: relative, or absolute below its base.
pub(crate) fn own<'a>(reference: &'a str, base: &str) -> Option<(ResourceType, &'a str)> {
    let unversioned = without_version(reference)?;
    let relative = match unversioned.strip_prefix(base) {
        Some(below) if !base.is_empty() => below.strip_prefix('/')?,
        _ => unversioned,
    };
    let (resource_type, id) = relative.split_once('/')?;
    Some((ResourceType::parse(resource_type)?, is_id(id).then_some(id)?))
}

/// Whether the text is a FHIR id: 1 to 64 letters, digits, `-` and `.`.
pub(crate) fn is_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}

/// The reference without `/_history/<version>`; nothing if the version is malformed.
pub(crate) fn without_version(reference: &str) -> Option<&str> {
    match reference.rsplit_once("/_history/") {
        Some((unversioned, version)) => is_id(version).then_some(unversioned),
        None => Some(reference),
    }
}

/// `http://host..` or `https://host..`, without a query or a fragment (the `/Patient/1` after it would be part of that).
fn is_http_base(base: &str) -> bool {
    let scheme_and_rest = base.split_once("://");
    scheme_and_rest.is_some_and(|(scheme, rest)| {
        (scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http"))
            && !rest.is_empty()
            && !rest.contains(['?', '#'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_references_are_relative_or_below_the_base() {
        let base = "https://h.example/fhir";
        let own = |reference| own(reference, base).map(|(resource_type, id)| (resource_type.as_str(), id));
        for reference in ["Location/a", "Location/a/_history/3", "https://h.example/fhir/Location/a/_history/3"] {
            assert_eq!(own(reference), Some(("Location", "a")), "{reference}");
        }
        for reference in [
            "https://h.example/fhir2/Location/a",
            "https://h.example/Location/a",
            "http://h.example/fhir/Location/a",
            "https://h.example/fhir/x/Location/a",
            "#a",
            "Location?name=a",
            "Location/a b",
            "Location/",
            "/Location/a",
            "Locations/a",
            "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0",
        ] {
            assert_eq!(own(reference), None, "{reference}");
        }
    }

    fn any(reference: &str) -> Option<&str> {
        patient_id(reference, &PatientBases::default())
    }

    #[test]
    fn relative_versioned_and_absolute_references_point_at_the_patient() {
        for reference in [
            "Patient/a-1.B",
            "Patient/a-1.B/_history/2",
            "https://fhir.example.org/r4/Patient/a-1.B",
            "http://localhost:8080/Patient/a-1.B/_history/7",
            "HTTPS://x/Patient/a-1.B",
        ] {
            assert_eq!(any(reference), Some("a-1.B"), "{reference}");
        }
    }

    #[test]
    fn everything_else_points_at_no_patient() {
        let too_long = format!("Patient/{}", "a".repeat(65));
        for reference in [
            "",
            "/",
            "Patient",
            "Patient/",
            "/Patient/1",
            "Patient/1/",
            "Patient/1 ",
            "Patient/1#x",
            "Patient/a_b",
            "Patient/é",
            too_long.as_str(),
            "Patient/1/_history",
            "Patient/1/_history/",
            "Patient/1/_history/2/_history/3",
            "Patient/_history/2",
            "#x",
            "#Patient/1",
            "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0",
            "urn:oid:1.2.3/Patient/1",
            "Patient?identifier=x|1",
            "https://x/Patient?identifier=Patient/1",
            "https://x/Group?member=/Patient/1",
            "https://x#/Patient/1",
            "Group/1",
            "patient/1",
            "NotPatient/1",
            "x/Patient/1",
            "http://Patient/1",
            "http:///Patient/1",
            "ftp://x/Patient/1",
        ] {
            assert_eq!(any(reference), None, "{reference}");
        }
    }

    #[test]
    fn configured_bases_leave_out_every_other_base_but_not_relative_references() {
        let ours = ["https://a.example/fhir/", "https://b.example"].map(str::to_owned);
        let ours = PatientBases::from(ours.to_vec());
        for reference in [
            "Patient/1",
            "https://a.example/fhir/Patient/1",
            "https://a.example/fhir//Patient/1/_history/1",
            "https://b.example/Patient/1",
        ] {
            assert_eq!(patient_id(reference, &ours), Some("1"), "{reference}");
        }
        for reference in
            ["https://a.example/Patient/1", "https://a.example/fhir/x/Patient/1", "http://b.example/Patient/1"]
        {
            assert_eq!(patient_id(reference, &ours), None, "{reference}");
        }
    }

    #[test]
    fn a_relative_reference_names_its_type() {
        let group = |reference| relative_id(reference, ResourceType::GROUP);
        assert_eq!((group("Group/g"), group("Group/g/_history/2")), (Some("g"), Some("g")));
        for other in ["Patient/g", "https://x/Group/g", "Group/", "Group", "Group/g/h", "#Group/g"] {
            assert_eq!(group(other), None, "{other}");
        }
    }

    #[test]
    fn an_id_has_1_to_64_plain_characters() {
        assert!(is_id("a") && is_id(&"9".repeat(64)) && is_id("A-b.0"));
        assert!(!is_id("") && !is_id(&"9".repeat(65)) && !is_id("a b") && !is_id("ä"));
    }
}
