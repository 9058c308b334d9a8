//! What every answer has in its head, and what none has: at every route, by every method, whatever comes of it.

use fhir_bulk_export::routes;
use reqwest::{Method, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Database, Issuer, Server, trusting, with_a_small_file};

/// Whatever is told of it may be data, or say that there is some.
fn check(what: &str, response: &Response) {
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("x-content-type-options"), Some("nosniff"), "{what}");
    assert!(
        matches!(header("cache-control"), Some("no-store" | "private, no-cache" | "private, no-store")),
        "{what}: {:?}",
        header("cache-control")
    );
    for told in ["server", "x-powered-by", "via", "access-control-allow-origin", "strict-transport-security"] {
        assert_eq!(header(told), None, "{what}: {told}");
    }
}

#[tokio::test]
async fn every_answer_of_every_route_is_guarded() {
    let database = Database::create().await;
    let issuer = Issuer::start().await;
    let open = Server::start_with(&database, &[("http.max_body", "10KiB")]).await;
    let closed = Server::start_with(&database, &trusting(&[&issuer])).await;
    let large = "x".repeat(11 << 10);
    for server in [&open, &closed] {
        let anybody = server.anybody();
        let host = server.base.trim_end_matches("/fhir").to_owned();
        let nowhere = ("/nowhere", &["GET"][..]);
        for (path, _) in routes().into_iter().chain([nowhere]) {
            let path = path.replace("{id}", "none").replace("{version}", "1");
            for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
                let method = Method::from_bytes(method.as_bytes()).unwrap();
                for body in ["", "{", &large] {
                    let request = anybody.request(method.clone(), &format!("{host}{path}"));
                    let request = request.header("origin", "https://evil.example").header("prefer", "respond-async");
                    let request = request.header("content-type", "application/json").body(body.to_owned());
                    let response = request.send().await.unwrap();
                    check(&format!("{method} {path} {}", body.len()), &response);
                    let text = response.text().await.unwrap();
                    assert!(
                        !text.contains(env!("CARGO_PKG_VERSION")) || path.contains("OperationDefinition"),
                        "{text}"
                    );
                }
            }
        }
    }
    // Too long, too large.
    let too_long = format!("{}/metadata?{}", open.base, "x".repeat(40_000));
    let response = open.anybody().get(&too_long).send().await.unwrap();
    assert_eq!(response.status(), 431);
    check("431", &response);
    let response = open.anybody().export_by_post(&large).send().await.unwrap();
    assert_eq!(response.status(), 413);
    check("413", &response);
}

#[tokio::test]
async fn files_and_manifests_are_guarded() {
    let database = Database::create().await;
    let (server, file) = with_a_small_file(&database).await;
    for accept in ["application/fhir+ndjson", "application/fhir+json", "application/fhir+xml"] {
        check(accept, &server.anybody().get(&file).header("accept", accept).send().await.unwrap());
    }
    check("a part", &server.anybody().get(&file).header("range", "bytes=0-0").send().await.unwrap());
    check("no part", &server.anybody().get(&file).header("range", "bytes=9999999-").send().await.unwrap());
    let job = server.anybody().kick_off("").await;
    job.completed().await;
    check("manifest", &job.poll().await);
    check("gone", &job.delete().await);
}

// A time-out, and what hyper answers before there is a request: it has neither body nor header of ours.
#[tokio::test]
async fn who_is_too_slow_or_speaks_no_http_learns_nothing() {
    let database = Database::create().await;
    let server = Server::start_with(&database, &[("http.request_timeout", "300ms")]).await;
    let address = server.address().replace("http://", "").replace("/fhir", "");
    let answer = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).to_ascii_lowercase()
    };
    let head = "POST /fhir/$export HTTP/1.1\r\nhost: x\r\naccept: */*\r\nprefer: respond-async\r\n\
        content-type: application/json\r\ncontent-length: 99\r\n\r\n";
    let slow = answer(head.as_bytes()).await;
    assert!(slow.starts_with("http/1.1 503") && slow.contains("nosniff") && slow.contains("no-store"), "{slow}");
    assert!(slow.contains("operationoutcome"), "{slow}");
    for bytes in [&b"nonsense\r\n\r\n"[..], b"GET /fhir/metadata HTTP/1.1\r\nno header\r\n\r\n"] {
        let refused = answer(bytes).await;
        assert!(refused.starts_with("http/1.1 400") && !refused.contains("server:"), "{refused}");
    }
}
