//! `_includeHistory`: all versions as of the transaction time, not only the current ones (rules B21, G3, G15, K22).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::{Caller, Database, Job, Manifest, Server, eventually};

fn task(id: &str, status: &str) -> String {
    format!(r#"{{"resourceType":"Task","id":"{id}","status":"{status}"}}"#)
}

/// Each in a millisecond of its own.
async fn put(database: &Database, id: &str, status: &str) {
    database.put(&[&task(id, status)]).await;
    tokio::time::sleep(Duration::from_millis(3)).await;
}

/// `a` in two versions, `b` in one and deleted, `c` deleted and there again.
async fn filled() -> Database {
    let database = Database::create().await;
    for (id, status) in [("a", "draft"), ("b", "draft"), ("c", "draft")] {
        put(&database, id, status).await;
    }
    for id in ["b", "c"] {
        database.delete("Task", id).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    put(&database, "a", "ready").await;
    put(&database, "c", "ready").await;
    database
}

async fn bodies(manifest: &Manifest) -> Vec<String> {
    let mut lines: Vec<_> = manifest.lines("output").await.into_iter().map(|(_, line)| line).collect();
    lines.sort_unstable();
    lines
}

/// What came out, `id/version status`.
async fn versions(caller: &Caller, query: &str) -> Vec<String> {
    let lines = bodies(&caller.kick_off(query).await.completed().await).await;
    let told = |line: &String| {
        let task: Value = serde_json::from_str(line).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        format!("{}/{} {}", text(&task["id"]), text(&task["meta"]["versionId"]), text(&task["status"]))
    };
    lines.iter().map(told).collect()
}

/// When this version was written, for a query.
async fn date(database: &Database, id: &str, version: i64) -> String {
    let (at,): (OffsetDateTime,) =
        sqlx::query_as("select last_updated from resource where id = $1 and version_id = $2")
            .bind(id)
            .bind(version)
            .fetch_one(&database.pool)
            .await
            .unwrap();
    at.format(&Rfc3339).unwrap()
}

#[tokio::test]
async fn all_versions_come_out_if_they_are_asked_for() {
    let database = filled().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let current = ["a/2 ready", "c/3 ready"];
    assert_eq!(versions(&anybody, "").await, current);
    assert_eq!(versions(&anybody, "?_includeHistory=false").await, current);
    let all = ["a/1 draft", "a/2 ready", "b/1 draft", "c/1 draft", "c/3 ready"];
    assert_eq!(versions(&anybody, "?_includeHistory=true").await, all, "a deletion is no line");
    let parameters = r#"{"resourceType":"Parameters","parameter":[{"name":"_includeHistory","valueBoolean":true}]}"#;
    let manifest = anybody.accepted(anybody.export_by_post(parameters)).await.completed().await;
    let mut stored: Vec<(String,)> =
        sqlx::query_as("select body from resource where not deleted").fetch_all(&database.pool).await.unwrap();
    stored.sort_unstable();
    assert!(bodies(&manifest).await.into_iter().eq(stored.into_iter().map(|(body,)| body)), "byte for byte");
    let text = anybody.refused(anybody.export("?_includeHistory=maybe"), 400).await;
    assert!(text.contains("_includeHistory"), "{text}");
}

// G2, G3, and E14 for versions: the deletion comes besides those that it ended
#[tokio::test]
async fn the_bounds_are_those_of_each_version() {
    let database = filled().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let (first, last) = (date(&database, "a", 1).await, date(&database, "a", 2).await);
    let between = format!("?_includeHistory=true&_since={first}&_until={last}");
    assert_eq!(versions(&anybody, &between).await, ["b/1 draft", "c/1 draft"]);
    let since = anybody.kick_off(&format!("?_includeHistory=true&_since={first}")).await.completed().await;
    assert_eq!(since.deletions().await, ["Task/b"], "what is deleted in the end, once");
    assert_eq!(bodies(&since).await.len(), 4);
    let until = format!("?_includeHistory=true&_until={last}&_elements=id");
    assert_eq!(versions(&anybody, &until).await, ["a/1 draft", "b/1 draft", "c/1 draft"]);
    // G3: what is later than the transaction time cannot be asked for.
    let all = versions(&anybody, "?_includeHistory=true&_until=2999-01-01T00:00:00Z").await;
    assert_eq!(all, versions(&anybody, "?_includeHistory=true").await);
}

// B1, H2: a version is in the history of the patients it was of, whoever the resource belongs to by now
#[tokio::test]
async fn a_version_belongs_to_the_patients_it_was_of() {
    let database = Database::create().await;
    database.put_patients(130).await;
    let of = |patient: &str| {
        format!(r#"{{"resourceType":"Observation","id":"o","subject":{{"reference":"Patient/{patient}"}}}}"#)
    };
    let observations = [of("p0"), of("p1"), of("p1"), r#"{"resourceType":"Observation","id":"o"}"#.to_owned()];
    for version in &observations[..2] {
        database.put(&[version]).await;
    }
    database.delete("Observation", "o").await;
    for version in &observations[2..] {
        database.put(&[version]).await;
    }
    // About the Observation, which is nobody's by now.
    database
        .put(&[
            r#"{"resourceType":"Provenance","id":"x","target":[{"reference":"Patient/p0"}]}"#,
            r#"{"resourceType":"Provenance","id":"x","target":[{"reference":"Observation/o"}]}"#,
            r#"{"resourceType":"Provenance","id":"x","target":[{"reference":"Patient/p1"}]}"#,
        ])
        .await;
    for (group, members) in [("few", 0..1), ("many", 1..130)] {
        let members: Vec<_> = members.map(|n| format!(r#"{{"entity":{{"reference":"Patient/p{n}"}}}}"#)).collect();
        let members = members.join(",");
        database.put(&[&format!(r#"{{"resourceType":"Group","id":"{group}","member":[{members}]}}"#)]).await;
    }
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    for (path, of_observation, of_provenance) in [
        ("/Patient/$export", "1 2 4", "1 3"),
        ("/Patient/p0/$export", "1", "1"),
        ("/Patient/p1/$export", "2 4", "3"),
        ("/Group/few/$export", "1", "1"),
        ("/Group/many/$export", "2 4", "3"),
    ] {
        for (type_name, expected) in [("Observation", of_observation), ("Provenance", of_provenance)] {
            let path = format!("{path}?_includeHistory=true&_type={type_name}");
            let manifest = anybody.accepted(anybody.export_at(&path)).await.completed().await;
            let mut versions = Vec::new();
            for line in bodies(&manifest).await {
                let resource: Value = serde_json::from_str(&line).unwrap();
                versions.push(resource["meta"]["versionId"].as_str().unwrap().to_owned());
            }
            versions.sort();
            assert_eq!(versions.join(" "), expected, "{path}");
        }
    }
}

// E3: history, too, is that of one instant
#[tokio::test]
async fn it_is_the_history_until_the_transaction_time_while_writers_write() {
    let database = filled().await;
    let server = Server::start_with(&database, &[("export.workers", "4"), ("export.file_target", "64KiB")]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let write = async {
        for n in 0.. {
            let texts: Vec<_> = (0..20).map(|id| task(&format!("t{}", (id + n) % 25), &n.to_string())).collect();
            database.put(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
            database.delete("Task", &format!("t{}", n % 25)).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    };
    let export = async {
        for _ in 0..10 {
            let manifest = server.anybody().kick_off("?_includeHistory=true").await.completed().await;
            let at = OffsetDateTime::parse(manifest.transaction_time(), &Rfc3339).unwrap();
            let mut stored: Vec<(String,)> =
                sqlx::query_as("select body from resource where last_updated <= $1 and not deleted")
                    .bind(at)
                    .fetch_all(&database.pool)
                    .await
                    .unwrap();
            stored.sort_unstable();
            let exported = bodies(&manifest).await;
            assert!(exported.iter().eq(stored.iter().map(|(body,)| body)), "{} {}", exported.len(), stored.len());
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(write, export);
}

const SUPERSEDED: &str = "resource where superseded_at < 'infinity'";

/// An export of history under way: until the transaction ends, its part cannot store what it has read.
async fn running(database: &Database, server: &Server) -> (sqlx::Transaction<'static, sqlx::Postgres>, Job) {
    let mut busy = database.pool.begin().await.unwrap();
    sqlx::query("lock table binary_file in share mode").execute(&mut *busy).await.unwrap();
    let job = server.anybody().kick_off("?_includeHistory=true").await;
    eventually("it runs", || async { database.count("export_job where state = 'running'").await == 1 }).await;
    (busy, job)
}

// DESIGN 2
#[tokio::test]
async fn versions_stay_until_the_export_that_needs_them_is_done() {
    let database = filled().await;
    let server = Server::start(&database).await;
    let (busy, job) = running(&database, &server).await;
    let pruner = Server::start_with(&database, &[("retention.history", "1ms"), ("retention.sweep", "100ms")]).await;
    put(&database, "a", "completed").await;
    // Many sweeps.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(database.count(SUPERSEDED).await, 5, "{}", pruner.log());
    busy.rollback().await.unwrap();
    assert_eq!(bodies(&job.completed().await).await.len(), 5);
    eventually("nothing needs them any more", || async { database.count(SUPERSEDED).await == 0 }).await;
    assert_eq!(versions(&server.anybody(), "?_includeHistory=true").await, ["a/3 completed", "c/3 ready"]);
}

// DESIGN 2, migrations/README: a replica of the version before does not ask what such an export needs
#[tokio::test]
async fn nobody_can_prune_what_an_export_needs() {
    let database = filled().await;
    let server = Server::start(&database).await;
    let (busy, job) = running(&database, &server).await;
    let prune = || sqlx::query("delete from resource where superseded_at < 'infinity'").execute(&database.pool);
    let error = prune().await.unwrap_err().to_string();
    assert!(error.contains("an export of all versions needs"), "{error}");
    busy.rollback().await.unwrap();
    assert_eq!(bodies(&job.completed().await).await.len(), 5);
    assert_eq!(prune().await.unwrap().rows_affected(), 4);
    assert_eq!(versions(&server.anybody(), "?_includeHistory=true").await, ["a/2 ready", "c/3 ready"]);
}

// DESIGN 2: between a prune and its commit no export is planned that would count on what it removes
#[tokio::test]
async fn an_export_waits_for_who_is_about_to_have_pruned() {
    let database = filled().await;
    let server = Server::start(&database).await;
    let mut prune = database.pool.begin().await.unwrap();
    let first = "(select min(superseded_at) from resource)";
    let statement = format!("delete from resource where superseded_at = {first}");
    sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *prune).await.unwrap();
    let job = server.anybody().kick_off("?_includeHistory=true").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(database.count("export_job where transaction_time is not null").await, 0);
    // Writers do not wait for either for long.
    put(&database, "a", "completed").await;
    prune.commit().await.unwrap();
    let manifest = job.completed().await;
    assert_eq!(bodies(&manifest).await.len(), 5, "all but one, and the newest");
    assert_eq!(database.count("export_job where failures > 0 or fault is not null").await, 0, "{}", server.log());
}

// DESIGN 2: what may be pruned already is not counted on
#[tokio::test]
async fn it_reaches_back_to_where_versions_are_pruned() {
    let database = filled().await;
    database
        .execute(
            "update transaction_time set pruned_until = (select last_updated from resource where id = 'b' and deleted)",
        )
        .await;
    let server = Server::start(&database).await;
    let all = ["a/1 draft", "a/2 ready", "c/1 draft", "c/3 ready"];
    assert_eq!(versions(&server.anybody(), "?_includeHistory=true").await, all);
}
