//! The second listener, for operators and their probes: is it alive, can it work. Nothing of the data.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::routing::get;
use tokio::time::timeout;
use tower_http::set_header::SetResponseHeaderLayer;

use super::App;

/// Of the database. Who asks does not wait much longer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// `/healthz`, `/readyz`.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .layer(SetResponseHeaderLayer::overriding(CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .layer(SetResponseHeaderLayer::overriding(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
        .with_state(app)
}

/// The process answers.
async fn alive() -> &'static str {
    "ok\n"
}

/// It takes new work: the database answers, and it is not stopping.
async fn ready(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    if app.stopping.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    let answers = sqlx::query_scalar!(
        r#"-- http.operator.ready
        select 1 as "one!""#
    )
    .fetch_one(&app.pool);
    match timeout(ANSWERS_WITHIN, answers).await {
        Ok(Ok(_)) => return (StatusCode::OK, "ok\n"),
        Ok(Err(error)) => tracing::warn!(%error, "not ready: the database does not answer"),
        Err(_) => tracing::warn!("not ready: the database does not answer in time"),
    }
    (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n")
}
