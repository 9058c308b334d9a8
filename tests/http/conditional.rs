//! Files that the client has already, or wants only in a state they have: preconditions (RFC 9110, 13; DESIGN 4).

use reqwest::Method;

use crate::support::answer::{Answer, get, send};
use crate::support::{Caller, Database, with_a_small_file};

/// GET and HEAD with these headers, which are to say that the client has the file already.
async fn expect_not_modified(caller: &Caller, url: &str, whole: &Answer, headers: &[(&str, &str)]) {
    for method in [Method::GET, Method::HEAD] {
        let request = caller.request(method.clone(), url);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = send(request).await;
        assert_eq!((answer.status, answer.body.len()), (304, 0), "{method} {headers:?}");
        for name in ["etag", "vary", "content-location", "last-modified", "cache-control"] {
            assert_eq!(answer.header(name), whole.header(name), "{name}");
        }
        for name in ["content-type", "content-encoding", "content-range", "transfer-encoding", "connection"] {
            assert_eq!(answer.header(name), None, "{name}");
        }
        // If there is one, it is that of the file (RFC 9110, 8.6).
        let length = answer.header("content-length");
        assert!(length.is_none() || length == whole.header("content-length"), "{method} {length:?}");
    }
}

#[tokio::test]
async fn a_client_that_has_the_file_is_told_so() {
    let database = Database::create().await;
    let (server, url) = with_a_small_file(&database).await;
    let anybody = server.anybody();
    for (name, value) in
        [("accept-encoding", "identity"), ("accept-encoding", "gzip"), ("accept", "application/fhir+json")]
    {
        let whole = get(&anybody, &url, &[(name, value)]).await;
        let (etag, date) = (whole.header("etag").unwrap(), whole.header("last-modified").unwrap());
        let opaque = etag.trim_start_matches("W/");
        let list = format!(r#""x,y" , W/{opaque},"z""#);
        for tags in [etag, opaque, &format!("W/{opaque}"), &list, "*"] {
            expect_not_modified(&anybody, &url, &whole, &[(name, value), ("if-none-match", tags)]).await;
        }
        let version = format!("{url}/_history/1");
        expect_not_modified(&anybody, &version, &whole, &[(name, value), ("if-none-match", etag)]).await;
        expect_not_modified(&anybody, &url, &whole, &[(name, value), ("if-modified-since", date)]).await;
        let both = [(name, value), ("if-none-match", etag), ("range", "bytes=0-1")];
        expect_not_modified(&anybody, &url, &whole, &both).await;
        for (condition, unmet) in [
            ("if-none-match", "\"x\""),
            ("if-none-match", ""),
            ("if-modified-since", "Thu, 01 Jan 1998 00:00:00 GMT"),
            ("if-modified-since", "yesterday"),
        ] {
            let answer = get(&anybody, &url, &[(name, value), (condition, unmet)]).await;
            assert!(answer.status == 200 && answer.body == whole.body, "{condition} {unmet}");
        }
        // The tag knows better than the date.
        let answer =
            get(&anybody, &url, &[(name, value), ("if-none-match", "\"x\""), ("if-modified-since", date)]).await;
        assert_eq!(answer.status, 200);
    }
    // A tag is of one encoding.
    let plain = get(&anybody, &url, &[]).await;
    let tag = plain.header("etag").unwrap();
    assert_eq!(get(&anybody, &url, &[("accept-encoding", "gzip"), ("if-none-match", tag)]).await.status, 200);
}

#[tokio::test]
async fn a_precondition_that_does_not_hold_is_refused() {
    let database = Database::create().await;
    let (server, url) = with_a_small_file(&database).await;
    let anybody = server.anybody();
    let whole = get(&anybody, &url, &[]).await;
    let (etag, date) = (whole.header("etag").unwrap(), whole.header("last-modified").unwrap());
    let long_ago = "Thu, 01 Jan 1998 00:00:00 GMT";
    for (headers, status) in [
        (vec![("if-match", etag)], 200),
        (vec![("if-match", "*")], 200),
        (vec![("if-match", &format!("\"x\", {etag}"))], 200),
        (vec![("if-match", "\"x\"")], 412),
        (vec![("if-match", &format!("W/{etag}"))], 412),
        (vec![("if-unmodified-since", date)], 200),
        (vec![("if-unmodified-since", long_ago)], 412),
        (vec![("if-match", etag), ("if-unmodified-since", long_ago)], 200),
        (vec![("if-match", "\"x\""), ("if-none-match", etag)], 412),
        (vec![("if-match", "\"x\""), ("range", "bytes=0-1")], 412),
        (vec![("if-match", etag), ("range", "bytes=0-1")], 206),
        // A weak tag is the same as none.
        (vec![("if-match", "W/\"1\""), ("accept", "application/fhir+json")], 412),
        (vec![("if-match", "*"), ("accept", "application/fhir+json")], 200),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let request = anybody.request(method.clone(), &url);
            let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            // HEAD is answered like a GET without Range.
            let status = if method == Method::HEAD && status == 206 { 200 } else { status };
            assert_eq!(send(request).await.status, status, "{method} {headers:?}");
        }
    }
    anybody.refused(anybody.get(&url).header("if-match", "\"x\""), 412).await;
}
