//! Every error as its status and OperationOutcome: the only place where an error becomes an answer.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::header::{ACCEPT_RANGES, CONTENT_RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::denied::NotTheirs;
use super::limit::TooMany;
use super::response::outcome_response;
use crate::export::admission::NotAccepted;
use crate::export::chosen::NotChosen;
use crate::export::request::Refused;
use crate::fhir::outcome::{Issue, IssueType};
use crate::identity;

/// An answer that is not what was asked for.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    issues: Vec<Issue>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// For another caller it might be there.
    is_not_theirs: bool,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: IssueType, text: impl Into<Cow<'static, str>>) -> Self {
        let issues = vec![Issue::error(code, text.into())];
        Self { status, issues, headers: Vec::new(), is_not_theirs: false }
    }

    pub(super) fn invalid(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, IssueType::Invalid, text)
    }

    /// Unknown, expired or somebody else's: the same answer, byte for byte (rule D9).
    pub(super) fn not_theirs(text: impl Into<Cow<'static, str>>) -> Self {
        Self { is_not_theirs: true, ..Self::not_found(text) }
    }

    pub(super) fn not_found(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, IssueType::NotFound, text)
    }

    fn forbidden(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, IssueType::Forbidden, text)
    }

    /// The token is good, but does not permit this (rule I1).
    pub(super) fn insufficient(text: impl Into<Cow<'static, str>>) -> Self {
        Self::forbidden(text).challenge(r#"Bearer realm="fhir", error="insufficient_scope""#)
    }

    /// An export holds what the token of this call gives no right to, or not to all of it (rule I5).
    pub(super) fn no_more(resource_type: impl std::fmt::Display) -> Self {
        Self::insufficient(format!("Your token does not have the right to {resource_type} any more."))
    }

    /// A temporary failure that says nothing about a job (rule C7).
    pub(super) fn unavailable(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, IssueType::Transient, text).retry_after(Duration::from_secs(5))
    }

    /// Too much of something that is good in measure.
    pub(super) fn throttled(text: impl Into<Cow<'static, str>>, again: Duration) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, IssueType::Throttled, text).retry_after(again)
    }

    /// The client named a state of the file that is not the state it has (RFC 9110, 15.5.13).
    pub(super) fn precondition_failed() -> Self {
        let text = "The file is not as If-Match or If-Unmodified-Since wants it.";
        Self::new(StatusCode::PRECONDITION_FAILED, IssueType::Processing, text)
    }

    /// The client wants bytes from behind the end; it learns where that is (RFC 9110, 15.5.17).
    pub(super) fn unsatisfiable(length: u64) -> Self {
        let text = format!("The range lies outside the file, which in this encoding is {length} bytes long.");
        let mut error = Self::new(StatusCode::RANGE_NOT_SATISFIABLE, IssueType::Value, text);
        error.headers.push((ACCEPT_RANGES, HeaderValue::from_static("bytes")));
        // Digits are good in a header.
        error.headers.extend(HeaderValue::try_from(format!("bytes */{length}")).map(|range| (CONTENT_RANGE, range)));
        error
    }

    pub(super) fn retry_after(mut self, time: Duration) -> Self {
        self.headers.push((RETRY_AFTER, HeaderValue::from(time.as_secs().max(1))));
        self
    }

    fn challenge(mut self, challenge: &'static str) -> Self {
        self.headers.push((WWW_AUTHENTICATE, HeaderValue::from_static(challenge)));
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = outcome_response(self.status, &self.issues);
        response.headers_mut().extend(self.headers);
        if self.is_not_theirs {
            response.extensions_mut().insert(NotTheirs);
        }
        response
    }
}

/// The database could not do it now; the cause is logged, the client hears that it may try again.
impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        tracing::error!(%error, "database");
        Self::unavailable("The database cannot be used at the moment. Try again later.")
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Invalid(issues) => {
                Self { status: StatusCode::BAD_REQUEST, issues, headers: Vec::new(), is_not_theirs: false }
            }
            Refused::Forbidden(types) => {
                let names: Vec<_> = types.iter().map(|t| t.as_str()).collect();
                Self::insufficient(format!("You may not export {}.", names.join(", ")))
            }
        }
    }
}

impl From<NotAccepted> for ApiError {
    fn from(error: NotAccepted) -> Self {
        match error {
            NotAccepted::Database(error) => error.into(),
            NotAccepted::OwnerLimit(_) | NotAccepted::QueueLimit(_) => {
                Self::throttled(format!("Too many exports: {error}."), Duration::from_secs(30))
            }
            NotAccepted::KeyInUse => {
                let text = "The Idempotency-Key was used for another request, or when you had other rights. Send the \
                            very same request, or another key.";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, IssueType::BusinessRule, text)
            }
        }
    }
}

impl From<NotChosen> for ApiError {
    fn from(error: NotChosen) -> Self {
        match error {
            NotChosen::Database(error) => error.into(),
            NotChosen::Gone(_) => Self::not_found(error.to_string()),
            NotChosen::Unreadable(_) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, IssueType::Processing, error.to_string())
            }
        }
    }
}

impl From<TooMany> for ApiError {
    fn from(error: TooMany) -> Self {
        Self::throttled(format!("Too many downloads: {error}."), Duration::from_secs(5))
    }
}

impl From<identity::Error> for ApiError {
    fn from(error: identity::Error) -> Self {
        use identity::Error;
        let text = error.to_string();
        match error {
            Error::NoToken => {
                Self::new(StatusCode::UNAUTHORIZED, IssueType::Login, text).challenge(r#"Bearer realm="fhir""#)
            }
            Error::InvalidToken { .. } => Self::new(StatusCode::UNAUTHORIZED, IssueType::Login, text)
                .challenge(r#"Bearer realm="fhir", error="invalid_token""#),
            Error::Expired => Self::new(StatusCode::UNAUTHORIZED, IssueType::Expired, text)
                .challenge(r#"Bearer realm="fhir", error="invalid_token", error_description="The token has expired""#),
            Error::NotAllowed => Self::insufficient(text),
            Error::Unavailable { what } => {
                // Whoever could not have it has said why, and once for many callers.
                tracing::debug!(what, "tokens cannot be checked");
                Self::unavailable("Tokens cannot be checked at the moment. Try again later.")
            }
            Error::Database(error) => error.into(),
            Error::Configuration { problem } => {
                tracing::error!(problem, "configuration");
                Self::unavailable("Tokens cannot be checked at the moment. Try again later.")
            }
        }
    }
}
