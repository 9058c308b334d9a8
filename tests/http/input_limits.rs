//! Whatever is sent: it is answered with what is wrong with it, and nothing of it writes the log.

use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Database, Server, with_a_small_file};

/// What comes back for these bytes, until the connection is closed.
async fn answer_to(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address().replace("http://", "").replace("/fhir", "")).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_request_id_is_taken_if_it_is_one() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let answered = async |ids: &[&[u8]]| {
        let request = ids.iter().fold(anybody.get("/metadata"), |request, id| request.header("x-request-id", *id));
        let response = request.send().await.unwrap();
        let mut ids = response.headers().get_all("x-request-id").iter();
        let id = ids.next().unwrap().to_str().unwrap().to_owned();
        assert_eq!(ids.next(), None);
        id
    };
    let longest = "i".repeat(128);
    for good in ["1", "a.B_c:d-9", &longest] {
        assert_eq!(answered(&[good.as_bytes()]).await, good);
    }
    let too_long = "i".repeat(129);
    let bad: [&[&[u8]]; 8] =
        [&[], &[b""], &[b"a b"], &[b"a\tb"], &[b"\"a\""], &[b"\xe9\x9b"], &[too_long.as_bytes()], &[b"a", b"b"]];
    for ids in bad {
        let id = answered(ids).await;
        assert!(uuid::Uuid::parse_str(&id).is_ok(), "{ids:?} {id}");
    }
    assert!(!server.log().contains(&too_long));
}

// B17: each says what is wrong
#[tokio::test]
async fn more_than_anybody_needs_is_refused() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let many = "a&".repeat(1_001);
    for path in [format!("/$export?{many}"), format!("/$export-poll-status?_jobId=x&{many}")] {
        let text = anybody.refused(anybody.export_at(&path), 400).await;
        assert!(text.contains("more than 1000 parameters"), "{text}");
    }
    let types = "Nope,".repeat(100_000);
    let body = format!(
        r#"{{"resourceType":"Parameters","parameter":[{{"name":"_type","valueString":"{types}"}},{{"name":"{}"}}]}}"#,
        "n".repeat(100_000)
    );
    let text = anybody.refused(anybody.export_by_post(&body), 400).await;
    assert!(text.len() < 1_000, "{} bytes", text.len());
    let deep = format!(r#"{{"resourceType":"Parameters","parameter":{}"#, "[".repeat(900_000));
    let text = anybody.refused(anybody.export_by_post(&deep), 400).await;
    assert!(text.contains("not a Parameters resource"), "{text}");
    let long = format!("/Patient/{}/$export", "i".repeat(30_000));
    let text = anybody.refused(anybody.export_at(&long), 404).await;
    assert!(text.len() < 300, "{text}");
}

#[tokio::test]
async fn a_nul_is_refused_wherever_it_stands() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    for query in [
        "?_typeFilter=Patient?name=%00",
        "?_typeFilter=Patient?name=%2500",
        "?_typeFilter=Patient?_id=%2500",
        "?_elements=a%00",
        "?_exportId=a%00",
        "?%00=1",
    ] {
        anybody.refused(anybody.export(query), 400).await;
        let lenient = anybody.export(query).header("prefer", "handling=lenient");
        let status = lenient.send().await.unwrap().status().as_u16();
        assert!(status == 400 || query.contains("%25"), "{query}: {status}");
    }
    let body = r#"{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"Task\u0000"}]}"#;
    anybody.refused(anybody.export_by_post(body), 400).await;
    anybody.refused(anybody.get("/$export-poll-status?_jobId=%00"), 400).await;
    for path in ["/Binary/%00", "/Binary/a%00b", "/OperationDefinition/%00", "/Binary/a/_history/%00"] {
        anybody.refused(anybody.get(path), 404).await;
    }
    anybody.refused(anybody.export_at("/Patient/%00/$export"), 404).await;
    anybody.refused(anybody.export_at("/Group/%ff/$export"), 404).await;
    anybody.refused(anybody.get("/Binary/%ff%fe"), 400).await;
}

#[tokio::test]
async fn lists_without_end_in_headers_are_read_in_good_time() {
    let database = Database::create().await;
    let (other, file) = with_a_small_file(&database).await;
    let server = Server::start_with(&database, &[("http.max_headers", "300KiB")]).await;
    let anybody = server.anybody();
    let file = file.replace(&other.base, &server.base);
    for (name, value) in [
        ("range", format!("bytes={}", "0-0,".repeat(60_000))),
        ("accept", "a/b;q=0.1,".repeat(20_000)),
        ("accept-encoding", "x;q=0.5,".repeat(20_000)),
        ("prefer", "wait=x,".repeat(20_000)),
        ("if-none-match", "\"x\",".repeat(50_000)),
    ] {
        let response = anybody.get(&file).header(name, value).send().await.unwrap();
        assert_eq!(response.status(), 200, "{name}");
    }
}

// The log is one line for each event, whoever calls.
#[tokio::test]
async fn nobody_writes_the_log_but_the_server() {
    for format in ["text", "json"] {
        let database = Database::create().await;
        let settings = [("log.format", format), ("log.filter", "trace")];
        let server = Server::start_with(&database, &settings).await;
        let anybody = server.anybody();
        let evil = "%0A%1B[2J%0D2026-01-01T00:00:00Z ERROR forged";
        for path in [
            format!("/{evil}"),
            format!("/Binary/{evil}"),
            format!("/Patient/{evil}/$export?{evil}={evil}&_typeFilter={evil}&_type={evil}"),
            format!("/$export?_exportId={evil}&_since={evil}&patient={evil}"),
            format!("/$export-poll-status?_jobId={evil}"),
        ] {
            let path = path.replace(' ', "%20");
            for method in [Method::GET, Method::POST, Method::from_bytes(b"FORGED").unwrap()] {
                let request = anybody.request(method, &path).header("accept", "*/*").header("prefer", "respond-async");
                assert!(request.send().await.unwrap().status().is_client_error(), "{path}");
            }
        }
        let body = r#"{"resourceType":"Parameters","parameter":[{"name":"\n\u001b[2J\u009b forged","valueString":"\n\u001b forged"}]}"#;
        assert_eq!(anybody.export_by_post(body).send().await.unwrap().status(), 400);
        for header in ["x-request-id", "authorization", "accept", "prefer", "idempotency-key", "content-type"] {
            let value = b"a\tERROR forged \xc2\x9b2J";
            let request = anybody.export("").header(header, &value[..]);
            request.send().await.unwrap();
        }
        // Of what is no HTTP hyper answers by itself, without a body.
        for bytes in [
            &b"GET /\x1b[2Jforged HTTP/1.1\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\nx-request-id: a\nERROR forged\r\nhost: a\r\nconnection: close\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: a\r\nx-request-id: \x1b[2Jforged\r\nconnection: close\r\n\r\n",
            b"\x1b[2J\nERROR forged\n\n",
        ] {
            let answer = answer_to(&server, bytes).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
        let log = server.log();
        assert!(log.lines().count() > 20);
        for line in log.lines() {
            let is_ours = match format {
                "json" => line.starts_with("{\"timestamp\"") && line.ends_with('}'),
                _ => {
                    line.starts_with("20")
                        && line
                            .get(27..)
                            .is_some_and(|rest| rest.trim_start().chars().next().is_some_and(char::is_uppercase))
                }
            };
            assert!(is_ours && !line.contains(char::is_control), "{line:?}");
        }
    }
}
