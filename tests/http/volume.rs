//! Where the chunks of a large export lie, and that its space is given back at once (DESIGN 4).

use sha2::{Digest, Sha256};

use crate::support::{Database, Server, eventually, put_mebibytes};

const TAKEN: &str = "binary_volume where job_id is not null";
/// Basics in the store.
const BASICS: usize = 71;

/// Bytes on disk of all chunks.
async fn on_disk(database: &Database) -> i64 {
    let size = "select sum(pg_total_relation_size(inhrelid))::bigint from pg_inherits
        where inhparent = 'binary_chunk'::regclass";
    sqlx::query_scalar(size).fetch_one(&database.pool).await.unwrap()
}

/// A database with so much that an export of it is worth a volume, and with noise, which does not compress to nothing.
async fn with_much() -> Database {
    let database = Database::create().await;
    put_mebibytes(&database, BASICS - 1).await;
    let mut state = 1_u64;
    let noise: String = (0..4 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'A' + (state >> 33) as u8 % 26)
        })
        .collect();
    database.put(&[&format!(r#"{{"resourceType":"Basic","id":"noise","code":{{"text":"{noise}"}}}}"#)]).await;
    database
}

#[tokio::test]
async fn the_space_of_a_large_export_is_given_back_when_it_is_deleted() {
    let database = with_much().await;
    let empty = on_disk(&database).await;
    // The reaper looks once a minute: it has to be woken.
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let (first, second) = (anybody.kick_off("").await, anybody.kick_off("").await);
    let manifest = first.completed().await;
    second.completed().await;
    assert_eq!(database.count(TAKEN).await, 2, "each has a volume of its own");
    assert_eq!(database.count("binary_chunk where volume = 0").await, 0);
    assert!(on_disk(&database).await > empty + (2 << 20));
    assert_eq!(second.delete().await.status(), 202);
    eventually("its volume is free", || async { database.count(TAKEN).await == 1 }).await;
    assert_eq!(manifest.resources().await.len(), BASICS, "the other is still whole");
    // Just downloaded: a hold that has not run out would keep it for a moment.
    database.execute("update binary_file set held_until = null").await;
    assert_eq!(first.delete().await.status(), 202);
    eventually("nothing is left", || async { database.count("export_job").await == 0 }).await;
    assert_eq!((database.count(TAKEN).await, database.count("binary_file").await), (0, 0));
    assert_eq!(on_disk(&database).await, empty, "without vacuum");
}

#[tokio::test]
async fn a_file_in_a_volume_of_its_own_comes_in_ranges_too() {
    let database = with_much().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let url = anybody.kick_off("").await.completed().await.urls("output").remove(0);
    assert_eq!(database.count(TAKEN).await, 1);
    let whole = anybody.download(&url).await;
    let mut parts = Sha256::new();
    for range in ["0-5000000", "5000001-40000000", "40000001-"] {
        let part = anybody.get(&url).header("range", format!("bytes={range}")).send().await.unwrap();
        assert_eq!(part.status(), 206);
        parts.update(part.bytes().await.unwrap());
    }
    assert!(parts.finalize() == Sha256::digest(&whole));
}

#[tokio::test]
async fn an_export_that_finds_no_free_volume_shares_one() {
    let database = with_much().await;
    database.execute("update binary_volume set job_id = gen_random_uuid()").await;
    let server = Server::start(&database).await;
    let job = server.anybody().kick_off("").await;
    job.completed().await;
    let all = database.count("binary_chunk").await;
    assert_eq!(database.count("binary_chunk where volume = 0").await, all);
    assert_eq!(job.delete().await.status(), 202);
    eventually("its rows are gone", || async { database.count("binary_chunk").await == 0 }).await;
}

#[tokio::test]
async fn small_exports_share_a_volume() {
    let database = Database::create().await;
    database.put_patients(10).await;
    let server = Server::start(&database).await;
    server.anybody().kick_off("").await.completed().await;
    assert_eq!(database.count(TAKEN).await, 0);
    assert_eq!(database.count("binary_chunk where volume = 0").await, 1);
}

// D7
#[tokio::test]
async fn a_cancelled_export_gives_back_what_it_has_written() {
    let database = with_much().await;
    let empty = on_disk(&database).await;
    let server = Server::start_with(&database, &[("export.lease", "3s")]).await;
    // Its part has stored chunks, and cannot store their file while this lock is held.
    let mut blocker = database.pool.begin().await.unwrap();
    sqlx::query("lock table binary_file in share mode").execute(&mut *blocker).await.unwrap();
    let job = server.anybody().kick_off("").await;
    eventually("it writes", || async { on_disk(&database).await > empty }).await;
    assert_eq!(job.delete().await.status(), 202);
    eventually("the worker notices", || async { server.log().contains("no longer ours") }).await;
    blocker.rollback().await.unwrap();
    eventually("the volume is free", || async { database.count(TAKEN).await == 0 }).await;
    assert_eq!(on_disk(&database).await, empty);
}

// Two replicas reap the same export: the one that comes late must not empty what is another export's by now
#[tokio::test]
async fn a_volume_is_emptied_only_for_the_export_whose_it_is() {
    let database = with_much().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let (job, other) = (anybody.kick_off("").await, anybody.kick_off("").await);
    job.completed().await;
    let manifest = other.completed().await;
    let volume = |job: &str| format!("(select number from binary_volume where job_id = '{job}')");
    let (late, others) = (volume(job.id()), volume(other.id()));

    // As if another replica were just emptying it, and a new export took it: the reaper has to wait for that.
    let mut replica = database.pool.begin().await.unwrap();
    let lock = format!("select from binary_file where job_id = '{}' for update", job.id());
    sqlx::query(sqlx::AssertSqlSafe(lock)).execute(&mut *replica).await.unwrap();
    assert_eq!(job.delete().await.status(), 202);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    for statement in [
        // Should the two wait for each other, it is the reaper that gives up.
        "set local deadlock_timeout = '20s'".to_owned(),
        format!("delete from binary_chunk where volume = {late}"),
        format!("delete from binary_file where job_id = '{}'", job.id()),
        format!("update binary_chunk set volume = {late} where volume = {others}"),
        format!("update binary_volume set job_id = null where job_id = '{}'", other.id()),
        format!("update binary_volume set job_id = '{}' where job_id = '{}'", other.id(), job.id()),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *replica).await.unwrap();
    }
    replica.commit().await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(manifest.resources().await.len(), BASICS, "the other export is whole");
}
