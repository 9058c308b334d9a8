//! The files: one content, three representations (rules F; DESIGN 4).

use std::io::Read;

use base64::Engine;
use flate2::read::GzDecoder;
use reqwest::Method;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::{Caller, Database, Server, put_mebibytes, with_a_large_file};

const GZIP: (&str, &str) = ("accept-encoding", "gzip");

// F1, F3, F10-F13, F20, E17: DESIGN 4
#[tokio::test]
async fn all_representations_hold_the_same_bytes_at_their_stated_length() {
    let database = Database::create().await;
    let (server, url) = with_a_large_file(&database).await;
    let anybody = server.anybody();
    assert!(database.count("binary_chunk").await > 3, "the file has several chunks");

    let identity = anybody.get(&url).send().await.unwrap();
    assert_eq!(identity.headers()["content-type"], "application/fhir+ndjson");
    assert!(!identity.headers().contains_key("content-encoding"));
    let etag = identity.headers()["etag"].to_str().unwrap().to_owned();
    let length = identity.content_length().unwrap();
    let content = identity.bytes().await.unwrap();
    assert_eq!(content.len() as u64, length);
    let sha256: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(etag, format!("\"{sha256}\""));

    // On connections of their own: the server may have closed the first while the test was computing.
    let gzip = server.anybody().get(&url).header(GZIP.0, GZIP.1).send().await.unwrap();
    assert_eq!(gzip.headers()["content-encoding"], "gzip");
    assert_eq!(gzip.headers()["content-type"], "application/fhir+ndjson");
    assert!(gzip.headers()["vary"].to_str().unwrap().contains("Accept-Encoding"));
    assert_eq!(gzip.headers()["etag"], format!("\"{sha256}-gzip\"").as_str());
    let length = gzip.content_length().unwrap();
    let compressed = gzip.bytes().await.unwrap();
    assert_eq!(compressed.len() as u64, length);
    assert!(compressed.len() < content.len());
    // One member and nothing behind it: some clients stop at the end of the first.
    let mut decoder = GzDecoder::new(&compressed[..]);
    let mut inflated = Vec::new();
    decoder.read_to_end(&mut inflated).unwrap();
    assert!(inflated == content && decoder.into_inner().is_empty());

    let resource = server.anybody().get(&url).header("accept", "application/fhir+json").header(GZIP.0, GZIP.1);
    let resource = resource.send().await.unwrap();
    assert_eq!(resource.headers()["content-type"], "application/fhir+json; charset=UTF-8");
    assert_eq!(resource.headers()["etag"], "W/\"1\"");
    let length = resource.content_length().unwrap();
    let text = resource.bytes().await.unwrap();
    assert_eq!(text.len() as u64, length);
    let resource: Value = serde_json::from_slice(&text).unwrap();
    let data = base64::engine::general_purpose::STANDARD.decode(resource["data"].as_str().unwrap()).unwrap();
    assert!(data == content);
}

// F20: base64 works in threes, and a chunk ends anywhere
#[tokio::test]
async fn the_resource_is_whole_wherever_its_last_chunk_ends() {
    const CHUNK: usize = 1 << 20;
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let export = async |text: usize| {
        let text = "x".repeat(text);
        database.put(&[&format!(r#"{{"resourceType":"Basic","id":"b","code":{{"text":"{text}"}}}}"#)]).await;
        anybody.kick_off("").await.completed().await.urls("output").remove(0)
    };
    let around = anybody.download(&export(100).await).await.len() - 100;
    for length in [CHUNK - 1, CHUNK, CHUNK + 1, CHUNK + 2, CHUNK + 3] {
        let url = export(length - around).await;
        let content = anybody.download(&url).await;
        assert_eq!(content.len(), length);
        let resource = anybody.get(&url).header("accept", "application/fhir+json").send().await.unwrap();
        let stated = resource.content_length().unwrap();
        let text = resource.bytes().await.unwrap();
        assert_eq!(text.len() as u64, stated);
        let resource: Value = serde_json::from_slice(&text).unwrap();
        let data = base64::engine::general_purpose::STANDARD.decode(resource["data"].as_str().unwrap()).unwrap();
        assert!(data == content, "{length}");
    }
}

// F18
#[tokio::test]
async fn head_says_what_get_would() {
    let database = Database::create().await;
    let (server, url) = with_a_large_file(&database).await;
    let anybody = server.anybody();
    for (name, value) in [GZIP, ("accept", "application/fhir+json"), ("accept", "*/*")] {
        let get = anybody.get(&url).header(name, value).send().await.unwrap();
        let head = anybody.request(Method::HEAD, &url).header(name, value).send().await.unwrap();
        for header in ["content-length", "content-type", "etag", "content-encoding", "last-modified"] {
            assert_eq!(get.headers().get(header), head.headers().get(header), "{header}");
        }
        assert_eq!(head.bytes().await.unwrap().len(), 0);
    }
}

// F11, F16, A18, L3
#[tokio::test]
async fn the_format_parameter_and_the_version_url_work() {
    let database = Database::create().await;
    database.put_patients(1).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let url = anybody.kick_off("").await.completed().await.urls("output").remove(0);
    let resource = |path: String| {
        let request = anybody.get(&path).header("accept", "application/fhir+ndjson");
        async move { request.send().await.unwrap().json::<Value>().await.unwrap() }
    };
    let one = resource(format!("{url}?_format=json&_pretty=true")).await;
    assert_eq!(one["resourceType"], "Binary");
    assert_eq!(resource(format!("{url}/_history/1?_format=application/fhir+json")).await, one);
    assert_eq!(anybody.get(&format!("{url}/_history/1")).send().await.unwrap().status(), 200);
    anybody.refused(anybody.get(&format!("{url}/_history/2")), 404).await;
    anybody.refused(anybody.get(&url).header("accept", "application/fhir+xml"), 406).await;
    anybody.refused(anybody.get(&format!("{url}?_format=xml")), 406).await;
}

// F17
#[tokio::test]
async fn a_file_that_is_not_there_is_not_found() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    for id in ["0123456789abcdef0123456789abcdef", "x", "%27", "a%2Fb"] {
        anybody.refused(anybody.get(&format!("/Binary/{id}")), 404).await;
    }
}

// DESIGN 4: a slow client costs no connection, and a file under way is not reaped
#[tokio::test]
async fn many_slow_downloads_do_not_hold_the_database() {
    let database = Database::create().await;
    let (server, url) = with_a_large_file(&database).await;
    drop(server);
    let server = Server::start_with(&database, &[("database.max_connections", "2")]).await;
    let anybody = Caller::new(&server.base, None);
    let url = url.rsplit_once('/').map(|(_, id)| format!("/Binary/{id}")).unwrap();
    let mut slow = Vec::new();
    for _ in 0..10 {
        let mut response = anybody.get(&url).send().await.unwrap();
        assert!(response.chunk().await.unwrap().is_some());
        slow.push(response);
    }
    assert_eq!(anybody.get(&url).send().await.unwrap().bytes().await.unwrap().len(), {
        anybody.request(Method::HEAD, &url).send().await.unwrap().headers()["content-length"]
            .to_str()
            .unwrap()
            .parse::<usize>()
            .unwrap()
    });
    for response in slow {
        response.bytes().await.unwrap();
    }
}

/// A file that is larger than what the sockets between server and client hold.
async fn with_a_huge_file(database: &Database, stall_timeout: &str) -> (Server, String) {
    put_mebibytes(database, 24).await;
    let server = Server::start_with(database, &[("http.stall_timeout", stall_timeout)]).await;
    let url = server.anybody().kick_off("").await.completed().await.urls("output").remove(0);
    (server, url)
}

// A slow client is served for as long as it takes something
#[tokio::test]
async fn a_download_may_take_longer_than_the_stall_timeout() {
    let database = Database::create().await;
    let (server, url) = with_a_huge_file(&database, "1s").await;
    let mut response = server.anybody().get(&url).send().await.unwrap();
    let length = response.content_length().unwrap();
    let (started, mut received) = (std::time::Instant::now(), 0);
    while let Some(chunk) = response.chunk().await.unwrap() {
        received += chunk.len() as u64;
        // Four seconds for the whole, in even steps.
        let due = std::time::Duration::from_secs_f64(4.0 * received as f64 / length as f64);
        tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
    }
    assert_eq!(received, length);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_off() {
    let database = Database::create().await;
    let (server, url) = with_a_huge_file(&database, "500ms").await;
    let mut response = server.anybody().get(&url).send().await.unwrap();
    response.chunk().await.unwrap().unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let rest = async {
        while response.chunk().await?.is_some() {}
        Ok::<_, reqwest::Error>(())
    };
    assert!(rest.await.is_err(), "a connection that was cut does not look whole");
}
