//! How large files become, when the client has a say in it (rule G13).

use crate::support::{Database, Manifest, Server};

const MIB: usize = 1 << 20;

/// Bytes of each file of the export, as it is downloaded.
async fn sizes(server: &Server, manifest: &Manifest) -> Vec<usize> {
    let mut sizes = Vec::new();
    for url in manifest.urls("output") {
        sizes.push(server.anybody().download(&url).await.len());
    }
    sizes
}

/// So many Patients and as many Tasks of about a kilobyte, in small files unless the client asks for others.
async fn with_small_files(database: &Database, count: usize) -> Server {
    let text = "x".repeat(900);
    let all: Vec<String> = (0..count)
        .flat_map(|n| {
            ["Patient", "Task"].map(|t| format!(r#"{{"resourceType":"{t}","id":"r{n}","language":"{text}"}}"#))
        })
        .collect();
    database.put(&all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    Server::start_with(database, &[("export.file_target", "100KiB")]).await
}

// G13
#[tokio::test]
async fn no_file_is_larger_than_the_maximum() {
    let database = Database::create().await;
    with_small_files(&database, 2_000).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    for maximum in [MIB, 1_234_567, 10 * MIB] {
        let manifest = anybody.kick_off(&format!("?_maximumFileSize={maximum}")).await.completed().await;
        let sizes = sizes(&server, &manifest).await;
        assert!(sizes.iter().all(|size| *size <= maximum), "{maximum}: {sizes:?}");
        // Filled as far as the next resource allows, but for the last of each type.
        let full = sizes.iter().filter(|size| **size > maximum - 2_000).count();
        assert!(full + 2 >= sizes.len(), "{maximum}: {sizes:?}");
        assert_eq!(manifest.resources().await.len(), 4_000);
        assert!(manifest.urls("error").is_empty());
    }
}

// G13
#[tokio::test]
async fn files_reach_the_minimum() {
    let database = Database::create().await;
    let server = with_small_files(&database, 3_000).await;
    let anybody = server.anybody();
    let usual = sizes(&server, &anybody.kick_off("").await.completed().await).await;
    assert!(usual.len() > 50, "{usual:?}");
    for minimum in [200_000, 300_000] {
        let manifest = anybody.kick_off(&format!("?_minimumFileSize={minimum}")).await.completed().await;
        let sizes = sizes(&server, &manifest).await;
        // Where to cut comes from a sample: once in a while a file is a little short of it.
        assert!(sizes.len() > 4 && sizes.iter().all(|size| *size * 10 >= minimum * 8), "{minimum}: {sizes:?}");
        assert_eq!(manifest.resources().await.len(), 6_000);
    }
    // Of each type there is less than that: one file for each.
    let manifest = anybody.kick_off("?_minimumFileSize=100000000").await.completed().await;
    assert_eq!(sizes(&server, &manifest).await.len(), 2);
}

// G13, C8: nothing is left out, and the client is told
#[tokio::test]
async fn a_resource_longer_than_the_maximum_is_alone_in_its_file() {
    let database = Database::create().await;
    database.put_patients(10).await;
    let long = "y".repeat(2 * MIB);
    database.put(&[&format!(r#"{{"resourceType":"Patient","id":"long","language":"{long}"}}"#)]).await;
    let server = Server::start(&database).await;
    let manifest = server.anybody().kick_off(&format!("?_maximumFileSize={MIB}")).await.completed().await;
    let mut sizes = sizes(&server, &manifest).await;
    sizes.sort_unstable();
    assert!(sizes.len() == 2 && sizes[0] < MIB && sizes[1] > 2 * MIB, "{sizes:?}");
    assert_eq!(manifest.resources().await.len(), 11);
    let outcomes = manifest.lines("error").await;
    assert_eq!(outcomes.len(), 1);
    let (type_name, outcome) = &outcomes[0];
    assert_eq!(type_name, "OperationOutcome");
    assert!(outcome.contains("_maximumFileSize: 1 resources among Patient are longer than 1048576 bytes"), "{outcome}");
    assert!(outcome.contains("too-long"), "{outcome}");
}

// G13, A26
#[tokio::test]
async fn sizes_are_numbers_in_a_query_and_in_parameters() {
    let database = Database::create().await;
    let server = with_small_files(&database, 200).await;
    let anybody = server.anybody();
    let parameters =
        r#"{"resourceType":"Parameters","parameter":[{"name":"_minimumFileSize","valuePositiveInt":150000}]}"#;
    let manifest = anybody.accepted(anybody.export_by_post(parameters)).await.completed().await;
    let sizes = sizes(&server, &manifest).await;
    assert!(sizes.len() == 2 && sizes.iter().all(|size| *size > 150_000), "{sizes:?}");
    for (query, complaint) in [
        ("_maximumFileSize=0", "value: _maximumFileSize: 0 is not a number of bytes"),
        ("_maximumFileSize=1048575", "value: _maximumFileSize: at least 1048576 bytes are needed"),
        ("_minimumFileSize=1MiB", "value: _minimumFileSize: 1MiB is not a number of bytes"),
        ("_maximumFileSize=5000000&_maximumFileSize=5", "_maximumFileSize may be given once"),
        ("_minimumFileSize=5000000&_maximumFileSize=5000000", "_maximumFileSize is not larger than _minimumFileSize"),
    ] {
        let said = anybody.refused(anybody.export(&format!("?{query}")), 400).await;
        assert!(said.contains(complaint), "{said}");
    }
}
