//! The parameters of an operation: in the query, and of a POST also in the body (rule B5).

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};

use super::error::ApiError;
use super::negotiate::is_json;
use crate::fhir::outcome::IssueType;
use crate::fhir::parameters::{Parameter, from_body, from_query};

pub(super) fn of_query(query: Option<&str>) -> Result<Vec<Parameter>, ApiError> {
    from_query(query.unwrap_or_default()).map_err(ApiError::invalid)
}

/// Those in the query come first.
pub(super) fn of_post(query: Option<&str>, headers: &HeaderMap, body: &[u8]) -> Result<Vec<Parameter>, ApiError> {
    check_content_type(headers, body)?;
    let mut parameters = of_query(query)?;
    parameters.extend(from_body(body).map_err(ApiError::invalid)?);
    Ok(parameters)
}

/// A body must be JSON; no body needs no type.
fn check_content_type(headers: &HeaderMap, body: &[u8]) -> Result<(), ApiError> {
    let content_type = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    if body.is_empty() || content_type.is_some_and(is_json) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        IssueType::NotSupported,
        "The body must be a Parameters resource with Content-Type application/fhir+json.",
    ))
}
