//! The second listener, for operators and their probes: is it alive, can it work. Nothing of the data.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use super::App;

/// `/healthz`, `/readyz`.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new().route("/healthz", get(alive)).route("/readyz", get(ready)).with_state(app)
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
    .fetch_one(&app.pool)
    .await;
    match answers {
        Ok(_) => (StatusCode::OK, "ok\n"),
        Err(error) => {
            tracing::warn!(%error, "not ready: the database does not answer");
            (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n")
        }
    }
}
