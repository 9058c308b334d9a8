//! Where the chunks of a large export lie, and that its space is given back at once (DESIGN 4).

use crate::support::{Database, Server, eventually, put_two_dozen_mebibytes};

const TAKEN: &str = "binary_volume where job_id is not null";

/// Bytes on disk of all chunks.
async fn on_disk(database: &Database) -> i64 {
    let size = "select sum(pg_total_relation_size(inhrelid))::bigint from pg_inherits
        where inhparent = 'binary_chunk'::regclass";
    sqlx::query_scalar(size).fetch_one(&database.pool).await.unwrap()
}

/// A database with much noise, which does not compress, as one resource.
async fn with_noise() -> Database {
    let database = Database::create().await;
    put_two_dozen_mebibytes(&database).await;
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
async fn the_space_of_a_large_export_is_given_back_as_soon_as_it_is_deleted() {
    let database = with_noise().await;
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
    assert_eq!(manifest.resources().await.len(), 25, "the other is still whole");
    // Just downloaded: a hold that has not run out would keep it for a moment.
    database.execute("update binary_file set held_until = null").await;
    assert_eq!(first.delete().await.status(), 202);
    eventually("nothing is left", || async { database.count("export_job").await == 0 }).await;
    assert_eq!((database.count(TAKEN).await, database.count("binary_file").await), (0, 0));
    assert_eq!(on_disk(&database).await, empty, "without vacuum");
}

#[tokio::test]
async fn an_export_that_finds_no_free_volume_shares_one() {
    let database = with_noise().await;
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
async fn a_cancelled_export_gives_its_volume_back() {
    let database = with_noise().await;
    let server = Server::start_with(&database, &[("export.lease", "3s"), ("retention.sweep", "500ms")]).await;
    let mut blocker = database.pool.begin().await.unwrap();
    sqlx::query("lock table binary_chunk in exclusive mode").execute(&mut *blocker).await.unwrap();
    let job = server.anybody().kick_off("").await;
    eventually("it has a volume", || async { database.count(TAKEN).await == 1 }).await;
    assert_eq!(job.delete().await.status(), 202);
    blocker.rollback().await.unwrap();
    eventually("the volume is free", || async { database.count(TAKEN).await == 0 }).await;
    assert_eq!(database.count("binary_chunk").await, 0);
}
