//! What a filter tells the indexes changes nothing of what comes out: `_typeFilter`, of which they are asked, gives the same
//! as `_typePostFetchFilterUrl`, which only judges (rules G9, G12), over random resources of every type.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::{Caller, Database, Random, Server};

const IDS: u64 = 6;
const PATIENTS: u64 = 4;
/// Filters of so many types in one export.
const TYPES_AT_ONCE: usize = 48;
/// Where one type or another refers to its patient.
const OF_PATIENT: [&str; 8] =
    ["subject", "patient", "beneficiary", "individual", "for", "candidate", "source", "recorder"];

/// The types that are exported, and which of `patient` and `subject` each can be searched by.
async fn types(caller: &Caller) -> Vec<(String, Vec<&'static str>)> {
    let statement: Value = caller.get("/metadata").send().await.unwrap().json().await.unwrap();
    let resources = statement["rest"][0]["resource"].as_array().unwrap();
    let by_patient = |resource: &Value| {
        let parameters = resource["searchParam"].as_array().unwrap();
        // The subject of these is no patient.
        let is_product = resource["type"].as_str().unwrap().starts_with("MedicinalProduct");
        let has = |name: &&str| !is_product && parameters.iter().any(|parameter| parameter["name"] == *name);
        ["patient", "subject"].into_iter().filter(has).collect()
    };
    let exported = resources.iter().filter(|resource| resource["type"] != "Binary");
    exported.map(|resource| (resource["type"].as_str().unwrap().to_owned(), by_patient(resource))).collect()
}

fn random_resource(random: &mut Random, resource_type: &str) -> String {
    let id = format!("r{}", random.below(IDS));
    let mut resource = json!({ "resourceType": resource_type, "id": id, "language": random.below(1_000).to_string() });
    for element in OF_PATIENT {
        let patient = format!("Patient/r{}", random.below(PATIENTS));
        let reference = match random.below(5) {
            0 => continue,
            1 => format!("{patient}/_history/1"),
            2 => format!("Device/r{}", random.below(PATIENTS)),
            _ => patient,
        };
        resource[element] = json!({ "reference": reference });
    }
    resource.to_string()
}

/// Resources of each type, of one version or several, and some of them deleted.
async fn fill(database: &Database, random: &mut Random, types: &[(String, Vec<&str>)]) {
    for round in 0..4 {
        for chunk in types.chunks(TYPES_AT_ONCE) {
            let mut resources = Vec::new();
            for (resource_type, _) in chunk {
                resources.extend((0..3).map(|_| random_resource(random, resource_type)));
            }
            database.put(&resources.iter().map(String::as_str).collect::<Vec<_>>()).await;
        }
        for (resource_type, _) in types.iter().filter(|_| round == 2 && random.below(2) == 0) {
            let current: BTreeSet<(String,)> =
                sqlx::query_as("select id from resource where resource_type = $1 and superseded_at = 'infinity'")
                    .bind(resource_type)
                    .fetch_all(&database.pool)
                    .await
                    .unwrap()
                    .into_iter()
                    .collect();
            if let Some((id,)) = current.first() {
                database.delete(resource_type, id).await;
            }
        }
    }
}

/// The dates of all versions, for queries.
async fn dates(database: &Database) -> Vec<String> {
    let dates: Vec<(OffsetDateTime,)> = sqlx::query_as("select distinct last_updated from resource order by 1")
        .fetch_all(&database.pool)
        .await
        .unwrap();
    dates.into_iter().map(|(date,)| date.format(&Rfc3339).unwrap()).collect()
}

/// A query that tells an index something.
fn random_query(random: &mut Random, (resource_type, by_patient): &(String, Vec<&str>), dates: &[String]) -> String {
    let mut pick = |from: &[&str]| from[random.below(from.len() as u64) as usize].to_owned();
    let date = |pick: &mut dyn FnMut(&[&str]) -> String| {
        let dates: Vec<&str> = dates.iter().map(String::as_str).collect();
        format!("_lastUpdated={}{}", pick(&["ge", "gt", "lt", "le", "eq", "sa", "eb"]), pick(&dates))
    };
    let id =
        |pick: &mut dyn FnMut(&[&str]) -> String| format!("_id={},{}", pick(&["r0", "r1", "r2"]), pick(&["r3", "x"]));
    let patient = |pick: &mut dyn FnMut(&[&str]) -> String| match by_patient.is_empty() {
        true => id(pick),
        false => {
            let by = pick(by_patient);
            format!("{by}={}{},Patient/r3", pick(&["", "Patient/"]), pick(&["r0", "r1"]))
        }
    };
    let mut condition = |kind: &str| match kind {
        "id" => id(&mut pick),
        "date" => date(&mut pick),
        _ => patient(&mut pick),
    };
    let (one, other, alone) = (condition("patient"), condition("date"), condition("id"));
    let between = format!("{}&{}", condition("date"), condition("date"));
    match random.below(5) {
        0 => format!("{resource_type}?{alone}"),
        1 => format!("{resource_type}?{one}"),
        2 => format!("{resource_type}?{between}"),
        3 => format!("{resource_type}?{one}&{other}"),
        _ => format!("{resource_type}?{alone},{resource_type}?{one}"),
    }
}

async fn lines(caller: &Caller, path: &str, parameters: &[Value]) -> Vec<String> {
    let body = json!({ "resourceType": "Parameters", "parameter": parameters }).to_string();
    let manifest = caller.accepted(caller.export_by_post_at(path, &body)).await.completed().await;
    let mut lines: Vec<_> = manifest.lines("output").await.into_iter().map(|(_, line)| line).collect();
    lines.sort_unstable();
    lines
}

#[tokio::test]
async fn indexes_find_all_that_the_filter_admits() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let types = types(&anybody).await;
    assert_eq!(types.len(), 145);
    let seed = 1 + u64::from(uuid::Uuid::new_v4().as_fields().0);
    let mut random = Random::new(seed);
    fill(&database, &mut random, &types).await;
    let dates = dates(&database).await;
    let mut found = 0;
    for chunk in types.chunks(TYPES_AT_ONCE) {
        let names: Vec<&str> = chunk.iter().map(|(name, _)| name.as_str()).collect();
        let mut all = vec![json!({ "name": "_type", "valueString": names.join(",") })];
        for (path, history) in [("/$export", false), ("/$export", true)] {
            all.truncate(1);
            all.push(json!({ "name": "_includeHistory", "valueBoolean": history }));
            let whole = lines(&anybody, path, &all).await;
            let queries: Vec<String> = chunk.iter().map(|of| random_query(&mut random, of, &dates)).collect();
            let asked = |parameter: &str| {
                let queries = queries.iter().map(|query| json!({ "name": parameter, "valueString": query }));
                all.iter().cloned().chain(queries).collect::<Vec<_>>()
            };
            let told = lines(&anybody, path, &asked("_typeFilter")).await;
            let judged = lines(&anybody, path, &asked("_typePostFetchFilterUrl")).await;
            assert_eq!(told, judged, "seed {seed}, history {history}: {queries:?}");
            assert!(told.len() < whole.len(), "seed {seed}: something is left out");
            found += told.len();
        }
    }
    assert!(found > 0, "seed {seed}");
}
