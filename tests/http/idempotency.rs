//! A kick-off that is sent twice with one Idempotency-Key starts one export
//! (draft-ietf-httpapi-idempotency-key-header; B11).

use std::collections::BTreeSet;

use reqwest::RequestBuilder;

use crate::support::secured::{ROLES, set_up};
use crate::support::{Caller, Database, Server};

const KEY: &str = r#""8e03978e-40d5-43dd-bc93-6894a57f9324""#;

fn with_key(request: RequestBuilder, key: &str) -> RequestBuilder {
    request.header("idempotency-key", key)
}

/// Kicks off with a key; gives where to poll.
async fn started(caller: &Caller, query: &str, key: &str) -> String {
    caller.accepted(with_key(caller.export(query), key)).await.url
}

#[tokio::test]
async fn a_kick_off_may_be_sent_again() {
    let database = Database::create().await;
    database.put_patients(1).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let job = anybody.accepted(with_key(anybody.export("?_type=Patient"), KEY)).await;
    assert_eq!(started(&anybody, "?_type=Patient", KEY).await, job.url);
    job.completed().await;
    // With or without quotes, and also when it is done.
    assert_eq!(started(&anybody, "?_type=Patient", KEY.trim_matches('"')).await, job.url);
    let by_post = || {
        let body =
            r#"{"resourceType":"Parameters","parameter":[{"name":"_since","valueInstant":"2026-01-01T00:00:00Z"}]}"#;
        with_key(anybody.export_by_post(body), "by-post")
    };
    let first = anybody.accepted(by_post()).await.url;
    assert_eq!(anybody.accepted(by_post()).await.url, first);
    assert_eq!(database.count("export_job").await, 2);
    // Without a key, each starts one.
    assert_ne!(anybody.kick_off("?_type=Patient").await.url, anybody.kick_off("?_type=Patient").await.url);
}

#[tokio::test]
async fn a_job_that_came_to_nothing_is_still_the_one_that_was_started() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let planner_waits = database.lock_writers().await;
    let job = anybody.accepted(with_key(anybody.export(""), "cancelled")).await;
    assert_eq!(job.delete().await.status(), 202);
    assert_eq!(started(&anybody, "", "cancelled").await, job.url);
    let failed = started(&anybody, "", "failed").await;
    database
        .execute(
            "update export_job set state = 'failed', failure = 'x', finished_at = now(), expires_at = now() + interval '1 hour'
            where idempotency_key = 'failed'",
        )
        .await;
    assert_eq!(started(&anybody, "", "failed").await, failed);
    drop(planner_waits);
}

#[tokio::test]
async fn many_at_once_start_one() {
    let database = Database::create().await;
    let settings = [("http.public_base_url", "https://fhir.example.org/fhir")];
    let replicas = [Server::start_with(&database, &settings).await, Server::start_with(&database, &settings).await];
    let mut sent = Vec::new();
    for n in 0..10 {
        let caller = Caller::new(&replicas[n % 2].address(), None);
        sent.push(tokio::spawn(async move { started(&caller, "", KEY).await }));
    }
    let mut urls = BTreeSet::new();
    for url in sent {
        urls.insert(url.await.unwrap());
    }
    assert_eq!(urls.len(), 1, "{urls:?}");
    assert_eq!(database.count("export_job").await, 1);
}

#[tokio::test]
async fn a_key_stands_for_one_request() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    started(&anybody, "?_type=Patient", KEY).await;
    for query in ["", "?_type=Task", "?_type=Patient&_since=2026-01-01T00:00:00Z"] {
        let text = anybody.refused(with_key(anybody.export(query), KEY), 422).await;
        assert!(text.starts_with("business-rule: ") && text.contains("another request"), "{text}");
    }
    anybody.refused(with_key(anybody.export_by_post(""), KEY), 422).await;
    assert_eq!(database.count("export_job").await, 1);
}

#[tokio::test]
async fn a_key_is_a_string_or_a_token() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    for key in ["", "\"\"", "\"a", "\"a b\"", "a,b", &"k".repeat(256)] {
        let text = anybody.refused(with_key(anybody.export(""), key), 400).await;
        assert!(text.contains("Idempotency-Key must be 1 to 255 visible ASCII characters"), "{key}: {text}");
    }
    let text = anybody.refused(with_key(with_key(anybody.export(""), "a"), "a"), 400).await;
    assert!(text.contains("more than one Idempotency-Key"), "{text}");
    assert_eq!(database.count("export_job").await, 0);
    started(&anybody, "", &"k".repeat(255)).await;
}

// A8, D9: no key of others does harm, or tells anything
#[tokio::test]
async fn every_owner_has_keys_of_their_own() {
    let (database, issuer, server) = set_up().await;
    let alice = server.with_token(&issuer.ehealth_token("alice", &ROLES));
    let bob = server.with_token(&issuer.ehealth_token("bob", &ROLES));
    let of_alice = started(&alice, "?_type=Patient", KEY).await;
    let of_bob = started(&bob, "?_type=Task", KEY).await;
    assert_ne!(of_alice, of_bob);
    assert_eq!(started(&alice, "?_type=Patient", KEY).await, of_alice);
    assert_eq!(started(&bob, "?_type=Task", KEY).await, of_bob);
    assert_eq!(database.count("export_job").await, 2);
    // Who may start no exports learns nothing of those that were; with other rights it is another request.
    let no_more = server.with_token(&issuer.ehealth_token("alice", &["Patient.search"]));
    no_more.refused(with_key(no_more.export("?_type=Patient"), KEY), 403).await;
    let all = started(&alice, "", "all").await;
    assert_eq!(started(&alice, "", "all").await, all);
    let less = server.with_token(&issuer.ehealth_token("alice", &["$bulk-export", "Patient.search"]));
    less.refused(with_key(less.export(""), "all"), 422).await;
}

// B14
#[tokio::test]
async fn what_was_started_counts_against_no_limit() {
    let database = Database::create().await;
    let server = Server::start_with(&database, &[("export.max_running_per_owner", "1")]).await;
    let anybody = server.anybody();
    let _planner_waits = database.lock_writers().await;
    let url = started(&anybody, "", KEY).await;
    anybody.refused(anybody.export(""), 429).await;
    anybody.refused(with_key(anybody.export(""), "other"), 429).await;
    assert_eq!(started(&anybody, "", KEY).await, url);
    // Nor does it need space.
    drop(server);
    let settings = [("http.public_base_url", url.rsplit_once("/$").unwrap().0), ("database.disk_size", "1MiB")];
    let full = Server::start_with(&database, &settings).await;
    let anybody = Caller::new(&full.address(), None);
    anybody.refused(with_key(anybody.export(""), "other"), 503).await;
    assert_eq!(started(&anybody, "", KEY).await, url);
}

// The reaper comes by now and then; what has expired in between is gone for its owner already
#[tokio::test]
async fn an_expired_job_gives_its_key_back() {
    let database = Database::create().await;
    let server = Server::start_with(&database, &[("retention.sweep", "1h")]).await;
    let anybody = server.anybody();
    let job = anybody.accepted(with_key(anybody.export(""), KEY)).await;
    job.completed().await;
    database.execute("update export_job set expires_at = clock_timestamp()").await;
    let other = anybody.accepted(with_key(anybody.export("?_type=Patient"), KEY)).await;
    assert_ne!(other.url, job.url);
    assert_eq!(database.count("export_job").await, 2);
    assert_eq!(started(&anybody, "?_type=Patient", KEY).await, other.url);
    other.completed().await;
    // So does one that its owner has deleted.
    assert_eq!(other.delete().await.status(), 202);
    assert_ne!(started(&anybody, "?_type=Patient", KEY).await, other.url);
}
