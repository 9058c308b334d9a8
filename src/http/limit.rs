//! How much of the server one request and one client may take: headers, polls of a job, downloads. These limits are
//! kept by each process for itself; those of exports are in the ledger (`export::admission`).

mod downloads;
mod polls;
mod rate;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use crate::config::ByteSize;
use crate::fhir::outcome::IssueType;
pub(crate) use downloads::Downloads;
pub(super) use downloads::TooMany;
pub(crate) use polls::Polls;

/// Refuses a request whose target and headers are too long (RFC 6585, 5). Far past that, at 100 headers, a target of
/// 64 KiB or 400 KiB in all, hyper refuses by itself, without a body: it has not read the request by then.
pub(super) async fn headers(State(max): State<ByteSize>, request: Request, next: Next) -> Response {
    let length = length(&request);
    if length <= max.as_usize() {
        return next.run(request).await;
    }
    let text = format!("The URL and headers of the request are {length} bytes long; at most {max} are taken.");
    ApiError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, IssueType::TooLong, text).into_response()
}

/// Of the target, and of all header names and values.
fn length(request: &Request) -> usize {
    let uri = request.uri();
    let target = uri.authority().map_or(0, |authority| authority.as_str().len())
        + uri.path_and_query().map_or(0, |path_and_query| path_and_query.as_str().len());
    request.headers().iter().fold(target, |sum, (name, value)| sum + name.as_str().len() + value.len())
}
