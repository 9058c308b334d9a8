//! `/auth`: registered clients get access tokens, and everybody the keys that these are signed with (rules I8 to I17).
//! Here OAuth 2.0 speaks, not FHIR: errors are those of RFC 6749, section 5.2.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::App;
use super::error::ApiError;
use crate::identity::{AccessToken, Denied, Refusal, Wish};

/// Far more than a request for a token needs, in bytes and in parameters.
const MAX_BODY: usize = 64 * 1024;
const MAX_PARAMETERS: usize = 32;

const FORM: &str = "application/x-www-form-urlencoded";
const BY_ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// For what there is only where clients are registered.
pub(super) fn not_here() -> ApiError {
    ApiError::not_found("No clients are registered here, so the server issues no tokens.")
}

/// `POST /auth/token`
pub(super) async fn issue(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    let Some(backend) = app.authenticator.backend() else { return not_here().into_response() };
    let granted = async {
        let form = Form::read(&headers, body).await?;
        Ok(backend.grant(&form.wish()?).await?)
    };
    match granted.await {
        Ok(token) => token.into_response(),
        Err(error) => {
            TokenError::log(&error);
            error.into_response()
        }
    }
}

/// `GET /auth/jwks`. A key is published an hour before it signs, so it may be kept some minutes.
pub(super) async fn keys(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let backend = app.authenticator.backend().ok_or_else(not_here)?;
    let keys = backend.jwks().await?;
    Ok(([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "public, max-age=300")], keys).into_response())
}

/// Why there is no token.
struct TokenError {
    status: StatusCode,
    error: &'static str,
    description: Cow<'static, str>,
    /// Who is refused, if that is verified.
    client: Option<String>,
}

/// The parameters of a request; none is there twice or without a value (RFC 6749, section 3.2).
struct Form(HashMap<String, String>);

impl Form {
    async fn read(headers: &HeaderMap, body: Body) -> Result<Self, TokenError> {
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case(FORM) {
            return Err(TokenError::invalid_request(format!("the body must be {FORM}")));
        }
        let body = to_bytes(body, MAX_BODY).await;
        let body = body.map_err(|_| TokenError::invalid_request("the body is too long, or broken off"))?;
        let mut parameters = HashMap::new();
        for (n, (name, value)) in url::form_urlencoded::parse(&body).into_owned().enumerate() {
            if n >= MAX_PARAMETERS {
                return Err(TokenError::invalid_request("there are too many parameters"));
            }
            if parameters.insert(name, value).is_some() {
                return Err(TokenError::invalid_request("a parameter is there twice"));
            }
        }
        parameters.retain(|_, value| !value.is_empty());
        Ok(Self(parameters))
    }

    fn wish(&self) -> Result<Wish<'_>, TokenError> {
        match self.optional("grant_type") {
            Some("client_credentials") => {}
            Some(_) => return Err(TokenError::bad("unsupported_grant_type", "grant_type must be client_credentials")),
            None => return Err(TokenError::invalid_request("grant_type is missing")),
        }
        if self.required("client_assertion_type")? != BY_ASSERTION {
            return Err(TokenError::invalid_request(format!("client_assertion_type must be {BY_ASSERTION}")));
        }
        Ok(Wish {
            assertion: self.required("client_assertion")?,
            client_id: self.optional("client_id"),
            scope: self.required("scope")?,
        })
    }

    fn optional(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn required(&self, name: &str) -> Result<&str, TokenError> {
        self.optional(name).ok_or_else(|| TokenError::invalid_request(format!("{name} is missing")))
    }
}

impl TokenError {
    fn bad(error: &'static str, description: impl Into<Cow<'static, str>>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, description: description.into(), client: None }
    }

    fn invalid_request(description: impl Into<Cow<'static, str>>) -> Self {
        Self::bad("invalid_request", description)
    }

    /// Nothing that a client sent but its id, if it was verified.
    fn log(&self) {
        let (error, reason, client) = (self.error, &*self.description, self.client.as_deref());
        tracing::info!(error, reason, client, "refused a client");
    }
}

impl From<Refusal> for TokenError {
    fn from(Refusal { client, denied }: Refusal) -> Self {
        let refused = match denied {
            Denied::Client(reason) => Self { status: StatusCode::UNAUTHORIZED, ..Self::bad("invalid_client", reason) },
            Denied::Scope(reason) => Self::bad("invalid_scope", reason),
            Denied::Trouble(error) => {
                tracing::error!(%error, "cannot issue an access token");
                // RFC 6749 has this name for it, at another endpoint.
                let text = "no token can be issued at the moment; try again later";
                Self { status: StatusCode::SERVICE_UNAVAILABLE, ..Self::bad("temporarily_unavailable", text) }
            }
        };
        Self { client, ..refused }
    }
}

impl IntoResponse for TokenError {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.error, "error_description": self.description });
        let mut response = (self.status, oauth_headers(), body.to_string()).into_response();
        let further: Option<(HeaderName, &str)> = match self.status {
            StatusCode::UNAUTHORIZED => Some((WWW_AUTHENTICATE, r#"Bearer realm="token", error="invalid_client""#)),
            StatusCode::SERVICE_UNAVAILABLE => Some((RETRY_AFTER, "5")),
            _ => None,
        };
        response.headers_mut().extend(further.map(|(name, value)| (name, HeaderValue::from_static(value))));
        response
    }
}

impl IntoResponse for AccessToken {
    fn into_response(self) -> Response {
        (StatusCode::OK, oauth_headers(), json!(self).to_string()).into_response()
    }
}

/// RFC 6749, section 5.1.
fn oauth_headers() -> [(HeaderName, &'static str); 3] {
    [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store"), (PRAGMA, "no-cache")]
}
