//! The FHIR API and the tokens for it: every route and every layer on one screen. Errors become OperationOutcomes here and
//! nowhere else.

mod address;
mod binary;
mod caller;
mod conditional;
mod cors;
mod denied;
mod error;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
mod idempotency;
mod kick_off;
mod limit;
mod metadata;
mod negotiate;
pub(crate) mod operator;
mod parameters;
mod poll_status;
mod request_id;
mod response;
pub(crate) mod serve;
mod space;
pub(crate) mod tls;
mod token;

pub(crate) use limit::{Downloads, Polls};

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state, map_request, map_response};
use axum::routing::{MethodRouter, get, post};
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tower::Layer;
use tower::util::option_layer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;

use self::request_id::X_REQUEST_ID;
use crate::config::Config;
use crate::database::DiskReserve;
use crate::export::announcement::Announcements;
use crate::identity::Authenticator;
use crate::ledger::Ledger;

/// For a year: a browser that has come by TLS comes by nothing else.
const ONLY_TLS: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// What every handler may use.
pub(crate) struct App {
    pub(crate) pool: PgPool,
    pub(crate) authenticator: Authenticator,
    /// The FHIR base as clients see it, without a slash at the end: the only source of absolute URLs (rule A22).
    pub(crate) base: String,
    pub(crate) config: Config,
    pub(crate) disk: DiskReserve,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) polls: Polls,
    pub(crate) downloads: Arc<Downloads>,
    /// Tells the reaper that the files of an export are of no use any more.
    pub(crate) useless: Arc<Notify>,
    /// Tell that an export has ended.
    pub(crate) announcements: Announcements,
    /// The CapabilityStatement as it is sent, once it is made.
    pub(crate) statement: OnceLock<Bytes>,
    /// Cancelled when nothing new is to be taken.
    pub(crate) stopping: CancellationToken,
}

/// The path of the FHIR base; the routes below it are FHIR's.
const FHIR: &str = "/fhir";

/// Where something is, the methods it has besides HEAD and OPTIONS, and who answers.
type Route = (&'static str, &'static [&'static str], MethodRouter<Arc<App>>);

/// Every route there is.
fn table() -> Vec<Route> {
    let kick_off = || get(kick_off::get).post(kick_off::post);
    let poll_status = get(poll_status::get).post(poll_status::post).delete(poll_status::delete);
    vec![
        ("/fhir/$export", &["GET", "POST"], kick_off()),
        ("/fhir/Patient/$export", &["GET", "POST"], kick_off()),
        ("/fhir/Patient/{id}/$export", &["GET", "POST"], kick_off()),
        ("/fhir/Group/{id}/$export", &["GET", "POST"], kick_off()),
        ("/fhir/$export-poll-status", &["GET", "POST", "DELETE"], poll_status),
        ("/fhir/Binary/{id}", &["GET"], get(binary::read)),
        ("/fhir/Binary/{id}/_history/{version}", &["GET"], get(binary::read_version)),
        ("/fhir/metadata", &["GET"], get(metadata::capability_statement)),
        ("/fhir/OperationDefinition/{id}", &["GET"], get(metadata::operation_definition)),
        ("/fhir/.well-known/smart-configuration", &["GET"], get(metadata::smart_configuration)),
        ("/auth/token", &["POST"], post(token::issue)),
        ("/auth/jwks", &["GET"], get(token::keys)),
    ]
}

/// Every route of the API: its path, with `{…}` for what varies, and its methods. For those who check that each is
/// guarded.
pub fn routes() -> Vec<(&'static str, &'static [&'static str])> {
    table().into_iter().map(|(path, methods, _)| (path, methods)).collect()
}

/// The API.
pub(crate) fn router(app: Arc<App>) -> Router {
    let config = app.config.http.clone();
    let add = |router: Router<_>, (path, _, handler): Route| router.route(path, handler);
    let routes = table().into_iter().fold(Router::new(), add).with_state(Arc::clone(&app));

    let too_slow = StatusCode::SERVICE_UNAVAILABLE;
    let routes = routes
        // From the innermost to the outermost.
        .layer(DefaultBodyLimit::max(config.max_body.as_usize()))
        .layer(from_fn_with_state(config.max_headers, limit::headers))
        .layer(TimeoutLayer::with_status_code(too_slow, config.request_timeout))
        .layer(CatchPanicLayer::new())
        .layer(map_response(response::as_outcome))
        .layer(from_fn_with_state(app, denied::count))
        .layer(SetResponseHeaderLayer::if_not_present(CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .layer(SetResponseHeaderLayer::if_not_present(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
        .layer(option_layer(
            config.tls.files().map(|_| SetResponseHeaderLayer::overriding(STRICT_TRANSPORT_SECURITY, ONLY_TLS)),
        ))
        // A preflight has no token, and is none of a route's methods.
        .layer(option_layer(cors::layer(&config.cors_origins)))
        .layer(from_fn(response::log))
        .layer(PropagateRequestIdLayer::new(X_REQUEST_ID))
        .layer(SetRequestIdLayer::new(X_REQUEST_ID, MakeRequestUuid))
        .layer(map_request(request_id::keep_if_good))
        .layer(SetSensitiveRequestHeadersLayer::new([AUTHORIZATION]));
    // Before the routes are matched: a `$` may arrive as %24 (rule J11).
    Router::new().fallback_service(map_request(response::decode_dollar).layer(routes))
}
