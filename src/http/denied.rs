//! Requests that get nothing because of who sends them, on their way to the ledger of disclosures: 401, 403, and 404 of what
//! is somebody else's or unknown.

use std::sync::{Arc, OnceLock};

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;

use super::App;
use super::address::Address;
use crate::identity::Owner;
use crate::ledger::denied::{Attempt, By};

/// In a request: who sends it, once that is known.
#[derive(Clone, Default)]
pub(super) struct Sender(pub(super) Arc<OnceLock<Owner>>);

/// In an answer of 404: this is not there for the caller, though for another it may be.
#[derive(Clone, Copy)]
pub(super) struct NotTheirs;

/// Counts the request if it is denied.
pub(super) async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let sender = Sender::default();
    parts.extensions.insert(sender.clone());
    let method = parts.method.to_string();
    let route = parts.extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned()).unwrap_or_default();
    let address = Address::from_request_parts(&mut parts, &app).await;
    let response = next.run(Request::from_parts(parts, body)).await;
    let status = response.status();
    let is_not_theirs = response.extensions().get::<NotTheirs>().is_some();
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) || is_not_theirs {
        let owner = sender.0.get().cloned();
        let by = address.ok().map(|Address(address)| By { address, owner, method, route });
        app.ledger.deny(Attempt { by, status: status.as_u16() });
    }
    response
}
