//! `[base]/Binary/<id>`: the files of an export (rules F).

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_TYPE, ETAG, LAST_MODIFIED, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;

use super::App;
use super::caller::FileReader;
use super::error::ApiError;
use super::negotiate::representation;
use super::response::fhir_json;
use crate::binary::download::{Download, Representation};
use crate::binary::{Binary, find_for};
use crate::fhir::outcome::IssueType;
use crate::fhir::parameters;
use crate::fhir::resource_type::ResourceType;
use crate::identity::Principal;

/// GET and HEAD.
pub(super) async fn read(
    State(app): State<Arc<App>>,
    FileReader(caller): FileReader,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    answer(&app, &caller, &id, query.as_deref().unwrap_or_default(), &headers).await
}

/// GET and HEAD of a version: a file has only the first (rule F16).
pub(super) async fn read_version(
    State(app): State<Arc<App>>,
    FileReader(caller): FileReader,
    Path((id, version)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if version != "1" {
        return Err(unknown());
    }
    answer(&app, &caller, &id, query.as_deref().unwrap_or_default(), &headers).await
}

/// Never was, is gone, or is somebody else's (rules F15, F17).
fn unknown() -> ApiError {
    ApiError::not_found("There is no such file; it may have expired.")
}

async fn answer(
    app: &App,
    caller: &Principal,
    id: &str,
    query: &str,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let binary = find_for(&app.pool, id, &caller.owner).await?.ok_or_else(unknown)?;
    check_types(caller, &binary)?;
    let parameters = parameters::from_query(query);
    let format = parameters.iter().find(|parameter| parameter.name == "_format");
    let representation = representation(headers, format.map(|format| format.value.as_str())).ok_or_else(|| {
        ApiError::new(
            StatusCode::NOT_ACCEPTABLE,
            IssueType::NotSupported,
            "A file is available as application/fhir+ndjson, and as a Binary resource in application/fhir+json.",
        )
    })?;
    let headers = file_headers(app, &binary, representation)?;
    let download = Download::new(app.pool.clone(), binary, representation, app.config.retention.download_grace);
    let length = download.length();
    let mut response = Response::new(Body::from_stream(download.stream()));
    *response.headers_mut() = headers;
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    Ok(response)
}

/// The rights of the token of this call count, not those of the kick-off (rule I5).
fn check_types(caller: &Principal, binary: &Binary) -> Result<(), ApiError> {
    let may_read = |name: &String| ResourceType::parse(name).is_some_and(|found| caller.types.allows(found));
    match binary.about.iter().find(|name| !may_read(name)) {
        None => Ok(()),
        Some(name) => Err(ApiError::insufficient(format!("Your token does not have the right to {name} any more."))),
    }
}

fn file_headers(app: &App, binary: &Binary, representation: Representation) -> Result<HeaderMap, ApiError> {
    let mut headers = HeaderMap::new();
    let sha256: String = binary.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    let (content_type, etag) = match representation {
        Representation::FhirJson => (fhir_json(), r#"W/"1""#.to_owned()),
        Representation::Identity => (ndjson(), format!("\"{sha256}\"")),
        Representation::Gzip => (ndjson(), format!("\"{sha256}-gzip\"")),
    };
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(ETAG, header(etag)?);
    if representation == Representation::Gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding, Authorization"));
    headers.insert(LAST_MODIFIED, header(httpdate::fmt_http_date(SystemTime::from(binary.created_at)))?);
    headers.insert(CONTENT_LOCATION, header(format!("{}/Binary/{}/_history/1", app.base, binary.id))?);
    Ok(headers)
}

fn ndjson() -> HeaderValue {
    HeaderValue::from_static("application/fhir+ndjson")
}

/// Only a public base URL with odd characters cannot be a header.
fn header(value: String) -> Result<HeaderValue, ApiError> {
    HeaderValue::try_from(value).map_err(|error| {
        tracing::error!(%error, "http.public_base_url cannot stand in a header");
        ApiError::unavailable("The server is not set up correctly.")
    })
}
