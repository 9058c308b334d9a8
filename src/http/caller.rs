//! Who calls: `Authorization` → principal, and what it must be allowed for each kind of request (rules I1, I5).

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use super::App;
use super::address::Address;
use super::denied::Sender;
use super::error::ApiError;
use crate::identity::Principal;
use crate::ledger::Requester;

/// A caller whose token is good. What it may do is still to be asked.
pub(super) struct Caller(pub(super) Principal);

/// A caller that may start exports.
pub(super) struct Exporter(pub(super) Principal);

/// A caller that may read files.
pub(super) struct FileReader(pub(super) Principal);

/// How the ledger of disclosures has a caller.
pub(super) fn requester(caller: &Principal, Address(address): Address) -> Requester {
    Requester { owner: caller.owner.clone(), client: caller.client.clone(), address }
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let mut headers = parts.headers.get_all(AUTHORIZATION).iter();
        let header = match (headers.next(), headers.next()) {
            (None, _) => None,
            // Bytes that are no text are no token either.
            (Some(header), None) => Some(header.to_str().unwrap_or("Bearer ?")),
            (Some(_), Some(_)) => return Err(ApiError::invalid("There is more than one Authorization header.")),
        };
        let principal = app.authenticator.authenticate(header).await?;
        if let Some(Sender(owner)) = parts.extensions.get() {
            owner.get_or_init(|| principal.owner.clone());
        }
        Ok(Self(principal))
    }
}

impl FromRequestParts<Arc<App>> for Exporter {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let Caller(principal) = Caller::from_request_parts(parts, app).await?;
        if principal.may_export {
            Ok(Self(principal))
        } else {
            Err(ApiError::insufficient(
                "Your token does not permit to start an export, which needs the role $bulk-export, or a scope such as \
                 system/Patient.rs.",
            ))
        }
    }
}

impl FromRequestParts<Arc<App>> for FileReader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let Caller(principal) = Caller::from_request_parts(parts, app).await?;
        if principal.may_read_files {
            Ok(Self(principal))
        } else {
            Err(ApiError::insufficient(
                "Your token does not permit to read a file, which needs the role Binary.read, or a scope such as \
                 system/Patient.rs.",
            ))
        }
    }
}
