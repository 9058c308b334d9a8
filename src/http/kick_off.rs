//! `$export` at every level: checks the request, stores a job and answers 202 (rules B). No work here grows with the
//! data, but that members listed of a Group are looked for in it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequestParts, RawQuery, State};
use axum::http::header::{ACCEPT, CONTENT_LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use super::address::Address;
use super::caller::{Exporter, requester};
use super::error::ApiError;
use super::idempotency::idempotency_key;
use super::negotiate::{PREFERENCE_APPLIED, Prefer, accepts_json};
use super::parameters;
use super::space::check_space;
use super::{App, FHIR};
use crate::export::admission::{KickOff, started_before, submit};
use crate::export::chosen::{Chosen, present};
use crate::export::job::poll_url;
use crate::export::level::Level;
use crate::export::plan::can_organize;
use crate::export::request::{ExportRequest, Terms};
use crate::fhir::outcome::{IssueType, shown};
use crate::fhir::parameters::Parameter;
use crate::fhir::reference::PatientBases;
use crate::identity::Principal;

/// Held by who looks for Patients among the members of a Group: there may be a million, who are all in memory then.
static MEMBERS: Semaphore = Semaphore::const_new(1);

/// The level of the URL.
pub(super) struct At(Level);

impl FromRequestParts<Arc<App>> for At {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, ApiError> {
        let level = parts.uri.path().strip_prefix(FHIR).and_then(Level::at);
        level.map(Self).ok_or_else(|| ApiError::not_found("There is no export at this URL."))
    }
}

/// GET: the parameters are in the query.
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Exporter(caller): Exporter,
    address: Address,
    At(level): At,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let parameters = parameters::of_query(query.as_deref())?;
    let url = match query {
        Some(query) if !query.is_empty() => format!("{}/{}?{query}", app.base, level.path()),
        _ => format!("{}/{}", app.base, level.path()),
    };
    kick_off(&app, &caller, address, &headers, url, level, &parameters).await
}

/// POST: the parameters are in a Parameters resource; clients append formatting ones to the URL (rule A18).
pub(super) async fn post(
    State(app): State<Arc<App>>,
    Exporter(caller): Exporter,
    address: Address,
    At(level): At,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let parameters = parameters::of_post(query.as_deref(), &headers, &body)?;
    let url = format!("{}/{}", app.base, level.path());
    kick_off(&app, &caller, address, &headers, url, level, &parameters).await
}

async fn kick_off(
    app: &App,
    caller: &Principal,
    address: Address,
    headers: &HeaderMap,
    url: String,
    level: Level,
    parameters: &[Parameter],
) -> Result<Response, ApiError> {
    let prefer = Prefer::read(headers);
    check_headers(headers, &prefer)?;
    let key = idempotency_key(headers)?;
    let bases = PatientBases::from(app.config.store.patient_bases.clone());
    let terms = Terms {
        lenient: prefer.lenient,
        granted: &caller.types,
        referenced: &app.config.include.referenced,
        bases: &bases,
    };
    let mut request = ExportRequest::read(url, level, parameters, terms)?;
    request.separate_status = prefer.separate_export_status;
    request.new_members_full_history = app.config.group.new_members_full_history
        && matches!(request.level, Level::Group(_))
        && request.since.is_some();
    let by = requester(caller, address);
    let kick_off = KickOff { by: &by, request: &request, key: key.as_deref() };
    // What has been started takes nothing, so nothing stands against saying so.
    let id = match started_before(&app.pool, &kick_off).await? {
        Some(id) => id,
        None => {
            check_patients(app, &request, prefer.lenient, &bases).await?;
            check_indexes(app, &request).await?;
            check_readiness(app).await?;
            submit(&app.pool, &kick_off, &app.config.export).await?
        }
    };
    // The shape HAPI clients know, and nothing in the body (rules A3, A4, K6).
    let location = [(CONTENT_LOCATION, poll_url(&app.base, id))];
    let mut response = (StatusCode::ACCEPTED, location).into_response();
    if request.separate_status {
        let applied = HeaderValue::from_static("respond-async, separate-export-status");
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    Ok(response)
}

/// Whether the Patient or the Group of the URL is there, and the Patients listed are, and are among them. Under lenient
/// handling those that are not are left out when the export is planned (rule G6).
async fn check_patients(
    app: &App,
    request: &ExportRequest,
    lenient: bool,
    bases: &PatientBases,
) -> Result<(), ApiError> {
    if request.patients.is_empty() && matches!(request.level, Level::System | Level::Patients) {
        return Ok(());
    }
    let _one_at_a_time = MEMBERS.acquire().await;
    let mut connection = app.pool.acquire().await?;
    let at = present(&mut connection).await?;
    if let Some(missing) = request.level.missing(&mut connection, at).await? {
        return Err(ApiError::not_found(format!("There is no {}.", shown(&missing))));
    }
    if lenient || request.patients.is_empty() {
        return Ok(());
    }
    let Some(chosen) = Chosen::at(&mut connection, request, at, bases).await? else { return Ok(()) };
    match (chosen.unknown(), chosen.outside()) {
        (Some(text), _) => Err(ApiError::not_found(text)),
        (None, Some(text)) => Err(ApiError::invalid(text)),
        (None, None) => Ok(()),
    }
}

/// Files organised by patient need the indexes that `serve` makes after an upgrade.
async fn check_indexes(app: &App, request: &ExportRequest) -> Result<(), ApiError> {
    if !request.by_patient || can_organize(&mut *app.pool.acquire().await?).await? {
        return Ok(());
    }
    let text = "The indexes that organizeOutputBy needs are still being made. Try again later, or without it.";
    Err(ApiError::unavailable(text).retry_after(Duration::from_secs(300)))
}

/// Whether this server can take another export.
async fn check_readiness(app: &App) -> Result<(), ApiError> {
    if app.stopping.is_cancelled() {
        return Err(ApiError::unavailable("This server is stopping. Try again in a moment."));
    }
    check_space(app, "There is no space left for another export. Try again later.").await
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
