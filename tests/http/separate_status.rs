//! An export that was started with `separate-export-status`: the status of a poll is that of the poll, and a header has
//! that of the export (rules B10, C12).

use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::support::answer::{Answer, get, send};
use crate::support::{Caller, Database, Job, Server, eventually};

const BOTH: &str = "respond-async, separate-export-status";

/// A kick-off by POST.
fn separate(caller: &Caller, prefer: &str) -> RequestBuilder {
    caller.request(Method::POST, "/$export").header("accept", "application/fhir+json").header("prefer", prefer)
}

async fn poll(caller: &Caller, job: &Job) -> Answer {
    get(caller, &job.url, &[]).await
}

/// Polls until it has ended.
async fn ended(caller: &Caller, job: &Job) -> Answer {
    let is_running = async || poll(caller, job).await.header("x-export-status") == Some("202 Accepted");
    eventually("it ends", || async { !is_running().await }).await;
    poll(caller, job).await
}

#[tokio::test]
async fn polls_answer_200_and_say_apart_how_the_export_stands() {
    let database = Database::create().await;
    database.put_patients(2).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let planner_waits = database.lock_writers().await;
    let job = anybody.accepted(separate(&anybody, BOTH)).await;
    let running = poll(&anybody, &job).await;
    assert_eq!((running.status, running.header("x-export-status")), (200, Some("202 Accepted")));
    assert!(running.header("x-progress").is_some() && running.header("retry-after").is_some());
    assert!(running.body.is_empty() && running.header("content-type").is_none());
    // By POST, and with a wait.
    let post = anybody.request(Method::POST, &job.url).header("prefer", "wait=1");
    let waited = send(post).await;
    assert_eq!((waited.status, waited.header("x-export-status")), (200, Some("202 Accepted")));
    assert_eq!(waited.header("preference-applied"), Some("wait=1"));
    drop(planner_waits);
    let complete = ended(&anybody, &job).await;
    assert_eq!((complete.status, complete.header("x-export-status")), (200, Some("200 OK")));
    assert_eq!(complete.header("content-type"), Some("application/json"));
    assert!(complete.header("expires").is_some());
    let manifest: Value = serde_json::from_slice(&complete.body).unwrap();
    assert_eq!(manifest["output"][0]["count"], 2);
}

// C6
#[tokio::test]
async fn a_failure_is_told_with_200() {
    let database = Database::create().await;
    database.put_patients(1).await;
    let server = Server::start_with(&database, &[("export.attempts", "1")]).await;
    database.execute("alter table binary_chunk add constraint broken check (octet_length(data) < 0)").await;
    let anybody = server.anybody();
    let job = anybody.accepted(separate(&anybody, BOTH)).await;
    let failed = ended(&anybody, &job).await;
    assert_eq!((failed.status, failed.header("x-export-status")), (200, Some("500 Internal Server Error")));
    assert_eq!(failed.header("content-type"), Some("application/fhir+json; charset=UTF-8"));
    let outcome: Value = serde_json::from_slice(&failed.body).unwrap();
    assert_eq!(
        (&outcome["resourceType"], &outcome["issue"][0]["code"]),
        (&"OperationOutcome".into(), &"processing".into())
    );
}

// B9, B10, L24: however it is written, and only where it is asked for
#[tokio::test]
async fn it_is_applied_where_it_is_preferred() {
    let database = Database::create().await;
    let server = Server::start_with(&database, &[("export.max_running_per_owner", "20")]).await;
    let anybody = server.anybody();
    let applied = async |request: RequestBuilder| {
        let answer = send(request).await;
        assert_eq!((answer.status, answer.body.len()), (202, 0));
        answer.header("preference-applied").map(str::to_owned)
    };
    for prefer in
        [BOTH, "respond-async,separate-export-status", "Separate-Export-Status, Respond-Async, handling=lenient"]
    {
        assert_eq!(applied(separate(&anybody, prefer)).await.as_deref(), Some(BOTH), "{prefer}");
    }
    let twice = separate(&anybody, "respond-async").header("prefer", "separate-export-status");
    assert_eq!(applied(twice).await.as_deref(), Some(BOTH));
    let query = anybody.get("/$export").header("accept", "application/fhir+json").header("prefer", BOTH);
    assert_eq!(applied(query).await.as_deref(), Some(BOTH));
    anybody.refused(separate(&anybody, "separate-export-status"), 400).await;

    let plain = anybody.kick_off("").await;
    plain.completed().await;
    // The kick-off decides, not the poll.
    let poll = get(&anybody, &plain.url, &[("prefer", BOTH)]).await;
    assert_eq!((poll.status, poll.header("x-export-status")), (200, None));
    assert_eq!(applied(anybody.export("")).await, None);
}

// C14, D4, D9: of a job that is not there is nothing to tell
#[tokio::test]
async fn a_cancelled_export_is_404() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let _planner_waits = database.lock_writers().await;
    let job = anybody.accepted(separate(&anybody, BOTH)).await;
    assert_eq!(job.delete().await.status(), 202);
    anybody.refused(anybody.get(&job.url), 404).await;
    assert_eq!(poll(&anybody, &job).await.header("x-export-status"), None);
}

// An export that the version before has started, or a replica of it
#[tokio::test]
async fn a_stored_request_that_does_not_say_is_told_as_ever() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let job = server.anybody().kick_off("").await;
    job.completed().await;
    database.execute("update export_job set request = request - 'separate_status'").await;
    let poll = poll(&server.anybody(), &job).await;
    assert_eq!((poll.status, poll.header("x-export-status")), (200, None));
}
