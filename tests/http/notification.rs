//! A small export is complete in moments: workers are woken, they do not wait for their next look.

use std::time::{Duration, Instant};

use crate::support::{Database, Server};

#[tokio::test]
async fn ten_resources_are_exported_by_notification_alone() {
    let database = Database::create().await;
    database.put_patients(10).await;
    let fallback = Duration::from_secs(60);
    let server = Server::start_with(&database, &[("export.fallback_poll", "60s")]).await;
    let anybody = server.anybody();
    let mut times = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        let manifest = anybody.kick_off("").await.completed().await;
        times.push(started.elapsed());
        assert_eq!(manifest.resources().await.len(), 10);
    }
    times.sort();
    println!("kick-off to complete, polled every 10 ms: median {:?}, longest {:?}", times[10], times[19]);
    assert!(times[19] < fallback / 2, "somebody waited for the fallback poll: {times:?}");
}
