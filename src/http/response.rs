//! What all answers have in common: FHIR JSON, an OperationOutcome for whatever a layer answers by itself, and one
//! line in the log that names no person.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::request_id::X_REQUEST_ID;
use crate::fhir::outcome::{Issue, IssueType, operation_outcome};

const FHIR_JSON: &str = "application/fhir+json; charset=UTF-8";

/// A resource as FHIR JSON.
pub(super) fn fhir_response(status: StatusCode, resource: &Value) -> Response {
    (status, [(CONTENT_TYPE, FHIR_JSON)], resource.to_string()).into_response()
}

pub(super) fn outcome_response(status: StatusCode, issues: &[Issue]) -> Response {
    fhir_response(status, &operation_outcome(issues))
}

pub(super) fn fhir_json() -> HeaderValue {
    HeaderValue::from_static(FHIR_JSON)
}

/// Gives the empty and plain-text answers of routing and layers (404, 405, 413, time-outs, panics) a body that
/// FHIR clients understand (rule B13).
pub(super) async fn as_outcome(response: Response) -> Response {
    let status = response.status();
    let is_json =
        response.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/"));
    if !(status.is_client_error() || status.is_server_error()) || is_json {
        return response;
    }
    let (code, text) = match status {
        StatusCode::NOT_FOUND => (IssueType::NotFound, "There is nothing at this URL. The FHIR base ends in /fhir."),
        StatusCode::METHOD_NOT_ALLOWED => {
            (IssueType::NotSupported, "This URL does not take that method; the Allow header names those it takes.")
        }
        StatusCode::PAYLOAD_TOO_LARGE => (IssueType::TooLong, "The body of the request is too large."),
        StatusCode::SERVICE_UNAVAILABLE => (IssueType::Transient, "The answer took too long. Try again later."),
        status if status.is_client_error() => (IssueType::Invalid, "The request cannot be understood."),
        _ => (IssueType::Exception, "Something went wrong in the server; the X-Request-Id header says where to look."),
    };
    let (mut parts, _) = response.into_parts();
    let (json, body) = outcome_response(status, &[Issue::error(code, text)]).into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.extend(json.headers);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        parts.headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
    }
    Response::from_parts(parts, body)
}

/// Makes `%24export` `$export`.
pub(super) async fn decode_dollar(mut request: Request) -> Request {
    let Some(uri) = with_dollar(request.uri()) else { return request };
    *request.uri_mut() = uri;
    request
}

fn with_dollar(uri: &Uri) -> Option<Uri> {
    if !uri.path().contains("%24") {
        return None;
    }
    let path = uri.path().replace("%24", "$");
    let path_and_query = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path_and_query).ok()?);
    Uri::from_parts(parts).ok()
}

/// One line for each request: route, status and time; no query, no header, nothing of the caller.
pub(super) async fn log(request: Request, next: Next) -> Response<Body> {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let id = request.headers().get(X_REQUEST_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
    let response = next.run(request).await;
    tracing::info!(
        request.id = id,
        http.method = %method,
        http.route = route,
        http.status = response.status().as_u16(),
        milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "answered"
    );
    response
}
