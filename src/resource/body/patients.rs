//! The Patients a resource belongs to and refers to, by rules H2 to H6.
//!
//! One walk over the tokens finds every `"reference": "<literal>"`. It follows the compartment paths of the type on its
//! way, so it knows whether the reference stands at the end of one. Contained resources and extensions are on no path:
//! what they refer to is mentioned, but puts the resource into nobody's compartment.

use memchr::{memchr, memmem};

use crate::fhir::compartment::{self, Path};
use crate::fhir::reference::{self, PatientBases};
use crate::fhir::resource_type::ResourceType;
use crate::json::scan::{self, Token, Tokens};

/// Ids of Patients, sorted, each once.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Those in whose compartment the resource is.
    pub(super) compartment: Vec<String>,
    /// Those it refers to at all, and those in whose compartment it is.
    pub(super) mentions: Vec<String>,
    /// Of a Provenance: what it is about, as `Type/id` (rule H10).
    pub(super) targets: Option<Vec<String>>,
}

/// Finds them in a resource taken apart: `meta` and `rest` are minified members without braces.
pub(super) fn find(resource_type: ResourceType, id: &str, meta: &str, rest: &str, bases: &PatientBases) -> Found {
    let targets = (resource_type == ResourceType::PROVENANCE).then(Vec::new);
    let mut found = Found { targets, ..Found::default() };
    if resource_type == ResourceType::PATIENT {
        found.add(id, true);
    }
    found.walk(meta, None, bases);
    found.walk(rest, compartment::paths(resource_type), bases);
    for ids in [&mut found.compartment, &mut found.mentions].into_iter().chain(&mut found.targets) {
        ids.sort_unstable();
        ids.dedup();
    }
    found
}

impl Found {
    fn add(&mut self, id: &str, in_compartment: bool) {
        push_unless_last(&mut self.mentions, id);
        if in_compartment {
            push_unless_last(&mut self.compartment, id);
        }
    }

    fn walk(&mut self, members: &str, root: Option<&'static Path>, bases: &PatientBases) {
        if self.targets.is_none() && !may_name_a_patient(members) {
            return;
        }
        let mut place = Place::at(root);
        for token in Tokens::of(members) {
            if let Some(literal) = place.advance(token)
                && let Some(literal) = scan::decode(literal)
                && let Some((resource_type, id)) = reference::target(&literal, bases)
            {
                if resource_type == ResourceType::PATIENT.as_str() {
                    self.add(id, place.is_reference());
                }
                if let Some(targets) = self.targets.as_mut().filter(|_| place.is_reference()) {
                    targets.push(format!("{resource_type}/{id}"));
                }
            }
        }
    }
}

/// Spares most copies: a resource tends to name one Patient again and again.
fn push_unless_last(ids: &mut Vec<String>, id: &str) {
    if ids.last().is_none_or(|last| last != id) {
        ids.push(id.to_owned());
    }
}

/// Any literal reference to a Patient has `Patient/` in it, unless it is written with escapes.
fn may_name_a_patient(text: &str) -> bool {
    memmem::find(text.as_bytes(), b"Patient/").is_some() || memchr(b'\\', text.as_bytes()).is_some()
}

/// Where the walk is, seen from the compartment paths.
struct Place {
    /// The path at the object or array around the current token, if it is on one.
    here: Option<&'static Path>,
    /// The path at the next value.
    next: Option<&'static Path>,
    /// The same as `here` for everything around that.
    outer: Vec<Option<&'static Path>>,
    /// Whether the next value is that of a member `reference`.
    names_reference: bool,
}

impl Place {
    fn at(root: Option<&'static Path>) -> Self {
        Self { here: root, next: None, outer: Vec::with_capacity(16), names_reference: false }
    }

    /// Takes the next token; gives the string of a member `reference` as written.
    fn advance<'a>(&mut self, token: Token<'a>) -> Option<&'a str> {
        match token {
            Token::Name(raw) => self.enter_member(raw),
            Token::Text(raw) => return std::mem::take(&mut self.names_reference).then_some(raw),
            Token::Open => self.open(),
            Token::Close => self.close(),
        }
        None
    }

    /// Whether the object here is a Reference at the end of a compartment path.
    fn is_reference(&self) -> bool {
        self.here.is_some_and(Path::is_reference)
    }

    fn enter_member(&mut self, raw: &str) {
        let name = scan::decode(raw).unwrap_or_default();
        self.names_reference = name == "reference";
        self.next = self.here.and_then(|path| path.member(&name));
    }

    fn open(&mut self) {
        self.outer.push(self.here);
        // The elements of an array are where the array is; the members of an object set `next` themselves.
        self.here = self.next;
        self.names_reference = false;
    }

    fn close(&mut self) {
        self.here = self.outer.pop().flatten();
        self.next = self.here;
        // A number or a literal as the value of `reference` was passed over.
        self.names_reference = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::body::Resource;

    fn found(text: &str) -> (String, String) {
        let resource = Resource::parse(text.as_bytes(), &PatientBases::default()).unwrap();
        (resource.patients().join(" "), resource.mentions().join(" "))
    }

    fn of(resource_type: &str, members: &str) -> (String, String) {
        found(&format!(r#"{{"resourceType":"{resource_type}","id":"x",{members}}}"#))
    }

    fn both(patients: &str, mentions: &str) -> (String, String) {
        (patients.to_owned(), mentions.to_owned())
    }

    #[test]
    fn compartment_paths_count_and_other_references_are_mentioned() {
        let members = r#""subject":{"reference":"Patient/s/_history/1"},
            "performer":[{"reference":"Patient/p"},{"reference":"Group/d"},{"display":"x","reference":"https://h/r4/Patient/s"}],
            "focus":[{"reference":"Patient/f"}]"#;
        assert_eq!(of("Observation", members), both("p s", "f p s"));
    }

    #[test]
    fn paths_go_through_arrays_and_objects_alike() {
        for members in [
            r#""participant":[{"actor":{"reference":"Patient/1"}},{"type":[]}]"#,
            r#""participant":{"actor":[{"reference":"Patient/1"}]}"#,
            r#""participant":[{"type":[{"text":"t"}],"actor":{"extension":[],"reference":"Patient/1"}}]"#,
            r#""participant":[{},{"actor":{"identifier":{"value":"v"},"reference":"Patient\/1"}}]"#,
        ] {
            assert_eq!(of("Appointment", members), both("1", "1"), "{members}");
        }
    }

    #[test]
    fn beside_a_path_is_not_on_it() {
        for members in [
            r#""actor":{"reference":"Patient/1"}"#,
            r#""participant":[{"x":{"actor":{"reference":"Patient/1"}}}]"#,
            r#""participant":[{"actor":{"extension":[{"valueReference":{"reference":"Patient/1"}}]}}]"#,
            r#""contained":[{"participant":[{"actor":{"reference":"Patient/1"}}]}]"#,
            r#""participant":[{"actor":{}}],"extension":[{"valueReference":{"reference":"Patient/1"}}]"#,
            r#""meta":{"extension":[{"valueReference":{"reference":"Patient/1"}}]}"#,
        ] {
            assert_eq!(of("Appointment", members), both("", "1"), "{members}");
        }
    }

    #[test]
    fn what_is_no_literal_reference_to_a_patient_does_not_count() {
        for subject in [
            r##"{"reference":"#p"}"##,
            r#"{"reference":"urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0","type":"Patient"}"#,
            r#"{"type":"Patient","identifier":{"value":"Patient/1"}}"#,
            r#"{"reference":"Patient?identifier=s|Patient/1"}"#,
            r#"{"reference":["Patient/1"]}"#,
            r#"{"reference":null,"display":"Patient/1"}"#,
            r#"[{"reference":null},"Patient/1"]"#,
            r#"{"reference":{"display":"Patient/1"}}"#,
            r#""Patient/1""#,
        ] {
            let members = format!(r#""subject":{subject},"note":"Patient/1""#);
            assert_eq!(of("Observation", &members), both("", ""), "{subject}");
        }
    }

    #[test]
    fn a_patient_is_in_its_own_compartment_and_in_those_it_links_to() {
        assert_eq!(of("Patient", r#""active":true"#), both("x", "x"));
        let members = r#""link":[{"other":{"reference":"Patient/a"}},{"other":{"reference":"Patient/x"}}],
            "contact":[{"organization":{"reference":"Patient/c"}}]"#;
        assert_eq!(of("Patient", members), both("a x", "a c x"));
    }

    #[test]
    fn a_type_outside_the_compartment_still_mentions() {
        assert_eq!(of("Task", r#""for":{"reference":"Patient/1"}"#), both("", "1"));
    }

    #[test]
    fn escapes_hide_nothing() {
        let members = r#""s\u0075bject":{"ref\u0065rence":"\u0050atient\u002f1"}"#;
        assert_eq!(of("Observation", members), both("1", "1"));
    }

    #[test]
    fn bases_that_are_not_ours_do_not_count() {
        let text = br#"{"resourceType":"Flag","id":"1","subject":{"reference":"https://b/Patient/1"}}"#;
        let parse = |base: &str| {
            let bases = PatientBases::from(vec![base.to_owned()]);
            Resource::parse(text, &bases).unwrap().patients().len()
        };
        assert_eq!((parse("https://b/"), parse("https://c")), (1, 0));
    }
}
