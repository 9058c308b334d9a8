//! Scripts of other origins: which may call from a browser, and what they may see (rule J10).

use std::time::Duration;

use axum::http::header::{
    ACCEPT, ACCEPT_RANGES, AUTHORIZATION, CACHE_CONTROL, CONTENT_LOCATION, CONTENT_RANGE, CONTENT_TYPE, ETAG, EXPIRES,
    IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderValue, Method};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::idempotency::IDEMPOTENCY_KEY;
use super::negotiate::{PREFER, PREFERENCE_APPLIED};
use super::poll_status::{EXPORT_STATUS, PROGRESS};
use super::request_id::X_REQUEST_ID;

/// How long a browser may remember what it was allowed.
const REMEMBERED: Duration = Duration::from_secs(600);

/// None where no other origin may call.
pub(super) fn layer(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let asked = [
        ACCEPT,
        AUTHORIZATION,
        CACHE_CONTROL,
        CONTENT_TYPE,
        IDEMPOTENCY_KEY,
        IF_MATCH,
        IF_MODIFIED_SINCE,
        IF_NONE_MATCH,
        IF_RANGE,
        IF_UNMODIFIED_SINCE,
        PREFER,
        RANGE,
        X_REQUEST_ID,
    ];
    let told = [
        ACCEPT_RANGES,
        CONTENT_LOCATION,
        CONTENT_RANGE,
        ETAG,
        EXPIRES,
        EXPORT_STATUS,
        PREFERENCE_APPLIED,
        PROGRESS,
        RETRY_AFTER,
        WWW_AUTHENTICATE,
        X_REQUEST_ID,
    ];
    // Tokens come in a header and never by themselves, as cookies do: credentials are not for browsers to send.
    let layer = CorsLayer::new()
        .allow_origin(allowed(origins))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(asked)
        .expose_headers(told)
        .max_age(REMEMBERED);
    Some(layer)
}

fn allowed(origins: &[String]) -> AllowOrigin {
    if origins.iter().any(|origin| origin == "*") {
        return AllowOrigin::any();
    }
    AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::try_from(origin).ok()))
}
