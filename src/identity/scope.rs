//! SMART scopes as grants: `system/Patient.rs`, `system/*.read`, `system/Observation.rs?category=laboratory` (rules I17 to
//! I22).
//!
//! Only `system/` scopes grant anything here: `user/` and `patient/` ones are about somebody who is not there (rule I22).

use std::collections::{BTreeSet, HashMap};

use super::grant::{MAX_QUERIES, parameters};
use super::{Extent, TypeGrant};
use crate::fhir::outcome::shown;
use crate::fhir::resource_type::ResourceType;
use crate::search::{Query, Wrong};

/// Of a list only so many scopes are looked at: more than there are types.
pub(super) const MAX_SCOPES: usize = 300;

/// One scope that is understood.
struct Scope {
    what: TypeGrant,
    may_read: bool,
    may_search: bool,
    /// Written as in SMART 1: `.read`.
    is_v1: bool,
}

/// What an operator registers for a client: all of it must be meant, and possible.
pub(super) fn registered(scopes: &[String]) -> Result<TypeGrant, String> {
    if scopes.is_empty() || scopes.len() > MAX_SCOPES {
        return Err(format!("1 to {MAX_SCOPES} scopes are needed"));
    }
    refuse_too_many(scopes.iter().map(String::as_str))?;
    let mut granted = Vec::with_capacity(scopes.len());
    for text in scopes {
        let scope = Scope::parse(text).map_err(|problem| format!("{}: {problem}", shown(text)))?;
        if !(scope.may_read && scope.may_search) {
            return Err(format!("{}: an export takes the rights r and s, as in system/Patient.rs", shown(text)));
        }
        granted.push(scope.what);
    }
    Ok(TypeGrant::any(granted))
}

/// Refuses a list of scopes that is longer than what is looked at.
pub(super) fn refuse_too_long(scopes: &str) -> Result<(), String> {
    if scopes.split(' ').count() > MAX_SCOPES {
        return Err(format!("these are more than {MAX_SCOPES} scopes"));
    }
    refuse_too_many(scopes.split(' '))
}

/// Refuses more conditions for a type than can be held.
fn refuse_too_many<'a>(scopes: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut conditions: HashMap<&str, usize> = HashMap::new();
    for (what, _) in scopes.filter_map(|scope| scope.split_once('?')) {
        let of_type = conditions.entry(what.split('.').next().unwrap_or_default()).or_default();
        *of_type += 1;
        if *of_type > MAX_QUERIES {
            return Err(format!("a type may have {MAX_QUERIES} scopes with conditions at most"));
        }
    }
    Ok(())
}

/// What a list of scopes grants: what may be read and searched (rule I19). What is not understood grants nothing.
pub(super) fn granted(scopes: &str) -> TypeGrant {
    let (both, one): (Vec<_>, Vec<_>) = understood(scopes).partition(|scope| scope.may_read && scope.may_search);
    let any =
        |has: fn(&Scope) -> bool| TypeGrant::any(one.iter().filter(|scope| has(scope)).map(|scope| scope.what.clone()));
    let read_and_searched = any(|scope| scope.may_read).and(&any(|scope| scope.may_search));
    TypeGrant::any(both.into_iter().map(|scope| scope.what).chain([read_and_searched]))
}

/// A grant as scopes, in the version of those that were asked for (rule I16).
pub(super) fn written(grant: &TypeGrant, asked: &str) -> String {
    let whole = if understood(asked).all(|scope| scope.is_v1) { "read" } else { "rs" };
    let TypeGrant::Only(types) = grant else { return format!("system/*.{whole}") };
    let of_type = |(resource_type, extent): (&ResourceType, &Extent)| match extent {
        Extent::Whole => vec![format!("system/{resource_type}.{whole}")],
        Extent::Matching(queries) => {
            let written = |query| Vec::from_iter(parameters(query)).join("&");
            queries.iter().map(|query| format!("system/{resource_type}.rs?{}", written(query))).collect()
        }
    };
    types.iter().flat_map(of_type).collect::<Vec<_>>().join(" ")
}

fn understood(scopes: &str) -> impl Iterator<Item = Scope> {
    scopes.split(' ').take(MAX_SCOPES).filter_map(|text| Scope::parse(text).ok())
}

impl Scope {
    fn parse(text: &str) -> Result<Self, String> {
        if !text.bytes().all(is_letter) {
            return Err("a scope has visible ASCII characters only, but no quote and no backslash".to_owned());
        }
        let rest = text.strip_prefix("system/").ok_or("only scopes that begin with system/ are granted")?;
        let (what, query) = match rest.split_once('?') {
            Some((what, query)) => (what, Some(query)),
            None => (rest, None),
        };
        let (name, rights) = what.split_once('.').ok_or("it has no rights, as in system/Patient.rs")?;
        let (may_read, may_search, is_v1) =
            rights_of(rights).ok_or("its rights are letters of cruds in this order, or read, write or *")?;
        let what = match (name, query) {
            ("*", None) => TypeGrant::All,
            ("*", Some(_)) => return Err("a condition is of a type, which must be named".to_owned()),
            (name, query) => of_type(name, query)?,
        };
        Ok(Self { what, may_read, may_search, is_v1 })
    }
}

fn of_type(name: &str, query: Option<&str>) -> Result<TypeGrant, String> {
    let resource_type = ResourceType::parse(name).ok_or("R4 has no such resource type")?;
    if !resource_type.is_exportable() {
        return Err(format!("{resource_type} is never exported"));
    }
    let extent = match query {
        None => Extent::Whole,
        Some(query) => {
            // In one order, so that what means the same is the same.
            let parameters: BTreeSet<_> = query.split('&').filter(|parameter| !parameter.is_empty()).collect();
            let parameters = Vec::from_iter(parameters).join("&");
            let query = Query::parse(&format!("{resource_type}?{parameters}"));
            Extent::Matching(vec![query.map_err(|(Wrong::Unsupported(reason) | Wrong::TooMuch(reason))| reason)?])
        }
    };
    Ok(TypeGrant::Only([(resource_type, extent)].into()))
}

/// What a scope is written with (RFC 6749, section 3.3).
fn is_letter(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'"' && byte != b'\\'
}

/// Whether they let read and search, and whether they are written as in SMART 1 (rule I18).
fn rights_of(rights: &str) -> Option<(bool, bool, bool)> {
    match rights {
        "read" | "*" => return Some((true, true, true)),
        "write" => return Some((false, false, true)),
        "" => return None,
        _ => {}
    }
    let mut order = "cruds".chars();
    // Each letter is looked for behind the one before.
    let in_order = rights.chars().all(|letter| order.any(|next| next == letter));
    in_order.then(|| (rights.contains('r'), rights.contains('s'), false))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scopes(list: &[&str]) -> Vec<String> {
        list.iter().map(|scope| (*scope).to_owned()).collect()
    }

    /// As SMART 2 scopes, for comparing.
    fn meaning(list: &str) -> String {
        written(&granted(list), "system/*.rs")
    }

    // I18, I19, I20, I22
    #[test]
    fn scopes_and_what_they_grant() {
        for (list, expected) in [
            ("system/*.rs", "system/*.rs"),
            ("system/*.read", "system/*.rs"),
            ("system/*.*", "system/*.rs"),
            ("system/*.cruds", "system/*.rs"),
            ("system/Patient.rs openid", "system/Patient.rs"),
            ("system/Patient.read system/Group.rs", "system/Group.rs system/Patient.rs"),
            ("system/Patient.r system/Patient.s", "system/Patient.rs"),
            ("system/*.r system/Patient.s", "system/Patient.rs"),
            ("system/*.rs system/Patient.rs?active=true", "system/*.rs"),
            ("system/Patient.rs?active=true system/Patient.rs", "system/Patient.rs"),
            (
                "system/Patient.rs?active=true system/Patient.rs?gender=male",
                "system/Patient.rs?active=true system/Patient.rs?gender=male",
            ),
            ("system/Patient.rs?active=true system/Patient.rs?active=true", "system/Patient.rs?active=true"),
            (
                "system/Patient.rs?active=true system/Patient.rs?gender=male&active=true",
                "system/Patient.rs?active=true",
            ),
            ("system/Patient.r?active=true system/Patient.s?gender=male", "system/Patient.rs?active=true&gender=male"),
            // Nothing.
            ("", ""),
            ("system/*.write system/*.cud", ""),
            ("system/Patient.r", ""),
            ("system/Patient.s", ""),
            ("system/Patient.sr", ""),
            ("system/Patient.rrs", ""),
            ("system/Patient.", ""),
            ("system/Patient", ""),
            ("system/patient.rs", ""),
            ("System/Patient.rs", ""),
            ("system/Patient.READ", ""),
            ("system/Doctor.rs", ""),
            ("system/Binary.rs", ""),
            ("system/*.rs?category=laboratory", ""),
            ("system/Patient.rs?", ""),
            ("system/Patient.rs?nonsense=1", ""),
            ("system/Patient.rs?_count=1", ""),
            ("user/*.rs user/Patient.read patient/*.rs patient/Patient.rs launch/patient", ""),
            ("system/Patient.rs\tsystem/Group.rs", ""),
            ("system/Patient.rs?name=Søren", ""),
            ("system/Patient.rs?name=\"", ""),
        ] {
            assert_eq!(meaning(list), expected, "{list}");
        }
        let many = "system/Group.rs ".repeat(MAX_SCOPES) + "system/*.rs";
        assert_eq!(meaning(&many), "system/Group.rs");
    }

    // I17
    #[test]
    fn what_is_asked_for_and_registered() {
        for (asked, registered_for, expected) in [
            ("system/Patient.rs", "system/*.rs", "system/Patient.rs"),
            ("system/*.rs", "system/Patient.rs", "system/Patient.rs"),
            ("system/*.rs", "system/Patient.rs?active=true", "system/Patient.rs?active=true"),
            ("system/Patient.rs?active=true", "system/*.rs", "system/Patient.rs?active=true"),
            (
                "system/Patient.rs?gender=male",
                "system/Patient.rs?active=true",
                "system/Patient.rs?active=true&gender=male",
            ),
            (
                "system/Patient.rs?gender=male&active=true",
                "system/Patient.rs?active=true system/Patient.rs?gender=female",
                "system/Patient.rs?active=true&gender=male",
            ),
            ("system/Group.rs", "system/Patient.rs", ""),
        ] {
            let both = granted(asked).and(&granted(registered_for));
            assert_eq!(written(&both, asked), expected, "{asked}, {registered_for}");
        }
    }

    fn with_conditions(n: usize) -> String {
        (0..n).map(|n| format!("system/Patient.rs?_id=a{n}")).collect::<Vec<_>>().join(" ")
    }

    // I17, I20: many conditions meet themselves, and fewer meet many
    #[test]
    fn as_many_conditions_are_granted_as_an_export_may_have() {
        let (most, half) = (with_conditions(MAX_QUERIES), with_conditions(MAX_QUERIES / 2));
        let registered_for = registered(&scopes(&most.split(' ').collect::<Vec<_>>())).unwrap();
        for asked in [&most, &half] {
            assert!(refuse_too_long(asked).is_ok());
            assert_eq!(meaning(asked), *asked);
            assert_eq!(written(&granted(asked).and(&registered_for), asked), *asked);
        }
        assert_eq!(granted("system/*.rs").and(&registered_for), registered_for);
        // Further ones are not a smaller right by chance, but none.
        let more = with_conditions(MAX_QUERIES + 1);
        assert!(refuse_too_long(&more).is_err());
        assert_eq!(meaning(&format!("{more} system/Group.rs")), "system/Group.rs");
        let said = registered(&scopes(&more.split(' ').collect::<Vec<_>>())).unwrap_err();
        assert!(said.contains("100 scopes with conditions"), "{said}");
        assert!(refuse_too_long(&"system/Group.rs ".repeat(MAX_SCOPES)).is_err());
    }

    // I16: the granted scopes are written as they were asked for
    #[test]
    fn what_is_granted_is_written_in_the_version_asked_for() {
        let grant = granted("system/Patient.rs system/Observation.rs?status=final");
        assert_eq!(written(&grant, "system/*.read"), "system/Observation.rs?status=final system/Patient.read");
        assert_eq!(written(&grant, "system/*.rs"), "system/Observation.rs?status=final system/Patient.rs");
        assert_eq!(written(&TypeGrant::All, "system/*.*"), "system/*.read");
    }

    #[test]
    fn what_an_operator_cannot_mean_is_refused_by_name() {
        for (scope, problem) in [
            ("system/Doctor.rs", "no such resource type"),
            ("system/Patient.r", "r and s"),
            ("system/*.write", "r and s"),
            ("system/Patient.sr", "in this order"),
            ("user/*.rs", "system/"),
            ("system/*.rs?a=b", "must be named"),
            ("system/Patient.rs?nonsense=1", "nonsense"),
            ("system/Binary.rs", "never exported"),
            ("", "system/"),
            ("system/Patient.rs system/Group.rs", "ASCII"),
        ] {
            let said = registered(&scopes(&["system/Group.rs", scope])).unwrap_err();
            assert!(said.contains(problem), "{scope}: {said}");
        }
        assert!(registered(&[]).is_err());
        assert_eq!(registered(&scopes(&["system/*.read"])).unwrap(), TypeGrant::All);
    }

    fn any_scopes() -> impl Strategy<Value = String> {
        let name = prop_oneof![Just("*"), Just("Patient"), Just("Observation"), Just("Group")];
        let rights = prop_oneof![Just("rs"), Just("read"), Just("r"), Just("s"), Just("cruds")];
        let query = prop_oneof![
            Just(""),
            Just(""),
            Just("?_id=a"),
            Just("?_id=b"),
            Just("?_id=a&_lastUpdated=gt2024"),
            Just("?_lastUpdated=gt2024&_id=b"),
        ];
        let scope = (name, rights, query).prop_map(|(name, rights, query)| format!("system/{name}.{rights}{query}"));
        proptest::collection::vec(scope, 0..6).prop_map(|scopes| scopes.join(" "))
    }

    /// Which of the resources that these queries tell apart a grant permits, said without the code under test.
    fn permitted(scopes: &str) -> Vec<bool> {
        let worlds = [("a", true), ("a", false), ("b", true), ("b", false), ("c", true), ("c", false)];
        let types = ["Patient", "Observation", "Group", "Task"];
        let permits = |letter: char, name: &str, (id, is_new): (&str, bool)| {
            scopes.split(' ').filter_map(|scope| scope.strip_prefix("system/")).any(|scope| {
                let (what, query) = scope.split_once('?').unwrap_or((scope, ""));
                let (of, rights) = what.split_once('.').unwrap();
                let conditions = query.split('&').filter(|condition| !condition.is_empty());
                let holds = conditions.clone().all(|condition| match condition.split_once('=').unwrap() {
                    ("_id", wanted) => wanted == id,
                    _ => is_new,
                });
                let is_granted = of == name || (of == "*" && query.is_empty());
                is_granted && (rights == "read" || rights.contains(letter)) && holds
            })
        };
        let all = types.iter().flat_map(|name| worlds.iter().map(move |world| (*name, *world)));
        all.map(|(name, world)| permits('r', name, world) && permits('s', name, world)).collect()
    }

    proptest! {
        // I17, I19, I20: exactly what both permit, and once more changes nothing
        #[test]
        fn granted_is_what_is_in_both(asked in any_scopes(), registered_for in any_scopes()) {
            let registered_for_them = granted(&registered_for);
            let both = granted(&asked).and(&registered_for_them);
            let text = written(&both, "system/*.rs");
            let expected: Vec<bool> =
                permitted(&asked).into_iter().zip(permitted(&registered_for)).map(|(a, b)| a && b).collect();
            prop_assert_eq!(permitted(&text), expected);
            let again = granted(&text).and(&registered_for_them);
            prop_assert_eq!(written(&again, "system/*.rs"), text);
        }

        #[test]
        fn no_text_is_too_much(text in ".{0,200}") {
            let grant = granted(&text);
            prop_assert!(grant.is_nothing() || text.contains("system/"));
        }
    }
}
