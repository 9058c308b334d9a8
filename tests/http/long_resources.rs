//! Long resources: exported byte for byte, and never in memory as a whole (DESIGN, promise 3).

use std::collections::BTreeMap;

use crate::support::{Database, Server};

/// An Observation of so many bytes in all, most of them in characters of two, three and four bytes.
fn of_length(id: &str, bytes: usize) -> String {
    let (before, after) = (format!(r#"{{"resourceType":"Observation","id":"{id}","valueString":""#), r#""}"#);
    let letters = ["æ", "☃", "𝄞", "x"];
    let mut text = before;
    for letter in letters.iter().cycle() {
        if text.len() + letter.len() + after.len() > bytes {
            break;
        }
        text.push_str(letter);
    }
    text.push_str(&"x".repeat(bytes - text.len() - after.len()));
    text + after
}

#[tokio::test]
async fn a_long_resource_comes_as_it_is_stored() {
    let database = Database::create().await;
    const MIB: usize = 1 << 20;
    let meta = r#""meta":{"versionId":"1","lastUpdated":"2026-01-01T00:00:00.000Z"},"#.len();
    for (n, stored) in [10, 900, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 1, 5 * MIB + 12_345].into_iter().enumerate()
    {
        let bytes = stored - stored.min(meta);
        database.put(&[&of_length(&format!("o{n}"), bytes.max(80))]).await;
    }
    let stored: BTreeMap<String, String> =
        sqlx::query_as::<_, (String, String)>("select 'Observation/' || id, body from resource")
            .fetch_all(&database.pool)
            .await
            .unwrap()
            .into_iter()
            .collect();
    let lengths: Vec<usize> = stored.values().map(String::len).collect();
    for length in [MIB - 1, MIB, MIB + 1, 2 * MIB] {
        assert!(lengths.contains(&length), "the lengths are as meant: {lengths:?}");
    }
    let server = Server::start(&database).await;
    let manifest = server.anybody().kick_off("").await.completed().await;
    assert!(manifest.resources().await == stored);
    let limited = server.anybody().kick_off("?_maximumFileSize=3000000").await.completed().await;
    assert!(limited.resources().await == stored);
    assert_eq!(limited.lines("error").await.len(), 1, "one is longer");
}

#[tokio::test]
async fn memory_does_not_grow_with_the_length_of_a_resource() {
    let database = Database::create().await;
    for n in 0..4 {
        database.put(&[&of_length(&format!("o{n}"), 30 << 20)]).await;
    }
    let server = Server::start(&database).await;
    let Some(before) = server.peak_memory() else {
        println!("skipped: this system does not tell how much memory a process takes");
        return;
    };
    let manifest = server.anybody().kick_off("").await.completed().await;
    for url in manifest.urls("output") {
        server.anybody().download(&url).await;
    }
    let above = server.peak_memory().unwrap() - before;
    println!("{} MiB above idle, of resources of 30 MiB", above >> 20);
    assert!(above < 60 << 20);
}
