//! A poll that waits: `Prefer: wait=N` (RFC 7240, 4.3).

use std::time::{Duration, Instant};

use reqwest::Method;
use rustix::process::Signal;
use tokio::task::JoinHandle;

use crate::support::answer::{Answer, send};
use crate::support::{Caller, Database, Job, Server, eventually};

fn poll(caller: &Caller, method: Method, job: &Job, prefer: &str) -> JoinHandle<Answer> {
    tokio::spawn(send(caller.request(method, &job.url).header("prefer", prefer)))
}

/// A poll that the server has begun to answer, and waits with.
async fn waiting(server: &Server, job: &Job) -> JoinHandle<Answer> {
    let poll = poll(&server.anybody(), Method::GET, job, "wait=25");
    eventually("it waits", || async { server.log().contains("a poll waits for its end") }).await;
    assert!(!poll.is_finished());
    poll
}

#[tokio::test]
async fn it_is_answered_when_the_export_has_ended() {
    let database = Database::create().await;
    database.put_patients(1).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    for method in [Method::GET, Method::POST] {
        let planner_waits = database.lock_writers().await;
        let job = anybody.kick_off("?_type=Patient").await;
        let poll = poll(&anybody, method, &job, "wait=25");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!poll.is_finished());
        drop(planner_waits);
        let started = Instant::now();
        let answer = poll.await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(15), "it did not wait for its time to be over");
        assert_eq!((answer.status, answer.header("preference-applied")), (200, Some("wait=25")));
        assert_eq!(answer.body, job.poll().await.bytes().await.unwrap());
        // What has ended is not waited for.
        let again = send(anybody.get(&job.url).header("prefer", "wait=25")).await;
        assert_eq!((again.status, again.header("preference-applied")), (200, Some("wait=25")));
        assert_eq!(again.body, answer.body);
    }
}

#[tokio::test]
async fn it_is_told_at_once_and_does_not_have_to_look() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let mut times = Vec::new();
    for _ in 0..10 {
        let job = anybody.kick_off("").await;
        let started = Instant::now();
        let answer = send(anybody.get(&job.url).header("prefer", "wait=25")).await;
        assert_eq!(answer.status, 200);
        times.push(started.elapsed());
    }
    // It looks by itself after a second.
    assert!(times.iter().min() < Some(&Duration::from_millis(800)), "{times:?}");
}

#[tokio::test]
async fn it_waits_no_longer_than_asked_nor_than_a_request_may_take() {
    let database = Database::create().await;
    let server = Server::start_with(&database, &[("http.request_timeout", "3s")]).await;
    let anybody = server.anybody();
    let _planner_waits = database.lock_writers().await;
    let job = anybody.kick_off("").await;
    database.execute("update export_job set accepted_at = accepted_at - interval '10 minutes'").await;
    for (wait, applied) in [(1, 1), (600, 2), (u64::MAX, 2)] {
        let started = Instant::now();
        let answer = send(anybody.get(&job.url).header("prefer", format!("wait={wait}"))).await;
        let elapsed = started.elapsed();
        assert!(elapsed >= Duration::from_secs(applied), "{wait}: {elapsed:?}");
        assert_eq!(answer.status, 202);
        assert_eq!(answer.header("preference-applied"), Some(format!("wait={applied}").as_str()));
        assert!(answer.header("x-progress").is_some());
        assert_eq!(answer.header("retry-after"), Some("1"), "it may go on waiting");
    }
}

// RFC 7240, 2: what is not understood is ignored
#[tokio::test]
async fn a_wait_that_is_no_number_is_ignored() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let _planner_waits = database.lock_writers().await;
    let job = anybody.kick_off("").await;
    for prefer in ["wait=soon", "wait=-1", "wait", "wait=1.5", "respond-async; wait=20", "wait=soon, wait=20"] {
        let started = Instant::now();
        let answer = send(anybody.get(&job.url).header("prefer", prefer)).await;
        assert!(started.elapsed() < Duration::from_secs(10), "{prefer}");
        assert_eq!((answer.status, answer.header("preference-applied")), (202, None), "{prefer}");
    }
}

// C6, C14, D4: whichever way it ends
#[tokio::test]
async fn it_hears_of_a_cancel_and_of_a_failure() {
    let database = Database::create().await;
    let server = Server::start_with(&database, &[("export.deadline", "2s")]).await;
    let anybody = server.anybody();
    let _planner_waits = database.lock_writers().await;
    let job = anybody.kick_off("").await;
    let cancelled = waiting(&server, &job).await;
    assert_eq!(job.delete().await.status(), 202);
    assert_eq!(cancelled.await.unwrap().status, 404);
    let overdue = anybody.kick_off("").await;
    let answer = poll(&anybody, Method::GET, &overdue, "wait=25").await.unwrap();
    assert_eq!((answer.status, answer.header("preference-applied")), (500, Some("wait=25")));
}

#[tokio::test]
async fn a_server_that_stops_answers_it() {
    let database = Database::create().await;
    let mut server = Server::start(&database).await;
    let planner_waits = database.lock_writers().await;
    let job = server.anybody().kick_off("").await;
    let poll = waiting(&server, &job).await;
    let stopped = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(poll.await.unwrap().status, 202);
    assert!(stopped.elapsed() < Duration::from_secs(15), "it did not wait for its time to be over");
    // The server waits for who plans the export.
    drop(planner_waits);
    eventually("it ends", || {
        let ended = server.has_ended();
        async move { ended.is_some_and(|status| status.success()) }
    })
    .await;
}

#[tokio::test]
async fn many_that_wait_keep_nobody_from_the_database() {
    let database = Database::create().await;
    let server = Server::start_with(&database, &[("database.max_connections", "2")]).await;
    let anybody = server.anybody();
    let planner_waits = database.lock_writers().await;
    let job = anybody.kick_off("").await;
    let polls: Vec<_> = (0..40).map(|_| poll(&anybody, Method::GET, &job, "wait=25")).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let started = Instant::now();
    assert_eq!(anybody.kick_off("").await.poll().await.status(), 202);
    assert!(started.elapsed() < Duration::from_secs(4), "it had to wait for a connection");
    drop(planner_waits);
    for poll in polls {
        assert_eq!(poll.await.unwrap().status, 200);
    }
}
