//! Getting an issuer's keys: from a file, a URL, or by OpenID Connect Discovery 1.0.
//!
//! Answers are bounded in time and size and redirects are not followed, so that no issuer can hold
//! up a request or send the server elsewhere.

use std::error::Error as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{CACHE_CONTROL, HeaderMap};
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;

use super::config::{self, IssuerConfig, KeySource};
use super::keys::KeySet;
use super::{Error, configuration};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For one answer, body included. Discovery needs two.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_SIZE: u64 = 1024 * 1024;

/// Where keys are had from.
#[derive(Clone)]
pub(super) enum Source {
    File(PathBuf),
    Jwks { client: Client, url: Url },
    Discovery { client: Client, url: Url, issuer: String },
}

/// Keys, and for how long they are good.
pub(super) struct Loaded {
    pub(super) keys: KeySet,
    pub(super) lifetime: Lifetime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// A file: until a token names a key it has not.
    Unbounded,
    /// By `Cache-Control`.
    Stated(Duration),
    Unstated,
}

/// Why keys could not be had; for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("{}", chain(.0))]
    Http(reqwest::Error),
    #[error("the answer's status is {0}")]
    Status(StatusCode),
    #[error("more than {MAX_SIZE} bytes")]
    TooLarge,
    #[error("the file cannot be read: {0}")]
    File(#[from] std::io::Error),
    #[error("not the JSON expected: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the discovery document is of another issuer")]
    OtherIssuer,
    #[error("the discovered jwks_uri is refused: {0}")]
    BadUrl(&'static str),
    #[error("the reading task failed")]
    Task,
}

#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    jwks_uri: String,
}

impl Source {
    pub(super) fn new(config: &IssuerConfig) -> Result<Self, Error> {
        Ok(match config.check()? {
            KeySource::File(path) => Self::File(path),
            KeySource::Jwks(url) => Self::Jwks { client: client()?, url },
            KeySource::Discovery(url) => Self::Discovery { client: client()?, url, issuer: config.issuer.clone() },
        })
    }

    pub(super) async fn load(&self) -> Result<Loaded, LoadError> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                tokio::task::spawn_blocking(move || load_file(&path)).await.map_err(|_| LoadError::Task)?
            }
            Self::Jwks { client, url } => load_jwks(client, url.clone()).await,
            Self::Discovery { client, url, issuer } => {
                let url = discover(client, url.clone(), issuer).await?;
                load_jwks(client, url).await
            }
        }
    }
}

/// Blocks; for use at start.
pub(super) fn load_file(path: &Path) -> Result<Loaded, LoadError> {
    let mut json = Vec::new();
    std::fs::File::open(path)?.take(MAX_SIZE + 1).read_to_end(&mut json)?;
    if json.len() as u64 > MAX_SIZE {
        return Err(LoadError::TooLarge);
    }
    Ok(Loaded { keys: KeySet::parse(&json)?, lifetime: Lifetime::Unbounded })
}

fn client() -> Result<Client, Error> {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| configuration(format!("no TLS client for issuers: {}", chain(&error))))
}

async fn load_jwks(client: &Client, url: Url) -> Result<Loaded, LoadError> {
    let (headers, json) = get(client, url).await?;
    Ok(Loaded { keys: KeySet::parse(&json)?, lifetime: lifetime(&headers) })
}

async fn discover(client: &Client, url: Url, issuer: &str) -> Result<Url, LoadError> {
    let (_, json) = get(client, url).await?;
    let document: Discovered = serde_json::from_slice(&json)?;
    // Else one issuer could pass off another's keys as its own (Discovery 1.0, section 4.3).
    if document.issuer != issuer {
        return Err(LoadError::OtherIssuer);
    }
    config::safe_url(&document.jwks_uri).map_err(LoadError::BadUrl)
}

async fn get(client: &Client, url: Url) -> Result<(HeaderMap, Vec<u8>), LoadError> {
    let mut answer = client.get(url).send().await?;
    if answer.status() != StatusCode::OK {
        return Err(LoadError::Status(answer.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if (body.len() + chunk.len()) as u64 > MAX_SIZE {
            return Err(LoadError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok((answer.headers().clone(), body))
}

/// RFC 9111, section 5.2.2, as far as a private cache of one document needs it.
fn lifetime(headers: &HeaderMap) -> Lifetime {
    let mut stated = Lifetime::Unstated;
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    for directive in values.flat_map(|value| value.split(',')) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return Lifetime::Stated(Duration::ZERO),
            "max-age" => {
                if let Ok(seconds) = value.trim().trim_matches('"').parse() {
                    stated = Lifetime::Stated(Duration::from_secs(seconds));
                }
            }
            _ => {}
        }
    }
    stated
}

impl From<reqwest::Error> for LoadError {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::testing::{self, Key, Server};
    use super::*;

    async fn load(server: &Server) -> Result<Loaded, LoadError> {
        Source::new(&testing::config(&server.url, None)).unwrap().load().await
    }

    #[tokio::test]
    async fn discovery_leads_to_the_keys() {
        let server = Server::start(&[&Key::es256("one")]).await;
        server.answer.lock().unwrap().cache_control = Some("public, max-age=300");
        let loaded = load(&server).await.unwrap();
        assert!(!loaded.keys.is_empty());
        assert_eq!(loaded.lifetime, Lifetime::Stated(Duration::from_secs(300)));
        let direct = IssuerConfig {
            jwks: Some(format!("{}/jwks", server.url)),
            ..testing::config("https://elsewhere.example", None)
        };
        assert!(!Source::new(&direct).unwrap().load().await.unwrap().keys.is_empty());
        assert_eq!(server.discoveries.load(Ordering::Relaxed), 1);
        assert_eq!(server.fetches.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn discovered_documents_are_checked() {
        let server = Server::start(&[]).await;
        server.answer.lock().unwrap().issuer = Some("https://other.example".into());
        assert!(matches!(load(&server).await, Err(LoadError::OtherIssuer)));
        {
            let mut answer = server.answer.lock().unwrap();
            answer.issuer = None;
            answer.jwks_uri = Some("http://keys.example/jwks".into());
        }
        assert!(matches!(load(&server).await, Err(LoadError::BadUrl(_))));
        assert_eq!(server.fetches.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn bad_answers() {
        let server = Server::start(&[]).await;
        server.answer.lock().unwrap().status = 302;
        assert!(matches!(load(&server).await, Err(LoadError::Status(_))));
        server.answer.lock().unwrap().status = 500;
        assert!(matches!(load(&server).await, Err(LoadError::Status(_))));
        {
            let mut answer = server.answer.lock().unwrap();
            answer.status = 200;
            answer.jwks = "<html>".into();
        }
        assert!(matches!(load(&server).await, Err(LoadError::Json(_))));
        server.answer.lock().unwrap().jwks = " ".repeat(MAX_SIZE as usize + 1);
        assert!(matches!(load(&server).await, Err(LoadError::TooLarge)));
    }

    #[test]
    fn large_files_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_SIZE + 1).unwrap();
        assert!(matches!(load_file(file.path()), Err(LoadError::TooLarge)));
    }

    #[test]
    fn cache_control() {
        let stated = |seconds| Lifetime::Stated(Duration::from_secs(seconds));
        for (value, expected) in [
            ("max-age=300", stated(300)),
            ("public, Max-Age=\"60\"", stated(60)),
            ("no-cache", stated(0)),
            ("max-age=300, no-store", stated(0)),
            ("max-age=soon", Lifetime::Unstated),
            ("s-maxage=9", Lifetime::Unstated),
            ("", Lifetime::Unstated),
        ] {
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, value.parse().unwrap())]);
            assert_eq!(lifetime(&headers), expected, "{value}");
        }
        assert_eq!(lifetime(&HeaderMap::new()), Lifetime::Unstated);
    }
}
