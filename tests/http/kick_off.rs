//! The kick-off: what is accepted, and how everything else is refused (rules B, G).

use reqwest::Method;
use serde_json::Value;

use crate::support::{Database, Server};

const PATIENT: &str = r#"{"resourceType":"Patient","id":"p"}"#;

// A3, A4, B12, K6
#[tokio::test]
async fn it_answers_202_with_the_poll_url_and_no_body() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let response = server.anybody().export("").send().await.unwrap();
    assert_eq!(response.status(), 202);
    let location = response.headers()["content-location"].to_str().unwrap().to_owned();
    let id = location.strip_prefix(&format!("{}/$export-poll-status?_jobId=", server.base)).expect(&location);
    uuid::Uuid::parse_str(id).unwrap();
    assert_eq!(response.headers()["content-length"], "0");
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    assert!(!response.headers().contains_key("content-type"));
    assert_eq!(response.bytes().await.unwrap().len(), 0);
}

// B8, K5
#[tokio::test]
async fn it_needs_respond_async() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let request = anybody.get("/$export").header("accept", "application/fhir+json");
    let text = anybody.refused(request, 400).await;
    assert!(text.contains("Prefer: respond-async"), "{text}");
    let request = anybody.get("/$export").header("accept", "application/fhir+json");
    let request = request.header("prefer", "handling=lenient").header("prefer", "Respond-Async; wait=10");
    anybody.accepted(request).await;
}

// B7
#[tokio::test]
async fn it_speaks_json_only() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let kick_off =
        |accept: &'static str| anybody.get("/$export").header("prefer", "respond-async").header("accept", accept);
    anybody.refused(kick_off("application/fhir+xml"), 406).await;
    for accept in ["application/fhir+json", "application/json", "*/*", "application/fhir+xml, */*;q=0.1"] {
        anybody.accepted(kick_off(accept)).await;
    }
    // One that sends no Accept at all: raw, since every client library sends one.
    let address = server.base.strip_prefix("http://").unwrap().strip_suffix("/fhir").unwrap().to_owned();
    let answer = tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let request = "GET /fhir/$export HTTP/1.1\r\nhost: x\r\nprefer: respond-async\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
    .await
    .unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("OperationOutcome"), "{answer}");
}

// B2, B5, C13, L25
#[tokio::test]
async fn it_takes_a_parameters_resource_by_post() {
    let database = Database::create().await;
    database.put(&[PATIENT, r#"{"resourceType":"Task","id":"t"}"#]).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let body = r#"{"resourceType":"Parameters","parameter":[
        {"name":"_outputFormat","valueCode":"application/fhir+ndjson"},{"name":"_type","valueString":"Task"}]}"#;
    for content_type in ["application/fhir+json", "application/json", "application/fhir+json; charset=UTF-8"] {
        let request = anybody.request(Method::POST, "/$export?_format=json&_pretty=true");
        let request = request
            .header("accept", "application/fhir+json")
            .header("prefer", "respond-async")
            .header("content-type", content_type)
            .body(body);
        let manifest = anybody.accepted(request).await.completed().await;
        assert_eq!(manifest.resources().await.into_keys().collect::<Vec<_>>(), ["Task/t"]);
        assert_eq!(manifest.json["request"], format!("{}/$export", server.base), "E2: without the parameters");
    }
    anybody.accepted(anybody.export_by_post("")).await;
    for (body, word) in [
        (PATIENT, "Parameters"),
        ("{", "JSON"),
        (r#"{"resourceType":"Parameters","parameter":[{"name":"_type"}]}"#, "_type"),
    ] {
        let text = anybody.refused(anybody.export_by_post(body), 400).await;
        assert!(text.contains(word), "{text}");
    }
    let xml = anybody.request(Method::POST, "/$export").header("content-type", "application/fhir+xml");
    let xml = xml.header("accept", "application/fhir+json").header("prefer", "respond-async").body("<Parameters/>");
    anybody.refused(xml, 415).await;
}

// G16, G18, B17: every problem at once, by name
#[tokio::test]
async fn what_it_does_not_know_is_refused_by_name() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let text = anybody.refused(anybody.export("?_typo=1&_typeFilter=Patient%3Fnope%3Dtrue"), 400).await;
    assert!(text.contains("not-supported: The parameter _typo"), "{text}");
    assert!(text.contains("not-supported: Invalid _typeFilter, filter is not supported"), "{text}");
    for (query, word) in [
        ("?_type=Patinet", "Patinet"),
        ("?_type=Binary", "Binary"),
        ("?_since=yesterday", "_since"),
        ("?_since=2026-01-01T00:00:00Z&_since=2026-01-01T00:00:00Z", "_since"),
        ("?_since=2026-01-02T00:00:00Z&_until=2026-01-01T00:00:00Z", "_until"),
        ("?_outputFormat=text/csv", "application/fhir+ndjson"),
        ("?_exportId=a/b", "_exportId"),
        ("?patient=Patient/1", "patient"),
        ("?_mdm=true", "_mdm: true is not supported"),
    ] {
        let text = anybody.refused(anybody.export(query), 400).await;
        assert!(text.contains(word), "{query}: {text}");
    }
    assert_eq!(database.count("export_job").await, 0, "nothing of them is left");
    anybody.kick_off("?_mdm=false").await;
}

// B17, E10: one outcome for each thing left out
#[tokio::test]
async fn under_lenient_handling_it_is_left_out_and_reported() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let request = anybody.get("/$export?_typo=1&_type=Patient,Nope").header("accept", "application/fhir+json");
    let request = request.header("prefer", "respond-async").header("prefer", "handling=lenient");
    let manifest = anybody.accepted(request).await.completed().await;
    assert_eq!(manifest.resources().await.len(), 1);
    let outcomes = manifest.lines("error").await;
    assert_eq!(outcomes.len(), 2);
    for (type_name, line) in &outcomes {
        let outcome: Value = serde_json::from_str(line).unwrap();
        assert_eq!((type_name.as_str(), &outcome["issue"][0]["severity"]), ("OperationOutcome", &"warning".into()));
    }
    assert!(outcomes.iter().any(|(_, line)| line.contains("_typo")));
    assert!(outcomes.iter().any(|(_, line)| line.contains("Nope")));
    // What would put out more than was asked for is refused all the same.
    let request = anybody.get("/$export?_type=Nope").header("accept", "application/fhir+json");
    anybody.refused(request.header("prefer", "respond-async, handling=lenient"), 400).await;
}

// B4, G4, J11, L5
#[tokio::test]
async fn types_are_listed_or_repeated_and_a_dollar_may_be_encoded() {
    let database = Database::create().await;
    let others = [r#"{"resourceType":"Task","id":"t"}"#, r#"{"resourceType":"Device","id":"d"}"#];
    database.put(&[PATIENT, others[0], others[1]]).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let request = anybody.get("/%24export?_type=Patient,%20Task&_type=Task&_outputFormat=application/fhir+ndjson");
    let request = request.header("accept", "application/fhir+json").header("prefer", "respond-async");
    let job = anybody.accepted(request).await;
    let manifest = job.completed().await;
    assert_eq!(manifest.resources().await.into_keys().collect::<Vec<_>>(), ["Patient/p", "Task/t"]);
    assert_eq!(
        manifest.json["request"],
        format!("{}/$export?_type=Patient,%20Task&_type=Task&_outputFormat=application/fhir+ndjson", server.base)
    );
    let encoded = job.url.replace("$export", "%24export");
    assert_eq!(anybody.get(&encoded).send().await.unwrap().status(), 200);
}

// A15, L25
#[tokio::test]
async fn other_levels_and_methods_are_refused_as_outcomes() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    for path in ["/PlanDefinition/x/$export", "/nothing", "/Patient/p", "/$export/"] {
        anybody.refused(anybody.get(path), 404).await;
    }
    for (method, path) in [(Method::PUT, "/$export"), (Method::DELETE, "/Binary/x"), (Method::POST, "/metadata")] {
        let response = anybody.request(method.clone(), path).send().await.unwrap();
        assert!(response.headers().contains_key("allow"), "{method} {path}");
        anybody.refused(anybody.request(method, path), 405).await;
    }
    let outside = server.base.replace("/fhir", "/elsewhere");
    anybody.refused(anybody.get(&outside), 404).await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let database = Database::create().await;
    let server = Server::start_with(&database, &[("http.max_body", "1KiB")]).await;
    let anybody = server.anybody();
    anybody.refused(anybody.export_by_post(&" ".repeat(2_000)), 413).await;
}

// RFC 6585, 5; B13
#[tokio::test]
async fn a_url_and_headers_that_are_too_long_are_refused() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let of = |length: usize| "x".repeat(length);
    for request in [
        anybody.export("").header("x-long", of(33_000)),
        anybody.export(&format!("?_exportId={}", of(33_000))),
        anybody.export(&format!("?_exportId={}", of(17_000))).header("x-long", of(17_000)),
        anybody.export("").header("x-long", of(17_000)).header("x-long", of(17_000)),
        anybody.get(&format!("/nothing/{}", of(33_000))),
    ] {
        let text = anybody.refused(request, 431).await;
        assert!(text.starts_with("too-long: ") && text.contains("at most 32 KiB"), "{text}");
    }
    // A large token goes through.
    anybody.accepted(anybody.export("").header("authorization", format!("Bearer {}", of(30_000)))).await;
}

// B14
#[tokio::test]
async fn too_many_unfinished_exports_are_refused_for_a_while() {
    let database = Database::create().await;
    let limits = [("export.max_running_per_owner", "2"), ("export.max_queued", "100")];
    let server = Server::start_with(&database, &limits).await;
    let anybody = server.anybody();
    let _planner_waits = database.lock_writers().await;
    let first = anybody.kick_off("").await;
    anybody.kick_off("").await;
    let response = anybody.export("").send().await.unwrap();
    assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
    let text = anybody.refused(anybody.export(""), 429).await;
    assert!(text.starts_with("throttled: ") && text.contains('2'), "{text}");
    assert_eq!(first.delete().await.status(), 202);
    anybody.kick_off("").await;
}

#[tokio::test]
async fn a_full_queue_refuses_everybody() {
    let database = Database::create().await;
    let server = Server::start_with(&database, &[("export.max_queued", "1")]).await;
    let anybody = server.anybody();
    let _planner_waits = database.lock_writers().await;
    anybody.kick_off("").await;
    anybody.refused(anybody.export(""), 429).await;
}

#[tokio::test]
async fn it_is_refused_while_the_disk_is_short() {
    let database = Database::create().await;
    let server = Server::start_with(&database, &[("database.disk_size", "1MiB")]).await;
    let anybody = server.anybody();
    let response = anybody.export("").send().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    let text = anybody.refused(anybody.export(""), 503).await;
    assert!(text.starts_with("no-store: "), "{text}");
    let server = Server::start_with(&database, &[("database.disk_size", "10TiB")]).await;
    server.anybody().kick_off("").await;
}

// A22, L17
#[tokio::test]
async fn urls_have_the_public_base_whatever_the_host_header_says() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let public = "https://fhir.example.org/bulk/fhir";
    let server = Server::start_with(&database, &[("http.public_base_url", public)]).await;
    let direct = server.probes.clone();
    assert!(!direct.is_empty() && server.base == public);
    let local = crate::support::Caller::new(&server.address(), None);
    let request = local.export("?_type=Patient").header("host", "evil.example").header("x-forwarded-host", "evil");
    let response = request.send().await.unwrap();
    let location = response.headers()["content-location"].to_str().unwrap().to_owned();
    assert!(location.starts_with(public), "{location}");
    let poll = location.replace(public, &server.address());
    crate::support::eventually("it completes", || async {
        let response = local.get(&poll).send().await.unwrap();
        if response.status() != 200 {
            return false;
        }
        let manifest: Value = response.json().await.unwrap();
        assert_eq!(manifest["request"], format!("{public}/$export?_type=Patient"));
        assert!(manifest["output"][0]["url"].as_str().unwrap().starts_with(&format!("{public}/Binary/")));
        true
    })
    .await;
}
