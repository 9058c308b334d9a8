//! The profile of SMART Backend Services: what the `scope` of a token permits (rules I17 to I22).

use serde::Deserialize;

use super::known::Known;
use super::{Error, Owner, Principal, scope};

/// The claims of a verified token. No `Debug`: they are personal.
#[derive(Deserialize)]
pub(super) struct Claims {
    iss: String,
    client_id: Option<String>,
    azp: Option<String>,
    sub: Option<String>,
    #[serde(default)]
    scope: String,
}

impl Claims {
    /// The caller: the client, whichever way its issuer names it.
    pub(super) fn into_principal(self, known: &Known) -> Result<Principal, Error> {
        let owner = Owner::named(self.iss, [self.client_id, self.azp, self.sub])?;
        Ok(Principal::granted(owner, known.grant(&self.scope, scope::granted)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn principal(claims: Value) -> Result<Principal, Error> {
        serde_json::from_value::<Claims>(claims).unwrap().into_principal(&Known::default())
    }

    #[test]
    fn the_client_is_the_owner() {
        for (claims, expected) in [
            (json!({ "iss": "i", "client_id": "c", "azp": "a", "sub": "s" }), "c"),
            (json!({ "iss": "i", "client_id": "", "azp": "a", "sub": "s" }), "a"),
            (json!({ "iss": "i", "sub": "s" }), "s"),
        ] {
            assert_eq!(principal(claims).unwrap().owner.subject, expected);
        }
        assert!(principal(json!({ "iss": "i" })).is_err());
        assert!(principal(json!({ "iss": "i", "sub": "a\nb" })).is_err());
    }

    #[test]
    fn what_grants_nothing_permits_nothing() {
        for (scope, may) in [("system/*.read", true), ("openid patient/*.rs", false)] {
            let caller = principal(json!({ "iss": "i", "sub": "s", "scope": scope })).unwrap();
            assert_eq!((caller.may_export, caller.may_read_files), (may, may), "{scope}");
        }
    }
}
