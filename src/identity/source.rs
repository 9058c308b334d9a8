//! Getting the keys of an issuer or a client: from the configuration itself, a file, a URL, or by OpenID Connect
//! Discovery 1.0.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{ACCEPT, CACHE_CONTROL, HeaderMap};
use reqwest::{Client, Url};
use serde::Deserialize;

use super::Error;
use super::config::{self, KeySource};
use super::fetch::{self, FetchError, MAX_SIZE};
use super::keys::{BadKeys, KeySet};

/// Where keys are had from, and how they are read.
pub(super) struct Source {
    place: Place,
    read: Reading,
}

enum Place {
    Inline(String),
    File(PathBuf),
    Jwks { client: Client, url: Url },
    Discovery { client: Client, url: Url, issuer: String },
}

/// How a JSON Web Key Set is read: [`KeySet::of_issuer`] or [`KeySet::of_client`].
type Reading = fn(&[u8]) -> Result<KeySet, BadKeys>;

/// Keys, and for how long they are good.
pub(super) struct Loaded {
    pub(super) keys: KeySet,
    pub(super) lifetime: Lifetime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// Not from the network: until a token names a key that is not there.
    Unbounded,
    /// By `Cache-Control`.
    Stated(Duration),
    Unstated,
}

/// Why keys could not be had; for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the file cannot be read: {0}")]
    File(#[from] std::io::Error),
    #[error(transparent)]
    Keys(#[from] BadKeys),
    #[error("the discovery document is not the JSON expected: {0}")]
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
    pub(super) fn new(source: KeySource, read: Reading) -> Result<Self, Error> {
        let place = match source {
            KeySource::Inline(json) => Place::Inline(json),
            KeySource::File(path) => Place::File(path),
            KeySource::Jwks(url) => Place::Jwks { client: fetch::client()?, url },
            KeySource::Discovery { url, issuer } => Place::Discovery { client: fetch::client()?, url, issuer },
        };
        Ok(Self { place, read })
    }

    pub(super) async fn load(&self) -> Result<Loaded, LoadError> {
        match &self.place {
            Place::Inline(json) => load_text(json, self.read),
            Place::File(path) => {
                let (path, read) = (path.clone(), self.read);
                tokio::task::spawn_blocking(move || load_file(&path, read)).await.map_err(|_| LoadError::Task)?
            }
            Place::Jwks { client, url } => load_jwks(client, url.clone(), self.read).await,
            Place::Discovery { client, url, issuer } => {
                let url = discover(client, url.clone(), issuer).await?;
                load_jwks(client, url, self.read).await
            }
        }
    }

    /// What can be had without asking anybody, none if it is elsewhere. Blocks; for use at start.
    pub(super) fn load_here(&self) -> Option<Result<Loaded, LoadError>> {
        match &self.place {
            Place::Inline(json) => Some(load_text(json, self.read)),
            Place::File(path) => Some(load_file(path, self.read)),
            Place::Jwks { .. } | Place::Discovery { .. } => None,
        }
    }
}

fn load_text(json: &str, read: Reading) -> Result<Loaded, LoadError> {
    Ok(Loaded { keys: read(json.as_bytes())?, lifetime: Lifetime::Unbounded })
}

fn load_file(path: &Path, read: Reading) -> Result<Loaded, LoadError> {
    let mut json = Vec::new();
    std::fs::File::open(path)?.take(MAX_SIZE + 1).read_to_end(&mut json)?;
    if json.len() as u64 > MAX_SIZE {
        return Err(FetchError::TooLarge(MAX_SIZE).into());
    }
    Ok(Loaded { keys: read(&json)?, lifetime: Lifetime::Unbounded })
}

async fn load_jwks(client: &Client, url: Url, read: Reading) -> Result<Loaded, LoadError> {
    let (headers, json) = get(client, url).await?;
    Ok(Loaded { keys: read(&json)?, lifetime: lifetime(&headers) })
}

async fn get(client: &Client, url: Url) -> Result<(HeaderMap, Vec<u8>), FetchError> {
    fetch::answer(client.get(url).header(ACCEPT, "application/json"), MAX_SIZE).await
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::IssuerConfig;
    use super::super::testing::{self, Key, Server};
    use super::*;

    async fn load(server: &Server) -> Result<Loaded, LoadError> {
        source(&testing::config(&server.url, None)).load().await
    }

    fn source(config: &IssuerConfig) -> Source {
        Source::new(config.check().unwrap(), KeySet::of_issuer).unwrap()
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
        assert!(!source(&direct).load().await.unwrap().keys.is_empty());
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
        assert!(matches!(load(&server).await, Err(LoadError::Fetch(FetchError::Status(_)))));
        server.answer.lock().unwrap().status = 500;
        assert!(matches!(load(&server).await, Err(LoadError::Fetch(FetchError::Status(_)))));
        {
            let mut answer = server.answer.lock().unwrap();
            answer.status = 200;
            answer.jwks = "<html>".into();
        }
        assert!(matches!(load(&server).await, Err(LoadError::Keys(_))));
        server.answer.lock().unwrap().jwks = " ".repeat(MAX_SIZE as usize + 1);
        assert!(matches!(load(&server).await, Err(LoadError::Fetch(FetchError::TooLarge(_)))));
    }

    #[test]
    fn large_files_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_SIZE + 1).unwrap();
        let loaded = load_file(file.path(), KeySet::of_issuer);
        assert!(matches!(loaded, Err(LoadError::Fetch(FetchError::TooLarge(_)))));
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
