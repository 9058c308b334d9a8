//! Requests by chance at every route: whatever comes, the answer is a good one or says what was wrong with the request,
//! and the server goes on.
//!
//! `FUZZED_REQUESTS=200000` sends more, `FUZZED_SEED=7` others. A failure shows the seed, which makes the same requests again
//! but for ids, and the request.

use std::collections::BTreeMap;
use std::time::Duration;

use fhir_bulk_export::routes;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Caller, Database, Issuer, Random, Server, trusting};

/// Of each kind of server, in the gate.
const REQUESTS: u64 = 1_000;

const METHODS: [&str; 10] = ["GET", "GET", "GET", "POST", "POST", "DELETE", "HEAD", "PUT", "OPTIONS", "BREW"];
const HEADERS: [&str; 16] = [
    "accept",
    "prefer",
    "range",
    "if-range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "accept-encoding",
    "content-type",
    "content-encoding",
    "idempotency-key",
    "x-request-id",
    "authorization",
    "origin",
    "expect",
    "x-http-method-override",
];
/// What requests are made of: words of the protocol, and what has broken others.
const PIECES: [&str; 56] = [
    "application/fhir+json",
    "application/json",
    "application/x-www-form-urlencoded",
    "*/*",
    ";q=0.5",
    "respond-async",
    "handling=lenient",
    "wait=1",
    "bytes=0-",
    "bytes=-1,0-0",
    "\"x\"",
    "W/\"",
    "gzip",
    "Bearer ",
    "Basic ",
    "eyJhbGciOiJub25lIn0.e30.",
    "Tue, 14 Nov 2023 22:13:20 GMT",
    "_type",
    "_typeFilter",
    "_since",
    "_until",
    "_elements",
    "_jobId",
    "page",
    "patient",
    "_format",
    "_exportId",
    "includeAssociatedData",
    "organizeOutputBy",
    "_includeHistory",
    "grant_type=client_credentials",
    "client_assertion",
    "Patient",
    "Observation",
    "Patient?name=a",
    "Patient?_id=%00",
    "Observation?subject:Patient.name=a",
    "_has:Observation:patient:code=x",
    "2026-01-01T00:00:00Z",
    "00000000-0000-4000-8000-000000000000",
    "true",
    "99999999999999999999",
    "-1",
    "=",
    "&",
    ",",
    "|",
    "\\",
    "%",
    "%00",
    "%0d%0a",
    "%ff",
    "..",
    "é☃",
    "{\"resourceType\":\"Parameters\",\"parameter\":[{\"name\":\"_type\",\"valueString\":\"Patient\"}]}",
    "[[[[[[[[{",
];

struct Chance {
    random: Random,
    /// Real ids are found by nobody by chance.
    ids: Vec<String>,
    token: Option<String>,
}

impl Chance {
    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        let index = self.random.below(list.len() as u64);
        list[usize::try_from(index).unwrap()]
    }

    fn one_in(&mut self, several: u64) -> bool {
        self.random.below(several) == 0
    }

    fn text(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..self.random.below(6) {
            match self.random.below(12) {
                0 => text.push(char::from(u8::try_from(self.random.below(127)).unwrap())),
                1 => text.push_str(&self.of(&PIECES).repeat(usize::try_from(self.random.below(40)).unwrap())),
                2 if !self.ids.is_empty() => {
                    let index = self.random.below(self.ids.len() as u64);
                    text.push_str(&self.ids[usize::try_from(index).unwrap()]);
                }
                _ => text.push_str(self.of(&PIECES)),
            }
        }
        text
    }

    /// What may stand in the target of a request; all else is encoded.
    fn in_target(&mut self) -> String {
        let text = self.text();
        text.bytes().fold(String::new(), |target, byte| match byte {
            b'!'..=b'~' if !b"\"#<>\\^`{|}".contains(&byte) => target + &char::from(byte).to_string(),
            byte => target + &format!("%{byte:02X}"),
        })
    }

    fn target(&mut self) -> String {
        let routes = routes();
        let index = usize::try_from(self.random.below(routes.len() as u64)).unwrap();
        let mut path = String::new();
        for segment in routes[index].0.split('/').skip(1) {
            let segment = match segment {
                varies if varies.starts_with('{') => self.in_target().replace(['/', '?'], ""),
                fixed if self.one_in(40) => fixed.replace('$', "%24"),
                _ if self.one_in(60) => self.in_target(),
                fixed => fixed.to_owned(),
            };
            path = path + "/" + &segment;
        }
        if self.one_in(20) {
            path += "/";
        }
        if self.one_in(2) {
            return path;
        }
        let mut parameters = Vec::new();
        for _ in 0..=self.random.below(4) {
            parameters.push(format!("{}={}", self.of(&PIECES[17..32]), self.in_target()));
        }
        if self.one_in(50) {
            parameters = vec![parameters.join("&"); 400];
        }
        format!("{path}?{}", parameters.join("&"))
    }

    fn request(&mut self, caller: &Caller, host: &str) -> (String, RequestBuilder) {
        let (method, target) = (self.of(&METHODS), self.target());
        let mut request = caller.request(Method::from_bytes(method.as_bytes()).unwrap(), &format!("{host}{target}"));
        let mut told = format!("{method} {target}");
        if self.one_in(2) {
            request = request.header("accept", "application/fhir+json").header("prefer", "respond-async");
        }
        if let Some(token) = self.token.clone().filter(|_| !self.one_in(8)) {
            request = request.bearer_auth(token);
        }
        for _ in 0..self.random.below(4) {
            let (name, value) = (self.of(&HEADERS), self.text());
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                told += &format!("\n  {name}: {value:?}");
                request = request.header(HeaderName::from_static(name), value);
            }
        }
        if self.one_in(3) {
            let body = self.text();
            told += &format!("\n  {body:?}");
            request = request.body(body);
        }
        (told, request)
    }

    /// A request in bytes, and whether they are left as HTTP has them.
    fn bytes(&mut self) -> (Vec<u8>, bool) {
        let mut bytes = format!("{} {} HTTP/1.1\r\nhost: x\r\n", self.of(&METHODS), self.target()).into_bytes();
        let mut is_http = true;
        for _ in 0..self.random.below(3) {
            let (name, value) = (self.of(&HEADERS), self.text());
            is_http &= HeaderValue::from_bytes(value.as_bytes()).is_ok();
            bytes.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        if self.one_in(4) {
            bytes.extend(
                b"transfer-encoding: chunked\r\ncontent-length: 5\r\nconnection: close\r\n\r\n5\r\n_type\r\n0\r\n\r\n",
            );
        } else {
            bytes.extend(b"connection: close\r\n\r\n");
        }
        let changed = if self.one_in(2) { 0 } else { self.random.below(5) };
        for _ in 0..changed {
            let index = usize::try_from(self.random.below(bytes.len() as u64)).unwrap();
            bytes[index] = u8::try_from(self.random.below(256)).unwrap();
            is_http = false;
        }
        (bytes, is_http)
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// A good answer, or one that says what was wrong.
async fn check(told: &str, request: RequestBuilder) -> Option<u16> {
    let is_head = told.starts_with("HEAD");
    let is_token_endpoint = told.contains(" /auth/");
    let response = match request.send().await {
        Ok(response) => response,
        // The client itself makes no request of some.
        Err(error) if error.is_builder() => return None,
        Err(error) => panic!("no answer: {error:?} to {told}"),
    };
    let status = response.status().as_u16();
    assert!((200..500).contains(&status), "{status} to {told}");
    let text = response.text().await.unwrap();
    if status < 400 || is_head {
        return Some(status);
    }
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} {text:?} to {told}"));
    // The token endpoint speaks OAuth, once it is spoken to as such.
    assert!(
        body["resourceType"] == "OperationOutcome" || is_token_endpoint && body["error"].is_string(),
        "{told}: {text}"
    );
    assert!(text.len() < 100_000, "{} bytes to {told}", text.len());
    Some(status)
}

/// What is HTTP is answered. What may be none is, or ends the connection; that nothing follows it is said, or the server would
/// wait for more.
async fn check_bytes(server: &Server, bytes: &[u8], is_http: bool) {
    let told = String::from_utf8_lossy(bytes);
    let mut stream = TcpStream::connect(server.address().replace("http://", "").replace("/fhir", "")).await.unwrap();
    // Who is not listened to any more cannot write, and may still read why.
    let _ = stream.write_all(bytes).await;
    if !is_http {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "it is not closed after {told:?}");
    let answer = String::from_utf8_lossy(&answer);
    let is_good = ["HTTP/1.1 2", "HTTP/1.1 3", "HTTP/1.1 4"].iter().any(|status| answer.starts_with(status));
    assert!(is_good || answer.is_empty() && !is_http, "{answer:?} to {told:?}");
}

async fn fuzz(server: &Server, token: Option<String>, seed: u64) {
    let caller = server.anybody();
    let host = server.base.trim_end_matches("/fhir").to_owned();
    let good = token.as_ref().map_or_else(|| server.anybody(), |token| server.with_token(token));
    let job = good.kick_off("?_type=Patient").await;
    let file = job.completed().await.urls("output").remove(0);
    let ids = vec![job.id().to_owned(), file.rsplit('/').next().unwrap().to_owned(), "p1".to_owned(), "1".to_owned()];
    let mut chance = Chance { random: Random::new(seed), ids, token };
    let mut seen = BTreeMap::new();
    for number in 0..setting("FUZZED_REQUESTS").unwrap_or(REQUESTS) {
        if number % 4 == 3 {
            let (bytes, is_http) = chance.bytes();
            check_bytes(server, &bytes, is_http).await;
        } else {
            let (told, request) = chance.request(&caller, &host);
            if let Some(status) = check(&told, request).await {
                *seen.entry(status).or_insert(0) += 1;
            }
        }
    }
    // By chance each part of the server is met.
    assert!([200, 202, 400, 404, 405, 415].iter().all(|status| seen.contains_key(status)), "{seen:?}");
    // It is there, and does its work.
    let exports = good.export("?_type=Patient").send().await.unwrap().status().as_u16();
    assert!(matches!(exports, 202 | 429), "{exports}");
    let log = server.log();
    assert!(!log.contains("panicked") && !log.contains(" ERROR "), "{log}");
}

#[tokio::test]
async fn no_request_gets_more_than_it_should_or_ends_the_server() {
    let seed = setting("FUZZED_SEED").unwrap_or(20_261_124);
    println!("FUZZED_SEED={seed}");
    let database = Database::create().await;
    database.put_patients(3).await;
    let issuer = Issuer::start().await;
    let limits =
        [("http.header_timeout", "2s"), ("http.request_timeout", "20s"), ("export.max_running_per_owner", "1000")];
    let open = Server::start_with(&database, &limits).await;
    let mut settings = trusting(&[&issuer]);
    settings.extend(limits.map(|(key, value)| (key, value.to_owned())));
    let closed = Server::start_with(&database, &settings).await;
    let token = issuer.token(&serde_json::json!({
        "user_id": "u", "user_type": "SYSTEM", "exp": 4_000_000_000_u64,
        "realm_access": { "roles": ["$bulk-export", "Binary.read", "Patient.search", "Observation.search"] },
    }));
    tokio::join!(fuzz(&open, None, seed), fuzz(&closed, Some(token), seed + 1));
}
