//! `[base]/$export-poll-status?_jobId=`: how a job stands, the manifest, and the end of a job (rules C, D).

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPIRES, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use time::OffsetDateTime;
use tokio::time::sleep;
use uuid::Uuid;

use super::App;
use super::address::Address;
use super::caller::{Caller, requester};
use super::error::ApiError;
use super::negotiate::{PREFERENCE_APPLIED, Prefer};
use super::parameters;
use super::response::outcome_response;
use crate::config::{DeleteCompleted, Progress};
use crate::export::job::{self, Job, State as JobState};
use crate::export::manifest::{Manifest, Terms, manifest};
use crate::export::page;
use crate::export::part::progress;
use crate::fhir::instant;
use crate::fhir::outcome::{Issue, IssueType, Severity};
use crate::fhir::parameters::Parameter;
use crate::identity::Principal;
use crate::ledger::Requester;
use crate::ledger::event::{Entry, Kind};

pub(super) const EXPORT_STATUS: HeaderName = HeaderName::from_static("x-export-status");
pub(super) const PROGRESS: HeaderName = HeaderName::from_static("x-progress");
const JSON: &str = "application/json";
/// A manifest has this one at least.
const FIRST_PAGE: i32 = 1;
/// What Retry-After says at least,
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// and at most: an export that has just finished should not wait for its client.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Between two looks at a job whose end a client waits for, in case that it is not heard of.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// What a client that waits leaves of `http.request_timeout` for its answer.
const TO_ANSWER: Duration = Duration::from_secs(1);

/// GET and HEAD: the job is in the query.
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    address: Address,
    method: Method,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let told = (method != Method::HEAD).then(|| requester(&caller, address));
    poll(&app, &caller, told.as_ref(), &headers, asked(&parameters::of_query(query.as_deref())?)?).await
}

/// POST: the job may be in a Parameters resource (rule C13).
pub(super) async fn post(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    address: Address,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let told = requester(&caller, address);
    poll(&app, &caller, Some(&told), &headers, asked(&parameters::of_post(query.as_deref(), &headers, &body)?)?).await
}

/// What is asked for.
struct Asked {
    /// The id of the job as it was written.
    text: String,
    id: Option<Uuid>,
    /// Which page of the manifest: a link of the one before it says so (rule E11).
    page: i32,
}

fn asked(parameters: &[Parameter]) -> Result<Asked, ApiError> {
    let id = once(parameters, "_jobId")?.filter(|id| !id.is_empty()).ok_or_else(|| {
        ApiError::invalid("$export-poll-status requires a job ID, please provide the value of target jobId: ?_jobId=…")
    })?;
    Ok(Asked {
        text: id.chars().filter(|c| !c.is_control()).take(64).collect(),
        id: Uuid::parse_str(id).ok(),
        page: once(parameters, "page")?.map_or(Ok(FIRST_PAGE), page_number)?,
    })
}

/// The value of a parameter that may be given once.
fn once<'a>(parameters: &'a [Parameter], name: &str) -> Result<Option<&'a str>, ApiError> {
    let mut values = parameters.iter().filter(|parameter| parameter.name == name);
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(ApiError::invalid(format!("{name} may be given once."))),
        (value, None) => Ok(value.map(|parameter| parameter.value.as_str())),
    }
}

fn page_number(value: &str) -> Result<i32, ApiError> {
    value.parse().ok().filter(|page| *page >= FIRST_PAGE).ok_or_else(|| {
        ApiError::invalid("page must be the number of a page of the manifest, as a link of the one before it has it.")
    })
}

async fn find(app: &App, caller: &Principal, asked: &Asked) -> Result<Job, ApiError> {
    let found = match asked.id {
        Some(id) => job::find_for(&app.pool, id, &caller.owner).await?,
        None => None,
    };
    found.filter(|job| job.state != JobState::Cancelled).ok_or_else(|| unknown(asked))
}

fn unknown(asked: &Asked) -> ApiError {
    ApiError::not_theirs(format!("Unknown instance ID: {}. Please check if the input job ID is valid.", asked.text))
}

/// There is no such page, or the job has just expired.
fn no_page(asked: &Asked) -> ApiError {
    match asked.page {
        FIRST_PAGE => unknown(asked),
        page => ApiError::not_found(format!("The manifest has no page {page}. Follow the link of the one before it.")),
    }
}

/// `told` is who hears of the files: with HEAD nobody.
async fn poll(
    app: &App,
    caller: &Principal,
    told: Option<&Requester>,
    headers: &HeaderMap,
    asked: Asked,
) -> Result<Response, ApiError> {
    let job = find(app, caller, &asked).await?;
    if let Some(lost) = job.request.not_covered_by(&caller.types) {
        return Err(ApiError::no_more(lost));
    }
    // Only of jobs that are there, so that nobody fills the memory with ids; and before anything that costs more.
    if !app.polls.allow(job.id) {
        let text = "You ask for this export too often; wait as long as Retry-After says. The export goes on.";
        return Err(ApiError::throttled(text, SHORTEST_PAUSE));
    }
    match Prefer::read(headers).wait {
        None => answer(app, told, &asked, job).await,
        Some(time) => {
            let time = time.min(longest_wait(app));
            let job = wait_for_end(app, caller, &asked, &job, time).await?;
            Ok(waited(answer(app, told, &asked, job).await?, time))
        }
    }
}

/// In whole seconds; so much that there is time left to answer before the request takes too long.
fn longest_wait(app: &App) -> Duration {
    Duration::from_secs(app.config.http.request_timeout.saturating_sub(TO_ANSWER).as_secs())
}

/// The job when it has ended, or as it is after this time (RFC 7240, 4.3). No connection to the database is held
/// meanwhile, and a server that stops keeps nobody waiting.
async fn wait_for_end(
    app: &App,
    caller: &Principal,
    asked: &Asked,
    job: &Job,
    time: Duration,
) -> Result<Job, ApiError> {
    let mut end = app.announcements.end_of(job.id);
    let mut is_over = pin!(sleep(time));
    tracing::debug!(job.id = %job.id, "a poll waits for its end");
    loop {
        // Only now that its end would be heard: it may have come since the job was found.
        let job = find(app, caller, asked).await?;
        if job.state.is_final() {
            return Ok(job);
        }
        tokio::select! {
            () = end.announced() => {}
            () = sleep(LOOK_AGAIN) => {}
            () = &mut is_over => return Ok(job),
            () = app.stopping.cancelled() => return Ok(job),
        }
    }
}

/// Says how long the client was willing to wait. It may come back at once.
fn waited(mut response: Response, time: Duration) -> Response {
    let headers = response.headers_mut();
    headers.extend(HeaderValue::try_from(format!("wait={}", time.as_secs())).map(|wait| (PREFERENCE_APPLIED, wait)));
    if headers.contains_key(RETRY_AFTER) {
        headers.insert(RETRY_AFTER, HeaderValue::from(SHORTEST_PAUSE.as_secs()));
    }
    response
}

async fn answer(app: &App, told: Option<&Requester>, asked: &Asked, job: Job) -> Result<Response, ApiError> {
    let separate = job.request.separate_status;
    let response = status_of(app, told, asked, job).await?;
    Ok(if separate { separately(response) } else { response })
}

/// The answer is well whatever has become of the export, which a header says (rule C12).
fn separately(mut response: Response) -> Response {
    let status = response.status().to_string();
    response.headers_mut().extend(HeaderValue::try_from(status).map(|status| (EXPORT_STATUS, status)));
    *response.status_mut() = StatusCode::OK;
    response
}

async fn status_of(app: &App, told: Option<&Requester>, asked: &Asked, job: Job) -> Result<Response, ApiError> {
    // Only the page after those that are closed may come yet.
    if asked.page > job.pages + 1 {
        return Err(no_page(asked));
    }
    match job.state {
        JobState::Accepted | JobState::Running => in_progress(app, told, asked.page, &job).await,
        JobState::Completed => {
            let manifest = manifest(&app.pool, &job, asked.page, terms(app)).await?.ok_or_else(|| no_page(asked))?;
            note_told(app, told, &job, StatusCode::OK, asked.page, &manifest).await?;
            let headers = [(CONTENT_TYPE, JSON.to_owned()), (EXPIRES, http_date(job.expires_at))];
            Ok((StatusCode::OK, headers, manifest.json.to_string()).into_response())
        }
        JobState::Failed | JobState::Cancelled => {
            let text = job.failure.unwrap_or_else(|| "The export failed.".to_owned());
            let issue = Issue::error(IssueType::Processing, text);
            let mut response = outcome_response(StatusCode::INTERNAL_SERVER_ERROR, &[issue]);
            if let Ok(expires) = http_date(job.expires_at).parse() {
                response.headers_mut().insert(EXPIRES, expires);
            }
            Ok(response)
        }
    }
}

fn terms(app: &App) -> Terms<'_> {
    Terms { dialect: app.config.wire.dialect(), base: &app.base, secured: app.authenticator.requires_token() }
}

/// Before a client is told of files it is written down that it is.
async fn note_told(
    app: &App,
    told: Option<&Requester>,
    job: &Job,
    status: StatusCode,
    page: i32,
    manifest: &Manifest,
) -> Result<(), ApiError> {
    let Some(by) = told else { return Ok(()) };
    let detail = json!({ "page": page, "files": manifest.files, "resources": manifest.resources });
    let entry = Entry { detail, ..Entry::about_job(Kind::Manifest, by, job.id, status.as_u16()) };
    entry.write(&app.pool).await?;
    Ok(())
}

async fn in_progress(app: &App, told: Option<&Requester>, page: i32, job: &Job) -> Result<Response, ApiError> {
    let text = match app.config.wire.progress() {
        Progress::Percent => percent_text(app, job).await?,
        Progress::Hapi => hapi_text(job),
    };
    let headers = [(RETRY_AFTER, retry_after(job.age).as_secs().to_string()), (PROGRESS, text)];
    // A page that is told closes, so it has to be told to somebody.
    let manifest = if told.is_some() { partial_manifest(app, page, job).await? } else { None };
    Ok(match manifest {
        Some(manifest) => {
            note_told(app, told, job, StatusCode::ACCEPTED, page, &manifest).await?;
            (StatusCode::ACCEPTED, headers, [(CONTENT_TYPE, JSON)], manifest.json.to_string()).into_response()
        }
        None => (StatusCode::ACCEPTED, headers, [(CONTENT_LENGTH, "0")]).into_response(),
    })
}

/// The files that are ready, where the client wants to know of them before all are (rule C11); none if there is nothing
/// new.
async fn partial_manifest(app: &App, page: i32, job: &Job) -> Result<Option<Manifest>, ApiError> {
    if !job.request.partial_manifests || job.state != JobState::Running {
        return Ok(None);
    }
    if page > job.pages {
        page::close(&app.pool, job.id, page).await?;
    }
    Ok(manifest(&app.pool, job, page, terms(app)).await?)
}

async fn percent_text(app: &App, job: &Job) -> Result<String, ApiError> {
    if job.state == JobState::Accepted {
        return Ok("0% - waiting to start".to_owned());
    }
    let progress = progress(&app.pool, job.id).await?;
    if job.request.is_limited() {
        // How many resources were read is more than the caller may know.
        return Ok(format!("{}%", progress.percent()));
    }
    Ok(format!("{}% - {} of about {} resources", progress.percent(), progress.examined, progress.expected))
}

/// HAPI's words (rules A19, C3).
fn hapi_text(job: &Job) -> String {
    let (status, at) = match job.started_at {
        None => ("QUEUED", job.accepted_at),
        Some(started_at) => ("IN_PROGRESS", started_at),
    };
    let at = instant::format(at);
    format!("Build in progress - Status set to {status} at {}+00:00", at.trim_end_matches('Z'))
}

/// A tenth of the job's age: soon for a job that may be done in a moment, rarely for one that takes hours (rule C4).
fn retry_after(age: f64) -> Duration {
    Duration::try_from_secs_f64(age / 10.0).unwrap_or(Duration::ZERO).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

fn http_date(at: Option<OffsetDateTime>) -> String {
    at.map(|at| httpdate::fmt_http_date(SystemTime::from(at))).unwrap_or_default()
}

/// DELETE: ends a job, or says that its files are needed no more (rules D, K3).
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    address: Address,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let asked = asked(&parameters::of_query(query.as_deref())?)?;
    let job = find(&app, &caller, &asked).await?;
    let by = requester(&caller, address);
    let is_finished = matches!(job.state, JobState::Completed | JobState::Failed);
    if !is_finished && job::cancel(&app.pool, job.id, app.config.retention.files, Some(&by)).await? {
        app.useless.notify_one();
        tracing::info!(job.id = %job.id, "cancelled by its owner");
        return Ok(done(format!("Job instance {} successfully cancelled.", job.id)));
    }
    match app.config.wire.delete_completed() {
        DeleteCompleted::Purge => {
            job::discard(&app.pool, job.id, Some(&by)).await?;
            app.useless.notify_one();
            tracing::info!(job.id = %job.id, "discarded by its owner");
            Ok(done(format!("Job instance {} and its files are removed.", job.id)))
        }
        DeleteCompleted::Ehealth => Err(ApiError::not_found(format!(
            "Job instance {} was already cancelled or has completed.  Nothing to do.",
            job.id
        ))),
    }
}

fn done(text: String) -> Response {
    let issue = Issue { severity: Severity::Information, code: IssueType::Informational, text };
    outcome_response(StatusCode::ACCEPTED, &[issue])
}

#[cfg(test)]
mod tests {
    use super::*;

    // C4
    #[test]
    fn the_wait_grows_with_the_age_of_the_job() {
        let seconds = |age| retry_after(age).as_secs();
        assert_eq!((seconds(0.0), seconds(-5.0), seconds(9.0)), (1, 1, 1));
        assert_eq!((seconds(100.0), seconds(100_000.0)), (10, 60));
    }
}
