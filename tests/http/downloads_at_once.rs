//! Downloads at once: so many of one owner, so many in all, and none that has ended counts on, however it ended (B14).

use reqwest::{Method, Response, StatusCode};

use crate::support::{Caller, Database, Issuer, Server, eventually, put_mebibytes, trusting};

const ROLES: [&str; 3] = ["$bulk-export", "Binary.read", "Basic.search"];

/// Exports what is there; gives the file.
async fn exported(caller: &Caller) -> String {
    caller.kick_off("?_type=Basic").await.completed().await.urls("output").remove(0)
}

/// A download of which only the beginning is read; the rest does not fit into the sockets.
async fn begun(caller: &Caller, url: &str) -> Response {
    let mut response = caller.get(url).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.chunk().await.unwrap().unwrap();
    response
}

/// Waits until there may be another download, and reads all of it.
async fn has_place(caller: &Caller, url: &str) {
    eventually("there is a place", || async {
        let response = caller.get(url).send().await.unwrap();
        let is_there = response.status() == StatusCode::OK;
        // One that was broken off on purpose does not come whole.
        let _ = response.bytes().await;
        is_there
    })
    .await;
}

#[tokio::test]
async fn one_too_many_of_an_owner_is_refused_until_another_has_ended() {
    let database = Database::create().await;
    put_mebibytes(&database, 24).await;
    let server = Server::start_with(&database, &[("http.max_downloads_per_owner", "2")]).await;
    let anybody = server.anybody();
    let url = exported(&anybody).await;
    let etag = anybody.request(Method::HEAD, &url).send().await.unwrap().headers()["etag"].clone();
    let (first, second) = (begun(&anybody, &url).await, begun(&anybody, &url).await);
    let refused = anybody.get(&url).send().await.unwrap();
    assert!(refused.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
    for request in [anybody.get(&url), anybody.get(&url).header("range", "bytes=0-9")] {
        let text = anybody.refused(request, 429).await;
        assert!(text.starts_with("throttled: ") && text.contains("you have 2 under way"), "{text}");
    }
    // What sends nothing of the file is always answered.
    let head = anybody.request(Method::HEAD, &url).send().await.unwrap();
    assert_eq!(
        (head.status(), &head.headers()["content-length"]),
        (StatusCode::OK, &first.headers()["content-length"])
    );
    assert_eq!(anybody.get(&url).header("if-none-match", etag).send().await.unwrap().status(), 304);
    anybody.refused(anybody.get(&url).header("range", "bytes=999999999-"), 416).await;
    anybody.refused(anybody.get(&url).header("accept", "application/fhir+xml"), 406).await;
    // The client goes away …
    drop(first);
    has_place(&anybody, &url).await;
    // … or takes all of it, and the connection stays open.
    let third = begun(&anybody, &url).await;
    anybody.refused(anybody.get(&url), 429).await;
    second.bytes().await.unwrap();
    has_place(&anybody, &url).await;
    third.bytes().await.unwrap();
    let _both = (begun(&anybody, &url).await, begun(&anybody, &url).await);
}

#[tokio::test]
async fn heads_ranges_and_unchanged_files_leave_nothing_behind() {
    let database = Database::create().await;
    put_mebibytes(&database, 1).await;
    let server = Server::start_with(&database, &[("http.max_downloads", "1")]).await;
    let anybody = server.anybody();
    let url = exported(&anybody).await;
    for _ in 0..5 {
        let head = anybody.request(Method::HEAD, &url).send().await.unwrap();
        assert_eq!(head.status(), 200);
        let etag = head.headers()["etag"].clone();
        assert_eq!(anybody.get(&url).header("if-none-match", etag).send().await.unwrap().status(), 304);
        anybody.refused(anybody.get(&url).header("range", "bytes=999999999-"), 416).await;
    }
    has_place(&anybody, &url).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_loses_its_place() {
    let database = Database::create().await;
    put_mebibytes(&database, 24).await;
    let settings = [("http.max_downloads", "1"), ("http.stall_timeout", "500ms")];
    let server = Server::start_with(&database, &settings).await;
    let anybody = server.anybody();
    let url = exported(&anybody).await;
    let _stalled = begun(&anybody, &url).await;
    anybody.refused(anybody.get(&url), 429).await;
    has_place(&anybody, &url).await;
}

#[tokio::test]
async fn a_download_that_breaks_off_leaves_its_place() {
    let database = Database::create().await;
    put_mebibytes(&database, 4).await;
    let server = Server::start_with(&database, &[("http.max_downloads", "1")]).await;
    let anybody = server.anybody();
    let url = exported(&anybody).await;
    database.execute("delete from binary_chunk where ordinal > 0").await;
    for _ in 0..3 {
        has_place(&anybody, &url).await;
    }
    assert!(server.log().contains("a download broke off"));
}

#[tokio::test]
async fn the_limit_in_all_is_for_everybody() {
    let database = Database::create().await;
    put_mebibytes(&database, 24).await;
    let issuer = Issuer::start().await;
    let limits = [("http.max_downloads", "2".to_owned()), ("http.max_downloads_per_owner", "1".to_owned())];
    let server = Server::start_with(&database, &[&trusting(&[&issuer])[..], &limits[..]].concat()).await;
    let caller = |name: &str| server.with_token(&issuer.ehealth_token(name, &ROLES));
    let (alice, bob, carol) = (caller("alice"), caller("bob"), caller("carol"));
    let of_alice = exported(&alice).await;
    let of_bob = exported(&bob).await;
    let of_carol = exported(&carol).await;
    let first = begun(&alice, &of_alice).await;
    alice.refused(alice.get(&of_alice), 429).await;
    // One owner's limit is no other's.
    let _second = begun(&bob, &of_bob).await;
    let text = carol.refused(carol.get(&of_carol), 429).await;
    assert!(text.contains("2 are under way") && text.contains("this server"), "{text}");
    drop(first);
    has_place(&carol, &of_carol).await;
}
