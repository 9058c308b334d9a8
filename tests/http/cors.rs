//! Scripts of other origins in browsers (rule J10).

use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::support::answer::{Answer, send};
use crate::support::{Caller, Database, Issuer, Server, trusting};

const APP: &str = "https://app.example.org";

fn from(origin: &str, request: RequestBuilder) -> RequestBuilder {
    request.header("origin", origin)
}

/// What a browser asks before it sends a request that is not of the simplest.
fn preflight(caller: &Caller, path: &str, method: &str, headers: &str) -> RequestBuilder {
    caller
        .request(Method::OPTIONS, path)
        .header("access-control-request-method", method)
        .header("access-control-request-headers", headers)
}

fn allowed_origin(answer: &Answer) -> Option<&str> {
    answer.header("access-control-allow-origin")
}

#[tokio::test]
async fn by_default_no_other_origin_is_let_in() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let answer = send(from(APP, anybody.get("/metadata"))).await;
    assert_eq!((answer.status, allowed_origin(&answer)), (200, None));
    assert_eq!(answer.header("vary"), None);
    let answer = send(from(APP, preflight(&anybody, "/$export", "POST", "prefer"))).await;
    assert_eq!((answer.status, allowed_origin(&answer)), (405, None));
}

#[tokio::test]
async fn a_script_of_a_named_origin_does_a_whole_export() {
    let database = Database::create().await;
    database.put_patients(1).await;
    let issuer = Issuer::start().await;
    let mut settings = trusting(&[&issuer]);
    settings.push(("http.cors_origins", format!("[\"https://other.example.org\", \"{APP}\"]")));
    let server = Server::start_with(&database, &settings).await;
    let user = server.with_token(&issuer.ehealth_token("user", &["$bulk-export", "Binary.read", "Patient.search"]));

    // A browser sends no token with a preflight.
    let headers = "authorization,prefer,content-type,accept,cache-control,idempotency-key,range,if-range,if-none-match";
    for (path, method) in [
        ("/$export", "POST"),
        ("/%24export", "GET"),
        ("/$export-poll-status?_jobId=x", "GET"),
        ("/$export-poll-status?_jobId=x", "DELETE"),
        ("/Binary/x", "GET"),
    ] {
        let answer = send(from(APP, preflight(&server.anybody(), path, method, headers))).await;
        assert_eq!((answer.status, allowed_origin(&answer)), (200, Some(APP)), "{path}");
        assert!(answer.list("access-control-allow-methods").contains(&method.to_ascii_lowercase()));
        let allowed = answer.list("access-control-allow-headers");
        assert!(headers.split(',').all(|name| allowed.contains(name)), "{allowed:?}");
    }

    let seen = async |request: RequestBuilder, status: u16| {
        let answer = send(from(APP, request)).await;
        assert_eq!((answer.status, allowed_origin(&answer)), (status, Some(APP)));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        assert!(answer.list("vary").contains("origin"));
        let exposed = answer.list("access-control-expose-headers");
        for name in [
            "content-location",
            "x-progress",
            "retry-after",
            "expires",
            "etag",
            "x-export-status",
            "preference-applied",
            "accept-ranges",
            "content-range",
        ] {
            assert!(exposed.contains(name), "{name}: {exposed:?}");
        }
        answer
    };
    let started = seen(user.export("?_type=Patient"), 202).await;
    let url = started.header("content-location").unwrap();
    let complete = seen(user.get(url).header("prefer", "wait=20"), 200).await;
    let manifest: Value = serde_json::from_slice(&complete.body).unwrap();
    seen(user.get(manifest["output"][0]["url"].as_str().unwrap()), 200).await;
    seen(user.request(Method::DELETE, url), 202).await;
    // Errors are for scripts to read, too.
    seen(user.get(url), 404).await;
    seen(server.anybody().get(url), 401).await;
    seen(user.get("/nothing"), 404).await;
    seen(user.request(Method::PUT, "/$export"), 405).await;

    // What is not named is not let in, however alike.
    for origin in ["https://app.example.org.evil.example", "http://app.example.org", "null"] {
        let answer = send(from(origin, server.anybody().get("/metadata"))).await;
        assert_eq!((answer.status, allowed_origin(&answer)), (200, None), "{origin}");
    }
    let statement: Value = server.anybody().get("/metadata").send().await.unwrap().json().await.unwrap();
    assert_eq!(statement["rest"][0]["security"]["cors"], true);
}

#[tokio::test]
async fn a_star_lets_everybody_in() {
    let database = Database::create().await;
    let server = Server::start_with(&database, &[("http.cors_origins", "[\"*\"]")]).await;
    let answer = send(from(APP, server.anybody().get("/metadata"))).await;
    assert_eq!((answer.status, allowed_origin(&answer)), (200, Some("*")));
}
