//! Servers with one export and its file.

use super::{Database, Server};

/// A server with one file of several chunks, and the file's URL.
pub async fn with_a_large_file(database: &Database) -> (Server, String) {
    // Digits of a number that repeats nowhere: they compress, but not to nothing.
    let noise = |n: u64| (0..400).map(|i| (n * 7919 + i * i * 104_729).to_string()).collect::<String>();
    let texts: Vec<String> = (0..1_500)
        .map(|n| format!(r#"{{"resourceType":"Basic","id":"b{n}","code":{{"text":"{}æ☃"}}}}"#, noise(n)))
        .collect();
    database.put(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let server = Server::start(database).await;
    let manifest = server.anybody().kick_off("").await.completed().await;
    assert_eq!(manifest.resources().await.len(), 1_500);
    let url = manifest.urls("output").remove(0);
    (server, url)
}

/// A server with one small file, and the file's URL.
pub async fn with_a_small_file(database: &Database) -> (Server, String) {
    database.put_patients(3).await;
    let server = Server::start(database).await;
    let url = server.anybody().kick_off("").await.completed().await.urls("output").remove(0);
    (server, url)
}

/// So many Basics of a MiB each. Two dozen are more than what the sockets between server and client hold.
pub async fn put_mebibytes(database: &Database, count: usize) {
    let text = "x".repeat(1 << 20);
    for n in 0..count {
        database.put(&[&format!(r#"{{"resourceType":"Basic","id":"b{n}","code":{{"text":"{text}"}}}}"#)]).await;
    }
}
