//! The profile of Denmark's eHealth infrastructure: what its Keycloak claims permit (rules A30 to
//! A34, I6).
//!
//! Roles are `realm_access.roles`: `$bulk-export` to export, `Binary.read` to read files,
//! `<Type>.search` for each type; `<Type>.*` stands for every right to a type. Roles of other
//! shapes, or of types R4 has not, say nothing here.

use serde::Deserialize;

use super::{Error, Owner, Principal, TypeGrant};
use crate::fhir::resource_type::ResourceType;

/// The claims of a verified token. No `Debug`: they are personal.
#[derive(Deserialize)]
pub(super) struct Claims {
    iss: String,
    sub: Option<String>,
    user_id: Option<String>,
    user_type: Option<String>,
    azp: Option<String>,
    realm_access: Option<RealmAccess>,
}

#[derive(Deserialize)]
struct RealmAccess {
    #[serde(default)]
    roles: Vec<String>,
}

impl Claims {
    /// The caller, if of an allowed kind of user.
    pub(super) fn into_principal(self, user_types: &[String]) -> Result<Principal, Error> {
        // Many system users have no `user_id` (rule A30).
        let owner = Owner::named(self.iss, [self.user_id, self.sub])?;
        if !self.user_type.is_some_and(|user_type| user_types.contains(&user_type)) {
            return Err(Error::NotAllowed);
        }
        let roles = self.realm_access.map(|access| access.roles).unwrap_or_default();
        let has = |wanted: &[&str]| roles.iter().any(|role| wanted.contains(&role.as_str()));
        Ok(Principal {
            owner,
            client: self.azp.filter(|client| !client.contains(char::is_control)),
            may_export: has(&["$bulk-export"]),
            may_read_files: has(&["Binary.read", "Binary.*"]),
            types: TypeGrant::of(searchable(&roles)),
        })
    }
}

fn searchable(roles: &[String]) -> impl Iterator<Item = ResourceType> {
    roles
        .iter()
        .filter_map(|role| role.strip_suffix(".search").or_else(|| role.strip_suffix(".*")))
        .filter_map(ResourceType::parse)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn principal(mut claims: Value) -> Result<Principal, Error> {
        claims["iss"] = json!("https://id.example");
        let claims: Claims = serde_json::from_value(claims).unwrap();
        claims.into_principal(&["SYSTEM".to_owned()])
    }

    fn with_roles(roles: &[&str]) -> Principal {
        let access = json!({ "roles": roles });
        principal(json!({ "sub": "s", "user_type": "SYSTEM", "realm_access": access })).unwrap()
    }

    fn types(principal: &Principal) -> Vec<&'static str> {
        match &principal.types {
            TypeGrant::All => vec!["*"],
            TypeGrant::Only(types) => types.keys().map(|t| t.as_str()).collect(),
        }
    }

    /// The token of the export page's example (rule A32).
    #[test]
    fn the_documented_token() {
        let principal = principal(json!({
            "user_id": "c7f3",
            "realm_access": { "roles": [
                "Task.search", "ClinicalImpression.search", "$bulk-export", "Binary.read"
            ] },
            "user_type": "SYSTEM"
        }))
        .unwrap();
        assert_eq!(principal.owner.subject, "c7f3");
        assert_eq!(principal.owner.issuer, "https://id.example");
        assert!(principal.may_export && principal.may_read_files);
        assert_eq!(types(&principal), ["ClinicalImpression", "Task"]);
        assert!(!principal.types.allows(ResourceType::PATIENT));
    }

    #[test]
    fn each_right_has_its_role() {
        let none = with_roles(&[
            "$export",
            "offline_access",
            "Patient.read",
            "patient.search",
            "Patient$everything",
            "Dragon.search",
            "*.search",
            ".search",
            "binary.read",
        ]);
        assert!(!none.may_export && !none.may_read_files);
        assert_eq!(none.types, TypeGrant::of([]));
        assert!(with_roles(&["$bulk-export"]).may_export);
        assert!(with_roles(&["Binary.*"]).may_read_files);
        assert_eq!(types(&with_roles(&["Patient.*", "Observation.search"])), ["Observation", "Patient"]);
    }

    #[test]
    fn who_is_let_in() {
        let system = |user: Value| {
            let mut claims = user;
            claims["user_type"] = json!("SYSTEM");
            principal(claims)
        };
        let subject = |user| system(user).unwrap().owner.subject;
        assert_eq!(subject(json!({ "user_id": "u", "sub": "s" })), "u");
        assert_eq!(subject(json!({ "sub": "s" })), "s");
        assert_eq!(subject(json!({ "user_id": null, "sub": "s" })), "s");
        for nobody in [json!({}), json!({ "sub": "" }), json!({ "user_id": "", "sub": "" })] {
            assert!(matches!(system(nobody), Err(Error::InvalidToken { .. })));
        }
        for other in [json!({ "sub": "s" }), json!({ "sub": "s", "user_type": "PATIENT" })] {
            assert!(matches!(principal(other), Err(Error::NotAllowed)));
        }
    }
}
