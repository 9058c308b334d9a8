//! `_since`: a client that passes each `transactionTime` as the next `_since` has, after every round, exactly the
//! store as it was at that instant, while writers never stop (rules E3, E14, G2, L7, L8, L9; DESIGN 3).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fhir_bulk_export::fhir::reference::PatientBases;
use fhir_bulk_export::fhir::resource_type::ResourceType;
use fhir_bulk_export::resource::body::Resource;
use fhir_bulk_export::resource::write::{Change, write};
use sqlx::PgPool;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::{Database, Server};

const ROUNDS: usize = 200;
const TYPES: [&str; 3] = ["Patient", "Task", "Observation"];

/// A small generator, so that a failure can be replayed from the seed it prints.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

fn random_change(random: &mut Random) -> Change {
    let type_name = TYPES[usize::try_from(random.below(3)).unwrap()];
    let id = format!("r{}", random.below(40));
    if random.below(3) == 0 {
        return Change::Delete(ResourceType::parse(type_name).unwrap(), id);
    }
    let text = format!(r#"{{"resourceType":"{type_name}","id":"{id}","language":"l{}"}}"#, random.below(1_000));
    Change::Put(Resource::parse(text.as_bytes(), &PatientBases::default()).unwrap())
}

async fn write_on(pool: PgPool, seed: u64, stop: Arc<AtomicBool>) {
    let mut random = Random(seed);
    while !stop.load(Ordering::Relaxed) {
        let changes: Vec<Change> = (0..=random.below(8)).map(|_| random_change(&mut random)).collect();
        write(&pool, &changes).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(random.below(6))).await;
    }
}

/// The state at an instant, asked of the store itself.
async fn store_at(pool: &PgPool, at: &str) -> BTreeMap<String, String> {
    let at = OffsetDateTime::parse(at, &Rfc3339).unwrap();
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "select resource_type, id, body from resource
        where last_updated <= $1 and superseded_at > $1 and not deleted",
    )
    .bind(at)
    .fetch_all(pool)
    .await
    .unwrap();
    rows.into_iter().map(|(type_name, id, body)| (format!("{type_name}/{id}"), body)).collect()
}

/// A transaction Bundle of the changes that `load -` is given now and then.
fn bundle(random: &mut Random) -> String {
    let n = random.below(40);
    format!(
        r#"{{"resourceType":"Bundle","type":"transaction","entry":[
        {{"resource":{{"resourceType":"Task","id":"r{n}","language":"b{}"}},"request":{{"method":"PUT","url":"Task/r{n}"}}}},
        {{"request":{{"method":"DELETE","url":"Patient/r{n}"}}}}]}}"#,
        random.below(1_000)
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chain_of_exports_is_the_store_after_every_round() {
    let seed = u64::from(std::process::id()) << 20 | 0x9E37;
    println!("seed {seed}");
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (1..=3)
        .map(|n| tokio::spawn(write_on(database.pool.clone(), seed.wrapping_mul(n), Arc::clone(&stop))))
        .collect();

    let mut random = Random(seed);
    let anybody = server.anybody();
    let mut copy: BTreeMap<String, String> = BTreeMap::new();
    let mut since = String::new();
    let mut deletions_seen = 0;
    for round in 0..ROUNDS {
        if round % 20 == 10 {
            let output = database.load(&["-"], bundle(&mut random).as_bytes()).await;
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let query = if since.is_empty() { String::new() } else { format!("?_since={since}") };
        let manifest = anybody.kick_off(&query).await.completed().await;
        let output = manifest.resources().await;
        for name in manifest.deletions().await {
            assert!(!output.contains_key(&name), "E14: round {round}: {name} is in output and in deleted");
            copy.remove(&name);
            deletions_seen += 1;
        }
        copy.extend(output);
        let at = manifest.transaction_time();
        assert!(at > since.as_str(), "round {round}: time goes on");
        let store = store_at(&database.pool, at).await;
        let differ = |(name, body): &(&String, &String)| store.get(*name) != Some(body);
        let wrong: Vec<_> = copy.iter().filter(differ).collect();
        let missing: Vec<_> = store.keys().filter(|name| !copy.contains_key(*name)).collect();
        assert!(wrong.is_empty() && missing.is_empty(), "round {round}, seed {seed}, {at}: {wrong:?} {missing:?}");
        since = at.to_owned();
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(deletions_seen > ROUNDS, "deletions were among it: {deletions_seen}");
}

// G2, G3, L7: strictly after, strictly before
#[tokio::test]
async fn the_bounds_are_strict() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    for id in ["a", "b", "c"] {
        database.put(&[&format!(r#"{{"resourceType":"Task","id":"{id}"}}"#)]).await;
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    }
    let updated: (OffsetDateTime,) =
        sqlx::query_as("select last_updated from resource where id = 'b'").fetch_one(&database.pool).await.unwrap();
    let updated = updated.0.to_offset(time::UtcOffset::from_hms(2, 0, 0).unwrap()).format(&Rfc3339).unwrap();
    let export = async |query: String| {
        let resources = anybody.kick_off(&query).await.completed().await.resources().await;
        resources.into_keys().collect::<Vec<_>>().join(" ")
    };
    let encoded = updated.replace('+', "%2B");
    assert_eq!(export(format!("?_since={encoded}")).await, "Task/c");
    assert_eq!(export(format!("?_since={updated}")).await, "Task/c", "L5: a plus that was not encoded");
    assert_eq!(export(format!("?_until={encoded}")).await, "Task/a");
    assert_eq!(export(format!("?_since={encoded}&_until={encoded}")).await, "");
}

// E14, L9: once, only of the types asked for, and not what came back
#[tokio::test]
async fn deletions_are_those_of_the_request() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let texts: Vec<String> = ["Task/a", "Task/back", "Task/never-seen", "Device/d"]
        .iter()
        .map(|name| name.split_once('/').unwrap())
        .map(|(type_name, id)| format!(r#"{{"resourceType":"{type_name}","id":"{id}"}}"#))
        .collect();
    database.put(&[&texts[0], &texts[1], &texts[3]]).await;
    let since = anybody.kick_off("").await.completed().await.transaction_time().to_owned();
    for (type_name, id) in [("Task", "a"), ("Task", "back"), ("Device", "d")] {
        database.delete(type_name, id).await;
    }
    database.put(&[&texts[1], &texts[2], &texts[0]]).await;
    database.delete("Task", "never-seen").await;
    database.delete("Task", "a").await;
    let manifest = anybody.kick_off(&format!("?_since={since}&_type=Task")).await.completed().await;
    assert_eq!(manifest.resources().await.into_keys().collect::<Vec<_>>(), ["Task/back"]);
    let mut deletions = manifest.deletions().await;
    deletions.sort();
    assert_eq!(deletions, ["Task/a", "Task/never-seen"]);
    let manifest = anybody.kick_off("?_type=Task").await.completed().await;
    assert!(manifest.json.get("deleted").is_none(), "only with _since");
}
