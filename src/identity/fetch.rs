//! Asking others over HTTP: issuers and clients for keys, issuers about tokens.
//!
//! Answers are bounded in time and size and redirects are not followed, so that nobody can hold up a request or send the
//! server elsewhere.

use std::error::Error as _;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Client, RequestBuilder, StatusCode};

use super::{Error, configuration};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For one answer, body included. Discovery needs two.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Of keys, or of a file that has them.
pub(super) const MAX_SIZE: u64 = 1024 * 1024;

/// Why there is no answer; for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{}", chain(.0))]
    Http(reqwest::Error),
    #[error("the answer's status is {0}")]
    Status(StatusCode),
    #[error("more than {0} bytes")]
    TooLarge(u64),
}

pub(super) fn client() -> Result<Client, Error> {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| configuration(format!("no TLS client for issuers: {}", chain(&error))))
}

/// Header and body of the answer to a request, which is not longer than this.
pub(super) async fn answer(request: RequestBuilder, max_size: u64) -> Result<(HeaderMap, Vec<u8>), FetchError> {
    let mut answer = request.send().await?;
    if answer.status() != StatusCode::OK {
        return Err(FetchError::Status(answer.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if (body.len() + chunk.len()) as u64 > max_size {
            return Err(FetchError::TooLarge(max_size));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((answer.headers().clone(), body))
}

impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        // A URL's query may hold what is not for the log.
        Self::Http(error.without_url())
    }
}

/// `reqwest` says what went wrong only in its error's sources.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
