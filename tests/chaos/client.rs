//! A client of the service, not of one replica: whatever it asks, it asks any replica that answers, and waits where it
//! is told to (429, 503, Retry-After).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode};

use crate::replica::Replica;

/// A replica that is frozen accepts connections and says nothing.
const HEAD_PATIENCE: Duration = Duration::from_secs(4);
const BODY_PATIENCE: Duration = Duration::from_secs(4);
/// All replicas together: faults overlap.
const PATIENCE: Duration = Duration::from_secs(60);
/// With nobody there at all.
const PAUSE: Duration = Duration::from_millis(100);
/// Told to wait for longer, another replica may know better.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// No replica answered for a minute.
#[derive(Debug)]
pub struct Unanswered;

pub struct Client {
    http: reqwest::Client,
    replicas: Vec<Arc<Replica>>,
    turn: AtomicUsize,
}

/// What is asked, below the FHIR base.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    pub method: Method,
    pub path: &'a str,
    pub headers: Vec<(&'static str, String)>,
}

impl<'a> Request<'a> {
    pub fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, headers: Vec::new() }
    }

    pub fn delete(path: &'a str) -> Self {
        Self { method: Method::DELETE, ..Self::get(path) }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// An answer with all of its body.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub fn new(replicas: &[Arc<Replica>]) -> Self {
        let http = reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_secs(1)).build().unwrap();
        Self { http, replicas: replicas.to_vec(), turn: AtomicUsize::new(0) }
    }

    /// The head of an answer that is neither 429 nor 503.
    pub async fn head(&self, request: &Request<'_>) -> Result<Response, Unanswered> {
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            let Some(base) = self.next_base() else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            match self.head_of(&base, request).await {
                Some(response) if is_busy(response.status()) => {
                    let wait = retry_after(response.headers()).unwrap_or(PAUSE);
                    tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
                }
                Some(response) => return Ok(response),
                None => tokio::time::sleep(PAUSE / 4).await,
            }
        }
        Err(Unanswered)
    }

    /// A whole answer that is neither 429 nor 503. To ask again does no harm where the method says so; what is not
    /// idempotent may be done twice, as with any client.
    pub async fn ask(&self, request: &Request<'_>) -> Result<Answer, Unanswered> {
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            let response = self.head(request).await?;
            let (status, headers) = (response.status(), response.headers().clone());
            if let Ok(Ok(body)) = tokio::time::timeout(BODY_PATIENCE, response.bytes()).await {
                return Ok(Answer { status, headers, body: body.to_vec() });
            }
        }
        Err(Unanswered)
    }

    /// The head of one replica's answer; none if it gives none in time.
    async fn head_of(&self, base: &str, request: &Request<'_>) -> Option<Response> {
        let url = format!("{base}{}", request.path);
        let sent = request
            .headers
            .iter()
            .fold(self.http.request(request.method.clone(), url), |sent, (name, value)| sent.header(*name, value))
            .send();
        tokio::time::timeout(HEAD_PATIENCE, sent).await.ok()?.ok()
    }

    /// The next replica in turn that runs.
    fn next_base(&self) -> Option<String> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        (0..self.replicas.len()).find_map(|next| self.replicas[(turn + next) % self.replicas.len()].base())
    }
}

/// The next piece of a body; none at its end.
pub async fn next_piece(response: &mut Response) -> Result<Option<bytes::Bytes>, BrokeOff> {
    match tokio::time::timeout(BODY_PATIENCE, response.chunk()).await {
        Ok(Ok(piece)) => Ok(piece),
        Ok(Err(_)) | Err(_) => Err(BrokeOff),
    }
}

/// A body that ended early.
#[derive(Debug)]
pub struct BrokeOff;

fn is_busy(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// What of a URL follows the FHIR base: any replica answers for it.
pub fn below_base(url: &str) -> Option<&str> {
    url.split_once("/fhir").map(|(_, path)| path)
}
