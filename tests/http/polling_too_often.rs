//! Polls: as many as a client that waits as it is told could ever need, and no more (rules C5, C7).

use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use crate::support::{Caller, Database, Server};

/// Polls 200 times at once, which on any machine is faster than ten a second; gives how many polls were answered, and
/// one that was not.
async fn hammer(poll: impl Fn() -> RequestBuilder) -> (u32, Response) {
    let polls: Vec<_> = (0..200).map(|_| tokio::spawn(poll().send())).collect();
    let (mut answered, mut throttled) = (0, None);
    for poll in polls {
        let response = poll.await.unwrap().unwrap();
        match response.status().as_u16() {
            202 => answered += 1,
            429 => throttled = Some(response),
            status => panic!("{status}: {}", response.text().await.unwrap()),
        }
    }
    (answered, throttled.expect("somebody minds"))
}

// C5, C7
#[tokio::test]
async fn a_client_that_hammers_is_told_to_wait_and_may_go_on_then() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let planner_waits = database.lock_writers().await;
    let (job, other) = (anybody.kick_off("").await, anybody.kick_off("").await);
    let started = Instant::now();
    let (answered, response) = hammer(|| anybody.get(&job.url)).await;
    let most = 50.0 + 1.0 + started.elapsed().as_secs_f64() * 10.0;
    assert!(answered >= 50 && f64::from(answered) <= most, "{answered} of {most}");
    assert_eq!(response.headers()["retry-after"], "1");
    let outcome: Value = response.json().await.unwrap();
    assert_eq!(
        (&outcome["resourceType"], &outcome["issue"][0]["code"]),
        (&"OperationOutcome".into(), &"throttled".into())
    );
    // However it is asked for.
    hammer(|| anybody.request(Method::POST, &job.url)).await;
    // Another export is another matter.
    assert_eq!(other.poll().await.status(), 202);
    // After the wait it is as if nothing had been, and so it is for the export.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..5 {
        assert_eq!(job.poll().await.status(), 202);
    }
    drop(planner_waits);
    job.completed().await;
}

// C5: an export that is told to wait can be cancelled all the same
#[tokio::test]
async fn a_cancel_is_no_poll() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let _planner_waits = database.lock_writers().await;
    let job = server.anybody().kick_off("").await;
    hammer(|| server.anybody().get(&job.url)).await;
    assert_eq!(job.delete().await.status(), 202);
}

// C4, C5
#[tokio::test]
async fn a_client_that_waits_as_it_is_told_never_meets_the_limit() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let planner_waits = database.lock_writers().await;
    let job = server.anybody().kick_off("").await;
    // So many programs of one user at once, each after its Retry-After: still not too often.
    let polite = (0..8).map(|_| {
        let (caller, url) = (Caller::new(&server.base, None), job.url.clone());
        tokio::spawn(async move {
            for _ in 0..4 {
                let response = caller.get(&url).send().await.unwrap();
                assert_eq!(response.status(), 202);
                let wait = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
                tokio::time::sleep(Duration::from_secs(wait)).await;
            }
        })
    });
    for client in polite.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    drop(planner_waits);
    job.completed().await;
}
