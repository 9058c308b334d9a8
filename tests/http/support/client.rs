//! Callers, with the verbs of the protocol.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use super::{Server, pause_since};

const FHIR_JSON: &str = "application/fhir+json";
const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody who calls a server.
#[derive(Clone)]
pub struct Caller {
    client: reqwest::Client,
    pub base: String,
    token: Option<String>,
}

impl Caller {
    pub fn new(base: &str, token: Option<&str>) -> Self {
        // Many servers in one process: connections of one test are of no use to another. The server closes one that is
        // idle for ten seconds, perhaps just as the next request is sent on it.
        let idle = Duration::from_secs(5);
        let client = reqwest::Client::builder().no_proxy().pool_idle_timeout(idle).build().unwrap();
        Self { client, base: base.to_owned(), token: token.map(str::to_owned) }
    }

    /// A caller without a token that calls as this client does.
    pub fn by(client: reqwest::Client, base: &str) -> Self {
        Self { client, base: base.to_owned(), token: None }
    }

    /// A request to a path below the base, or to an absolute URL; with the token, and no header else.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        let request = self.client.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    /// A kick-off by GET with the headers a client sends; `query` begins with `?` or is empty.
    pub fn export(&self, query: &str) -> RequestBuilder {
        self.export_at(&format!("/$export{query}"))
    }

    /// A kick-off by GET at any level.
    pub fn export_at(&self, path: &str) -> RequestBuilder {
        self.get(path).header("accept", FHIR_JSON).header("prefer", "respond-async")
    }

    /// A kick-off by POST.
    pub fn export_by_post(&self, parameters: &str) -> RequestBuilder {
        self.export_by_post_at("/$export", parameters)
    }

    /// A kick-off by POST at any level.
    pub fn export_by_post_at(&self, path: &str, parameters: &str) -> RequestBuilder {
        self.request(Method::POST, path)
            .header("accept", FHIR_JSON)
            .header("prefer", "respond-async")
            .header("content-type", FHIR_JSON)
            .body(parameters.to_owned())
    }

    /// Kicks off, and expects it to be accepted.
    pub async fn kick_off(&self, query: &str) -> Job {
        self.accepted(self.export(query)).await
    }

    /// Sends a kick-off, and expects it to be accepted.
    pub async fn accepted(&self, request: RequestBuilder) -> Job {
        let response = request.send().await.unwrap();
        let status = response.status();
        let location = response.headers().get("content-location").map(|url| url.to_str().unwrap().to_owned());
        assert_eq!(status, StatusCode::ACCEPTED, "{}", response.text().await.unwrap());
        Job { caller: self.clone(), url: location.expect("Content-Location") }
    }

    /// Sends a request, and expects this status and an OperationOutcome; gives its diagnostics.
    pub async fn refused(&self, request: RequestBuilder, status: u16) -> String {
        let response = request.send().await.unwrap();
        let found = response.status().as_u16();
        let content_type = response.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
        let text = response.text().await.unwrap();
        assert_eq!(found, status, "{text}");
        assert_eq!(content_type.as_deref(), Some("application/fhir+json; charset=UTF-8"), "{text}");
        let outcome: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(outcome["resourceType"], "OperationOutcome");
        let issues = outcome["issue"].as_array().unwrap();
        issues
            .iter()
            .map(|issue| {
                assert_eq!(issue["details"]["text"], issue["diagnostics"], "{issue}");
                format!("{}: {}", issue["code"].as_str().unwrap(), issue["diagnostics"].as_str().unwrap())
            })
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// A file as NDJSON.
    pub async fn download(&self, url: &str) -> Vec<u8> {
        let response = self.get(url).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.bytes().await.unwrap().to_vec()
    }
}

/// An export under way.
#[derive(Clone)]
pub struct Job {
    caller: Caller,
    /// Where to poll.
    pub url: String,
}

impl Job {
    /// The same at another server.
    pub fn at(&self, server: &Server) -> Self {
        Self { caller: server.anybody(), url: self.url.replace(&self.caller.base, &server.base) }
    }

    pub fn id(&self) -> &str {
        self.url.rsplit('=').next().unwrap()
    }

    pub async fn poll(&self) -> Response {
        self.caller.get(&self.url).send().await.unwrap()
    }

    pub async fn delete(&self) -> Response {
        self.caller.request(Method::DELETE, &self.url).send().await.unwrap()
    }

    /// Polls until it is complete.
    pub async fn completed(&self) -> Manifest {
        let started = Instant::now();
        loop {
            let response = self.poll().await;
            match response.status() {
                StatusCode::OK => {
                    return Manifest { caller: self.caller.clone(), json: response.json().await.unwrap() };
                }
                // Throttled only if the test has polled before.
                StatusCode::ACCEPTED | StatusCode::TOO_MANY_REQUESTS => pause_since(started).await,
                status => panic!("{status}: {}", response.text().await.unwrap()),
            }
            assert!(started.elapsed() < PATIENCE, "the export does not complete");
        }
    }
}

/// The manifest of an export.
pub struct Manifest {
    caller: Caller,
    pub json: Value,
}

impl Manifest {
    pub fn transaction_time(&self) -> &str {
        self.json["transactionTime"].as_str().unwrap()
    }

    /// The URLs of a list of the manifest.
    pub fn urls(&self, list: &str) -> Vec<String> {
        let items = self.json[list].as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().map(|item| item["url"].as_str().unwrap().to_owned()).collect()
    }

    /// All lines of a list of the manifest, each with the type of its file; checks counts.
    pub async fn lines(&self, list: &str) -> Vec<(String, String)> {
        let mut lines = Vec::new();
        for item in self.json[list].as_array().map(Vec::as_slice).unwrap_or_default() {
            let content = self.caller.download(item["url"].as_str().unwrap()).await;
            let text = String::from_utf8(content).unwrap();
            assert!(text.ends_with('\n'), "F2: a file ends with a line end");
            assert_eq!(Some(text.lines().count() as u64), item["count"].as_u64(), "E17: count is exact");
            let type_name = item["type"].as_str().unwrap();
            lines.extend(text.lines().map(|line| (type_name.to_owned(), line.to_owned())));
        }
        lines
    }

    /// The resources put out, by `Type/id`; checks that none comes twice and each is of its file's type.
    pub async fn resources(&self) -> BTreeMap<String, String> {
        let mut resources = BTreeMap::new();
        for (type_name, line) in self.lines("output").await {
            let resource: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(resource["resourceType"], type_name.as_str(), "F5");
            let name = format!("{type_name}/{}", resource["id"].as_str().unwrap());
            assert!(resources.insert(name, line).is_none(), "a resource came twice");
        }
        resources
    }

    /// What was deleted, `Type/id`; checks the form of each line.
    pub async fn deletions(&self) -> Vec<String> {
        let lines = self.lines("deleted").await;
        lines
            .iter()
            .map(|(type_name, line)| {
                let bundle: Value = serde_json::from_str(line).unwrap();
                assert_eq!((type_name.as_str(), &bundle["type"]), ("Bundle", &Value::from("transaction")), "E14");
                assert_eq!(bundle["entry"][0]["request"]["method"], "DELETE", "E14");
                bundle["entry"][0]["request"]["url"].as_str().unwrap().to_owned()
            })
            .collect()
    }
}
