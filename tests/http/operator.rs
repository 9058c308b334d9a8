//! What the operator has: probes on a listener of their own, and the command `jobs`.

use rustix::process::{Signal, kill_process};

use crate::support::{Database, Server, eventually};

#[tokio::test]
async fn probes_answer_on_their_own_address_only() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    for path in ["/healthz", "/readyz"] {
        let response = anybody.get(&format!("{}{path}", server.probes)).send().await.unwrap();
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        assert_eq!((response.status().as_u16(), response.text().await.unwrap().as_str()), (200, "ok\n"));
        anybody.refused(anybody.get(&server.base.replace("/fhir", path)), 404).await;
    }
    let fhir = format!("{}/fhir/metadata", server.probes);
    assert_eq!(anybody.get(&fhir).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn it_is_not_ready_without_its_database() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let ready = async || anybody.get(&format!("{}/readyz", server.probes)).send().await.unwrap().status();
    assert_eq!(ready().await, 200);
    database.close(true).await;
    assert_eq!(ready().await, 503);
    let alive = anybody.get(&format!("{}/healthz", server.probes)).send().await.unwrap();
    assert_eq!(alive.status(), 200);
    database.close(false).await;
    eventually("it is ready again", || async { ready().await == 200 }).await;
    // And its workers work again.
    anybody.kick_off("").await.completed().await;
}

#[tokio::test]
async fn a_probe_does_not_wait_long_for_a_database_that_hangs() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let ready = async || anybody.get(&format!("{}/readyz", server.probes)).send().await.unwrap().status();
    assert_eq!(ready().await, 200);
    let sessions = database.sessions().await;
    for session in &sessions {
        kill_process(*session, Signal::STOP).unwrap();
    }
    let hung = ready().await;
    for session in &sessions {
        kill_process(*session, Signal::CONT).unwrap();
    }
    assert_eq!(hung, 503);
    assert!(server.log().contains("the database does not answer in time"));
    eventually("it is ready again", || async { ready().await == 200 }).await;
}

#[tokio::test]
async fn jobs_lists_shows_and_cancels() {
    let database = Database::create().await;
    database.put_patients(7).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let done = anybody.kick_off("?_type=Patient").await;
    done.completed().await;
    let planner_waits = database.lock_writers().await;
    let waiting = anybody.kick_off("").await;
    let jobs = async |arguments: &[&str]| {
        let output = database.command("jobs", arguments, b"").await;
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.success(), text)
    };
    let (_, list) = jobs(&[]).await;
    let line = |id: &str| list.lines().find(|line| line.starts_with(id)).unwrap().to_owned();
    assert!(line(done.id()).contains("completed") && line(done.id()).contains("100%"), "{list}");
    assert!(line(waiting.id()).contains("accepted"), "{list}");
    let (_, shown) = jobs(&["show", done.id()]).await;
    assert!(shown.contains("output Patient 7") && shown.contains("7 of about 7"), "{shown}");
    assert_eq!(jobs(&["cancel", waiting.id()]).await, (true, format!("{} is cancelled.\n", waiting.id())));
    assert_eq!(waiting.poll().await.status(), 404);
    assert!(!jobs(&["cancel", waiting.id()]).await.0, "it is finished already");
    assert!(!jobs(&["show", "00000000-0000-4000-8000-000000000000"]).await.0);
    drop(planner_waits);
}
