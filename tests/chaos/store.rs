//! What is in the store: a base of several types and sizes, and writers that never stop changing it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fhir_bulk_export::fhir::reference::PatientBases;
use fhir_bulk_export::fhir::resource_type::ResourceType;
use fhir_bulk_export::resource::body::Resource;
use fhir_bulk_export::resource::write::{Change, write};
use sqlx::PgPool;

use crate::findings::{Findings, Of};
use crate::proxy::{Proxy, Way};
use crate::random::Random;

/// Types that change: name, resources in the beginning, length of their text.
const TYPES: [(&str, u64, u64); 6] = [
    ("Patient", 600, 300),
    ("Observation", 1200, 200),
    ("Task", 400, 150),
    ("Provenance", 300, 100),
    ("Basic", 120, 6_000),
    ("DocumentReference", 3, 1_200_000),
];
/// A type that does not fit into the shared volume.
pub const LARGE: &str = "Media";
/// Each takes a file of its own, which is longer than what a socket takes at once.
const LARGE_RESOURCES: i32 = 24;
const LARGE_TEXT: i32 = 3 << 20;
const PICTURES: i32 = 1_500;
const PICTURE_TEXT: i32 = 256 << 10;

/// Fills an empty store; with a large type or without.
pub async fn fill(pool: &PgPool, random: &mut Random, with_large: bool) {
    for (type_name, count, length) in TYPES {
        let changes: Vec<Change> = (0..count).map(|n| put(random, type_name, n, length)).collect();
        for batch in changes.chunks(200) {
            write(pool, batch).await.unwrap();
        }
    }
    if with_large {
        fill_large(pool).await;
    }
    sqlx::query("analyze").execute(pool).await.unwrap();
}

/// By SQL: to read tens of mebibytes as JSON is not what is tested.
async fn fill_large(pool: &PgPool) {
    insert_large(pool, LARGE_RESOURCES, LARGE_TEXT).await;
}

/// Some hundred mebibytes of middling resources, for an export that takes its time.
pub async fn fill_with_pictures(pool: &PgPool) {
    insert_large(pool, PICTURES, PICTURE_TEXT).await;
    sqlx::query("analyze").execute(pool).await.unwrap();
}

async fn insert_large(pool: &PgPool, resources: i32, length: i32) {
    sqlx::query(
        r#"insert into resource (resource_type, id, version_id, last_updated, deleted, patients, mentions, body)
        select $1, 'r' || n, 1, at, false, '{}', '{}', format(
                '{"resourceType":"%s","id":"r%s","meta":{"versionId":"1","lastUpdated":"%s"},"status":"%s"}',
                $1::text, n, to_char(at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                left(repeat('picture ' || n || ' ', $3 / 8), $3)
            )
        from generate_series(1, $2) as n, date_trunc('milliseconds', clock_timestamp()) as at"#,
    )
    .bind(LARGE)
    .bind(resources)
    .bind(length)
    .execute(pool)
    .await
    .unwrap();
}

pub fn type_names() -> Vec<&'static str> {
    TYPES.iter().map(|(name, _, _)| *name).collect()
}

fn put(random: &mut Random, type_name: &str, n: u64, length: u64) -> Change {
    let (text, searched) = (text(random, length), searched(random, type_name));
    let json = format!(
        r#"{{"resourceType":"{type_name}","id":"r{n}"{searched},"text":{{"status":"generated","div":"{text}"}}}}"#
    );
    Change::Put(Resource::parse(json.as_bytes(), &PatientBases::default()).unwrap())
}

/// The members that filters look at, as they change from version to version; with a comma before each.
fn searched(random: &mut Random, type_name: &str) -> String {
    // Often of those that change often.
    let n = if random.one_in(2) { random.below(20) } else { random.below(600) };
    let is_one = random.one_in(2);
    match type_name {
        "Patient" => format!(r#","gender":"{}""#, if is_one { "female" } else { "male" }),
        "Observation" => {
            let status = if is_one { "final" } else { "preliminary" };
            format!(r#","status":"{status}","subject":{{"reference":"Patient/r{n}"}}"#)
        }
        "Provenance" => {
            let target = if is_one { "Observation" } else { "Patient" };
            format!(r#","target":[{{"reference":"{target}/r{n}"}}]"#)
        }
        _ => String::new(),
    }
}

/// Words: they compress, but not to nothing.
fn text(random: &mut Random, length: u64) -> String {
    const WORDS: [&str; 8] = ["blood", "pressure", "æble", "of", "ward", "☃", "measured", "again"];
    let length = usize::try_from(length / 2 + random.below(length)).unwrap();
    let mut text = String::with_capacity(length + 16);
    while text.len() < length {
        text.push_str(WORDS[random.index(WORDS.len())]);
        text.push_str(&format!(" {} ", random.below(10_000)));
    }
    text
}

fn change(random: &mut Random) -> Change {
    // The long ones rarely.
    let few = if random.one_in(60) { TYPES.len() } else { TYPES.len() - 1 };
    let (type_name, count, length) = TYPES[random.index(few)];
    // Some beyond those of the beginning, and often the same few.
    let n = if random.one_in(2) { random.below(20) } else { random.below(count + count / 4 + 1) };
    match random.below(4) {
        0 => Change::Delete(ResourceType::parse(type_name).unwrap(), format!("r{n}")),
        _ => put(random, type_name, n, length),
    }
}

/// Writes until it is told to stop. What became of a transaction whose connection was lost is not known, and need not
/// be: the store is the reference.
pub async fn keep_writing(pool: PgPool, mut random: Random, findings: Arc<Findings>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let changes: Vec<Change> = (0..=random.below(8)).map(|_| change(&mut random)).collect();
        match write(&pool, &changes).await {
            Ok(written) => findings.add(Of::Seen, "versions written", written.versions + written.deleted),
            Err(_) => {
                findings.count(Of::Seen, "writes that failed");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        tokio::time::sleep(random.time(0..30)).await;
    }
}

/// Lets the writers stand still for moments, in the middle of their transactions.
pub async fn hesitate(writers: Arc<Proxy>, mut random: Random, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        writers.set(Way::Stalled);
        tokio::time::sleep(random.time(50..400)).await;
        writers.set(Way::Open);
        tokio::time::sleep(random.time(20..200)).await;
    }
}

/// Runs the command `load -` now and then.
pub async fn keep_loading(url: String, mut random: Random, findings: Arc<Findings>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let lines: String = (0..40).map(|_| line(&mut random)).collect();
        let url = url.clone();
        let loaded = tokio::task::spawn_blocking(move || load(&url, &lines)).await.unwrap();
        findings.count(Of::Seen, if loaded { "runs of load" } else { "runs of load that failed" });
        let until = std::time::Instant::now() + random.time(3_000..6_000);
        while std::time::Instant::now() < until && !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn line(random: &mut Random) -> String {
    let (n, text) = (random.below(200), text(random, 150));
    format!(r#"{{"resourceType":"Task","id":"loaded-{n}","description":"{text}"}}{}"#, "\n")
}

fn load(url: &str, lines: &str) -> bool {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fhir-bulk-export"))
        .args(["load", "-"])
        .env("DATABASE_URL", url)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // A command that has failed does not read on.
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
    child.wait().unwrap().success()
}
