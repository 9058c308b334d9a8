//! What is refused while the database's disk has less free space than `database.reserve`: what would take more of it.

use std::time::Duration;

use axum::http::StatusCode;

use super::App;
use super::error::ApiError;
use crate::fhir::outcome::IssueType;

/// Whether there is space, and what the client hears if there is none.
pub(super) async fn check_space(app: &App, without: &'static str) -> Result<(), ApiError> {
    if !app.disk.is_short(&app.pool).await? {
        return Ok(());
    }
    tracing::error!(without, "refused: the database's disk has less free space than database.reserve");
    let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, IssueType::NoStore, without);
    Err(error.retry_after(Duration::from_secs(300)))
}
