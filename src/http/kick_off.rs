//! `[base]/$export`: checks the request, stores a job and answers 202. No work here grows with the data (rules B).

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::header::{ACCEPT, CONTENT_LOCATION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::App;
use super::caller::Exporter;
use super::error::ApiError;
use super::idempotency::idempotency_key;
use super::negotiate::{PREFERENCE_APPLIED, Prefer, accepts_json, is_json};
use crate::export::admission::{KickOff, started_before, submit};
use crate::export::request::ExportRequest;
use crate::fhir::outcome::IssueType;
use crate::fhir::parameters::{self, Parameter};
use crate::identity::Principal;

/// GET: the parameters are in the query.
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Exporter(caller): Exporter,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let parameters = parameters::from_query(query.as_deref().unwrap_or_default());
    let url = match query {
        Some(query) if !query.is_empty() => format!("{}/$export?{query}", app.base),
        _ => format!("{}/$export", app.base),
    };
    kick_off(&app, &caller, &headers, url, &parameters).await
}

/// POST: the parameters are in a Parameters resource; clients append formatting ones to the URL (rule A18).
pub(super) async fn post(
    State(app): State<Arc<App>>,
    Exporter(caller): Exporter,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    parameters_in_json(&headers, &body)?;
    let mut parameters = parameters::from_query(query.as_deref().unwrap_or_default());
    parameters.extend(parameters::from_body(&body).map_err(ApiError::invalid)?);
    let url = format!("{}/$export", app.base);
    kick_off(&app, &caller, &headers, url, &parameters).await
}

/// A body must be JSON; no body needs no type.
pub(super) fn parameters_in_json(headers: &HeaderMap, body: &[u8]) -> Result<(), ApiError> {
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

async fn kick_off(
    app: &App,
    caller: &Principal,
    headers: &HeaderMap,
    url: String,
    parameters: &[Parameter],
) -> Result<Response, ApiError> {
    let prefer = Prefer::read(headers);
    check_headers(headers, &prefer)?;
    let key = idempotency_key(headers)?;
    let mut request = ExportRequest::read(url, parameters, prefer.lenient, &caller.types)?;
    request.separate_status = prefer.separate_export_status;
    let kick_off = KickOff { owner: &caller.owner, request: &request, key: key.as_deref() };
    // What has been started takes nothing, so nothing stands against saying so.
    let id = match started_before(&app.pool, &kick_off).await? {
        Some(id) => id,
        None => {
            check_readiness(app).await?;
            submit(&app.pool, &kick_off, &app.config.export).await?
        }
    };
    // The shape HAPI clients know, and nothing in the body (rules A3, A4, K6).
    let location = format!("{}/$export-poll-status?_jobId={id}", app.base);
    let mut response = (StatusCode::ACCEPTED, [(CONTENT_LOCATION, location)]).into_response();
    if request.separate_status {
        let applied = HeaderValue::from_static("respond-async, separate-export-status");
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    Ok(response)
}

/// Whether this server can take another export.
async fn check_readiness(app: &App) -> Result<(), ApiError> {
    if app.stopping.is_cancelled() {
        return Err(ApiError::unavailable("This server is stopping. Try again in a moment."));
    }
    if app.disk.is_short(&app.pool).await? {
        tracing::error!("a kick-off was refused: the database's disk has less free space than database.reserve");
        return Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            IssueType::NoStore,
            "There is no space left for another export. Try again later.",
        )
        .retry_after(Duration::from_secs(300)));
    }
    Ok(())
}

fn check_headers(headers: &HeaderMap, prefer: &Prefer) -> Result<(), ApiError> {
    // B7: a request without Accept may be refused; one conformance suite wants it to be.
    if !headers.contains_key(ACCEPT) {
        return Err(ApiError::invalid("The header Accept is missing; send Accept: application/fhir+json."));
    }
    if !accepts_json(headers) {
        return Err(ApiError::new(
            StatusCode::NOT_ACCEPTABLE,
            IssueType::NotSupported,
            "Only JSON is available; send Accept: application/fhir+json.",
        ));
    }
    if !prefer.respond_async {
        return Err(ApiError::invalid(
            "Must request async processing for $export: send the header Prefer: respond-async.",
        ));
    }
    Ok(())
}
