//! Turns go to owners first, and then to the exports of each: who starts ten gets no more than who starts one
//! (DESIGN 5).

use sqlx::Row;

use crate::support::{Caller, Database, Issuer, Server, eventually, trusting};
use crate::workers::hold_basic;

const ROLES: [&str; 5] = ["$bulk-export", "Binary.read", "Patient.search", "Task.search", "Basic.search"];

/// Data of three sizes, and a server with these settings.
async fn set_up(settings: &[(&'static str, &str)]) -> (Database, Issuer, Server) {
    let database = Database::create().await;
    database.put(&[r#"{"resourceType":"Basic","id":"b"}"#, r#"{"resourceType":"Task","id":"t"}"#]).await;
    database.put_patients(300).await;
    let issuer = Issuer::start().await;
    let settings = settings.iter().map(|(key, value)| (*key, (*value).to_owned()));
    let settings: Vec<_> = trusting(&[&issuer]).into_iter().chain(settings).collect();
    let server = Server::start_with(&database, &settings).await;
    (database, issuer, server)
}

fn caller(server: &Server, issuer: &Issuer, name: &str) -> Caller {
    server.with_token(&issuer.ehealth_token(name, &ROLES))
}

/// Whose export was started when, in order.
async fn starts(database: &Database) -> Vec<String> {
    let query = "select owner_subject from export_job where started_at is not null order by started_at";
    sqlx::query_scalar(query).fetch_all(&database.pool).await.unwrap()
}

/// Whose part of which export was claimed when, in order.
async fn claims(database: &Database) -> Vec<(String, String)> {
    let query =
        "select owner_subject, job_id::text from export_part join export_job on id = job_id order by claimed_at";
    let rows = sqlx::query(query).fetch_all(&database.pool).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn an_owners_only_export_is_not_planned_behind_all_of_anothers() {
    let (database, issuer, server) = set_up(&[("export.workers", "1"), ("export.max_running", "1")]).await;
    let (alice, bob) = (caller(&server, &issuer, "alice"), caller(&server, &issuer, "bob"));
    let planner_waits = database.lock_writers().await;
    let mut jobs = Vec::new();
    for who in [&alice, &alice, &alice, &bob] {
        jobs.push(who.kick_off("?_type=Patient").await);
    }
    drop(planner_waits);
    for job in jobs {
        assert_eq!(job.completed().await.resources().await.len(), 300);
    }
    assert_eq!(starts(&database).await, ["alice", "bob", "alice", "alice"]);
}

#[tokio::test]
async fn who_has_the_fewest_exports_under_way_is_planned_first() {
    let settings = [("export.workers", "3"), ("export.max_running", "2"), ("export.fallback_poll", "200ms")];
    let (database, issuer, server) = set_up(&settings).await;
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| caller(&server, &issuer, name));
    let hold = hold_basic(&database).await;
    let running = async |count| {
        eventually("so many run", || async { database.count("export_job where state = 'running'").await == count })
            .await
    };
    let large = alice.kick_off("?_type=Basic").await;
    running(1).await;
    // Bob has had something after that.
    bob.kick_off("?_type=Task").await.completed().await;
    let in_the_way = carol.kick_off("?_type=Basic").await;
    running(2).await;
    let of_alice = alice.kick_off("?_type=Task").await;
    let of_bob = bob.kick_off("?_type=Task").await;
    assert_eq!(in_the_way.delete().await.status(), 202);
    of_bob.completed().await;
    of_alice.completed().await;
    assert_eq!(starts(&database).await, ["alice", "bob", "carol", "bob", "alice"]);
    hold.rollback().await.unwrap();
    large.completed().await;
}

// One worker plans all that waits before it takes a part, so all parts are there when the first is taken
const ONE_WORKER: [(&str, &str); 2] = [("export.workers", "1"), ("export.file_target", "4KiB")];

#[tokio::test]
async fn the_parts_of_many_exports_are_no_more_turns_than_those_of_one() {
    let (database, issuer, server) = set_up(&ONE_WORKER).await;
    let (alice, bob) = (caller(&server, &issuer, "alice"), caller(&server, &issuer, "bob"));
    let planner_waits = database.lock_writers().await;
    let mut jobs = Vec::new();
    for who in [&alice, &alice, &alice, &bob] {
        jobs.push(who.kick_off("?_type=Patient").await);
    }
    drop(planner_waits);
    for job in &jobs {
        job.completed().await;
    }
    let claims = claims(&database).await;
    let of_bob = claims.iter().filter(|(owner, _)| owner == "bob").count();
    assert!(of_bob >= 3 && claims.len() == of_bob * 4, "{claims:?}");
    for (n, (owner, _)) in claims.iter().enumerate() {
        let expected = if n < of_bob * 2 && n % 2 == 1 { "bob" } else { "alice" };
        assert_eq!(owner, expected, "{n}: {claims:?}");
    }
    // And an owner's exports are in turn too.
    let of_alice: Vec<_> = claims.iter().filter(|(owner, _)| owner == "alice").map(|(_, job)| job.as_str()).collect();
    let round: Vec<_> = jobs.iter().take(3).map(|job| job.id()).collect();
    assert!(of_alice.chunks(3).all(|chunk| chunk == round), "{claims:?}");
}

#[tokio::test]
async fn many_small_exports_do_not_keep_a_large_one_waiting() {
    let (database, issuer, server) = set_up(&ONE_WORKER).await;
    let (alice, bob) = (caller(&server, &issuer, "alice"), caller(&server, &issuer, "bob"));
    let planner_waits = database.lock_writers().await;
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(alice.kick_off("?_type=Task").await);
    }
    jobs.push(bob.kick_off("?_type=Patient").await);
    drop(planner_waits);
    for job in jobs {
        job.completed().await;
    }
    let owners: Vec<_> = claims(&database).await.into_iter().map(|(owner, _)| owner).collect();
    let in_turn = ["alice", "bob"].repeat(4);
    assert!(owners.starts_with(&in_turn.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()), "{owners:?}");
}
