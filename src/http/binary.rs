//! `[base]/Binary/<id>`: the files of an export (rules F), whole or in part, and only if the client still wants them.

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    LAST_MODIFIED, VARY,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use httpdate::HttpDate;
use serde::Deserialize;

use super::App;
use super::address::Address;
use super::caller::{FileReader, requester};
use super::conditional::{Current, Wanted, wanted};
use super::error::ApiError;
use super::negotiate::representation;
use super::parameters;
use super::response::fhir_json;
use super::space::check_space;
use crate::binary::download::{Download, Representation};
use crate::binary::{Binary, find_for, hexadecimal};
use crate::export::request::ExportRequest;
use crate::fhir::outcome::IssueType;
use crate::identity::Principal;
use crate::ledger::{Requester, Sending};

/// GET and HEAD.
pub(super) async fn read(
    State(app): State<Arc<App>>,
    FileReader(caller): FileReader,
    address: Address,
    Path(id): Path<String>,
    request: Parts,
) -> Result<Response, ApiError> {
    answer(&app, &caller, address, &id, &request).await
}

/// GET and HEAD of a version: a file has only the first (rule F16).
pub(super) async fn read_version(
    State(app): State<Arc<App>>,
    FileReader(caller): FileReader,
    address: Address,
    Path((id, version)): Path<(String, String)>,
    request: Parts,
) -> Result<Response, ApiError> {
    if version != "1" {
        return Err(unknown());
    }
    answer(&app, &caller, address, &id, &request).await
}

/// Never was, is gone, or is somebody else's (rules F15, F17).
fn unknown() -> ApiError {
    ApiError::not_theirs("There is no such file; it may have expired.")
}

async fn answer(
    app: &App,
    caller: &Principal,
    address: Address,
    id: &str,
    request: &Parts,
) -> Result<Response, ApiError> {
    // Whether there is anything for this caller comes before what of it is wanted (RFC 9110, 13.2.1).
    let binary = find_for(&app.pool, id, &caller.owner).await?.ok_or_else(unknown)?;
    check_rights(caller, &binary)?;
    let parameters = parameters::of_query(request.uri.query())?;
    let format = parameters.iter().find(|parameter| parameter.name == "_format");
    let format = format.map(|format| format.value.as_str());
    let representation = representation(&request.headers, format).ok_or_else(|| {
        ApiError::new(
            StatusCode::NOT_ACCEPTABLE,
            IssueType::NotSupported,
            "A file is available as application/fhir+ndjson, and as a Binary resource in application/fhir+json.",
        )
    })?;
    let etag = etag(&binary, representation);
    let last_modified = HttpDate::from(SystemTime::from(binary.created_at));
    let validators = validators(app, &binary, &etag, last_modified)?;
    let download = Download::new(app.pool.clone(), binary, representation, app.config.retention.download_grace);
    let length = download.length();
    let ranges_of = (representation != Representation::FhirJson).then_some(length);
    match wanted(&request.method, &request.headers, &Current { etag: &etag, last_modified, ranges_of }) {
        Wanted::Whole => {
            let by = requester(caller, address);
            let content = content(app, by, StatusCode::OK, &request.method, download).await?;
            Ok(sent(StatusCode::OK, length, content, representation, validators))
        }
        Wanted::Part(range) => {
            let content_range = format!("bytes {}-{}/{length}", range.start(), range.end());
            let download = download.part(range);
            let length = download.length();
            let by = requester(caller, address);
            let content = content(app, by, StatusCode::PARTIAL_CONTENT, &request.method, download).await?;
            let mut response = sent(StatusCode::PARTIAL_CONTENT, length, content, representation, validators);
            response.headers_mut().insert(CONTENT_RANGE, header(content_range)?);
            Ok(response)
        }
        Wanted::NotModified => Ok(not_modified(&request.method, length, validators)),
        Wanted::PreconditionFailed => Err(ApiError::precondition_failed()),
        Wanted::Unsatisfiable => Err(ApiError::unsatisfiable(length)),
    }
}

/// What is sent, if one more download may be under way, and if it is written down that it is. HEAD sends nothing, so it is
/// none.
async fn content(
    app: &App,
    by: Requester,
    status: StatusCode,
    method: &Method,
    download: Download,
) -> Result<Body, ApiError> {
    if method == Method::HEAD {
        return Ok(Body::empty());
    }
    let range = download.range();
    let under_way = app.downloads.begin(&by.owner, &range.file)?;
    check_space(app, "There is no space left to write down who gets the file. Try again later.").await?;
    let sending = Sending::begin(&app.ledger, by, status.as_u16(), range).await?;
    Ok(Body::from_stream(under_way.counting(sending.counting(download.stream()))))
}

fn sent(
    status: StatusCode,
    length: u64,
    content: Body,
    representation: Representation,
    validators: HeaderMap,
) -> Response {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    *headers = validators;
    let (content_type, ranges) = match representation {
        Representation::FhirJson => (fhir_json(), "none"),
        Representation::Identity | Representation::Gzip => {
            (HeaderValue::from_static("application/fhir+ndjson"), "bytes")
        }
    };
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static(ranges));
    if representation == Representation::Gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// Says nothing of the content but how to know it again (RFC 9110, 15.4.5).
fn not_modified(method: &Method, length: u64, validators: HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    *response.headers_mut() = validators;
    // An empty body gets a Content-Length of 0 from axum, which would be untrue of the file (8.6). hyper takes it out
    // of the answer to a GET, but not to a HEAD.
    if method == Method::HEAD {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    response
}

/// The rights of the token of this call count, not those of the kick-off (rule I5).
fn check_rights(caller: &Principal, binary: &Binary) -> Result<(), ApiError> {
    let request = ExportRequest::deserialize(&binary.request.0).map_err(|error| {
        tracing::error!(job.id = %binary.job, %error, "the request of an export cannot be read");
        ApiError::unavailable("The file cannot be had from this server at the moment. Try again later.")
    })?;
    match request.file_not_covered_by(binary.is_of_one_type, &binary.resource_type, &caller.types) {
        None => Ok(()),
        Some(lost) => Err(ApiError::no_more(lost)),
    }
}

/// Strong for the bytes of a file, another for each encoding; weak for the resource, whose JSON may change with the
/// program (rule A24).
fn etag(binary: &Binary, representation: Representation) -> String {
    let sha256 = hexadecimal(&binary.sha256);
    match representation {
        Representation::FhirJson => r#"W/"1""#.to_owned(),
        Representation::Identity => format!("\"{sha256}\""),
        Representation::Gzip => format!("\"{sha256}-gzip\""),
    }
}

/// What a client needs to know a file again: the same with and without its content.
fn validators(app: &App, binary: &Binary, etag: &str, last_modified: HttpDate) -> Result<HeaderMap, ApiError> {
    let mut headers = HeaderMap::new();
    headers.insert(ETAG, header(etag.to_owned())?);
    headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding, Authorization"));
    headers.insert(LAST_MODIFIED, header(last_modified.to_string())?);
    headers.insert(CONTENT_LOCATION, header(format!("{}/Binary/{}/_history/1", app.base, binary.id))?);
    Ok(headers)
}

/// Only a public base URL with odd characters cannot be a header.
fn header(value: String) -> Result<HeaderValue, ApiError> {
    HeaderValue::try_from(value).map_err(|error| {
        tracing::error!(%error, "http.public_base_url cannot stand in a header");
        ApiError::unavailable("The server is not set up correctly.")
    })
}
