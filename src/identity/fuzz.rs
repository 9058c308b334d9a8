//! The fuzz targets of tokens and scopes. Signatures are not forged by chance: what is behind them is fed directly.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::known::Known;
use super::token::{Unverified, bearer, is_jwt, may_be_opaque};
use super::{TypeGrant, ehealth, scope, smart};
use crate::fhir::resource_type::ResourceType;

/// A header and claims, parted by a line end, as a JWT; and all of it as an `Authorization` header.
pub fn token(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(raw) = bearer(Some(text))
    {
        let _ = (Unverified::read(raw), is_jwt(raw), may_be_opaque(raw));
    }
    let (header, claims) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len()));
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let raw = format!("{}.{}.{}", encode(header), encode(claims.get(1..).unwrap_or_default()), encode(b"signature"));
    if Unverified::read(&raw).is_ok() {
        assert!(is_jwt(&raw));
    }
    if let Ok(claims) = serde_json::from_slice::<ehealth::Claims>(claims)
        && let Ok(principal) = claims.into_principal(&["SYSTEM".to_owned()])
    {
        assert!(!principal.owner.subject.is_empty() && !principal.owner.subject.contains(char::is_control));
    }
    if let Ok(claims) = serde_json::from_slice::<smart::Claims>(claims)
        && let Ok(principal) = claims.into_principal(&Known::default())
    {
        assert!(!principal.owner.subject.is_empty() && !principal.owner.subject.contains(char::is_control));
    }
}

/// A list of scopes, and another: what both grant together is within each, and a grant can be written down.
pub fn scopes(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (one, other) = text.split_once('\n').unwrap_or((text, ""));
    let (first, second) = (scope::granted(one), scope::granted(other));
    let both = first.clone().and(&second);
    for resource_type in ResourceType::exportable().filter(|of| both.allows(*of)) {
        assert!(first.allows(resource_type) && second.allows(resource_type), "{resource_type}");
        assert!(!both.allows_all(resource_type) || first.allows_all(resource_type) && second.allows_all(resource_type));
    }
    let written = scope::written(&first, one);
    assert_eq!(format!("{:?}", scope::granted(&written)), format!("{first:?}"), "{written}");
    assert!(one.is_empty() || !matches!(first, TypeGrant::All) || one.contains("system/*."));
}
