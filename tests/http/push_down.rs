//! What a filter tells the indexes changes nothing of what comes out: `_typeFilter`, of which they are asked, gives the same
//! as `_typePostFetchFilterUrl`, which only judges (rules G9, G12), over random resources of every type, at every level,
//! whatever is written between planning and reading.

use std::collections::BTreeSet;
use std::ops::Range;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::{Caller, Database, Job, Random, Server, eventually};

const IDS: u64 = 6;
const PATIENTS: u64 = 4;
/// Filters of so many types in one export.
const TYPES_AT_ONCE: usize = 75;
/// Where one type or another refers to its patient.
const OF_PATIENT: [&str; 8] =
    ["subject", "patient", "beneficiary", "individual", "for", "candidate", "source", "recorder"];

/// A type, and which of `patient` and `subject` it can be searched by.
type Searchable = (String, Vec<&'static str>);

/// The types that are exported.
async fn types(caller: &Caller) -> Vec<Searchable> {
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
    if resource_type == "Provenance" {
        let target = if random.below(2) == 0 { "Observation" } else { "Patient" };
        resource["target"] = json!([{ "reference": format!("{target}/r{}", random.below(PATIENTS)) }]);
    }
    resource.to_string()
}

/// Resources of each type; in four rounds of one version or several, and some of them deleted.
async fn fill(database: &Database, random: &mut Random, types: &[Searchable], rounds: Range<u64>) {
    for round in rounds {
        for chunk in types.chunks(TYPES_AT_ONCE) {
            put_of_each(database, random, chunk, 3).await;
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

async fn put_of_each(database: &Database, random: &mut Random, types: &[Searchable], count: usize) {
    let mut resources = Vec::new();
    for (resource_type, _) in types {
        resources.extend((0..count).map(|_| random_resource(random, resource_type)));
    }
    database.put(&resources.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

/// A Group of few, who are looked up one by one, and one of many, for whom a type is read from end to end: both of the
/// first so many of the patients.
async fn put_groups(database: &Database, patients: u64) {
    for (id, others) in [("few", 0), ("many", 150)] {
        let ids = (0..patients).map(|n| format!("r{n}")).chain((0..others).map(|n| format!("other{n}")));
        let members = ids.map(|id| json!({ "entity": { "reference": format!("Patient/{id}") } }));
        let group = json!({ "resourceType": "Group", "id": id, "member": members.collect::<Vec<_>>() });
        database.put(&[&group.to_string()]).await;
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
fn random_query(random: &mut Random, (resource_type, by_patient): &Searchable, dates: &[String]) -> String {
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

/// Where an export starts, of what types, and whether of all versions.
#[derive(Clone, Copy)]
struct Asked<'a> {
    path: &'a str,
    since: Option<&'a str>,
    types: &'a [Searchable],
    history: bool,
}

impl Asked<'_> {
    /// With these filters, as this parameter.
    async fn start(self, caller: &Caller, parameter: &str, queries: &[String]) -> Job {
        let names: Vec<&str> = self.types.iter().map(|(name, _)| name.as_str()).collect();
        let mut parameters = vec![
            json!({ "name": "_type", "valueString": names.join(",") }),
            json!({ "name": "_includeHistory", "valueBoolean": self.history }),
        ];
        parameters.extend(self.since.map(|since| json!({ "name": "_since", "valueInstant": since })));
        parameters.extend(queries.iter().map(|query| json!({ "name": parameter, "valueString": query })));
        let body = json!({ "resourceType": "Parameters", "parameter": parameters }).to_string();
        caller.accepted(caller.export_by_post_at(self.path, &body)).await
    }
}

async fn lines(job: Job) -> Vec<String> {
    let mut lines: Vec<_> = job.completed().await.lines("output").await.into_iter().map(|(_, line)| line).collect();
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
    fill(&database, &mut random, &types, 0..2).await;
    put_groups(&database, 1).await;
    let export = async |path: &str| anybody.accepted(anybody.export_at(path)).await.completed().await;
    let since = export("/$export?_type=Group").await.transaction_time().to_owned();
    fill(&database, &mut random, &types, 2..4).await;
    // One who is new.
    put_groups(&database, 2).await;
    let of_patients: BTreeSet<String> =
        export("/Patient/$export").await.lines("output").await.into_iter().map(|(name, _)| name).collect();
    let of_patients: Vec<Searchable> = types.iter().filter(|(name, _)| of_patients.contains(name)).cloned().collect();
    let dates = dates(&database).await;
    for (path, since, types) in [
        ("/$export", None, &types),
        ("/Patient/$export", None, &of_patients),
        ("/Group/few/$export", None, &of_patients),
        ("/Group/few/$export", Some(since.as_str()), &of_patients),
        ("/Group/many/$export", None, &of_patients),
        ("/Group/many/$export", Some(since.as_str()), &of_patients),
    ] {
        let (mut all, mut found) = (0, 0);
        for (types, history) in types.chunks(TYPES_AT_ONCE).flat_map(|types| [(types, false), (types, true)]) {
            let asked = Asked { path, since, types, history };
            let queries: Vec<String> = types.iter().map(|of| random_query(&mut random, of, &dates)).collect();
            all += lines(asked.start(&anybody, "", &[]).await).await.len();
            let judged = lines(asked.start(&anybody, "_typePostFetchFilterUrl", &queries).await).await;
            database.hold_parts().await;
            let told = asked.start(&anybody, "_typeFilter", &queries).await;
            eventually("it is planned", || async { database.count("export_job where state = 'accepted'").await == 0 })
                .await;
            // What it reads is superseded by then.
            put_of_each(&database, &mut random, types, 2).await;
            database.let_parts_go().await;
            let told = lines(told).await;
            assert_eq!(told, judged, "seed {seed}, {path} since {since:?}, history {history}: {queries:?}");
            found += told.len();
        }
        assert!(found > 0 && found < all, "seed {seed}: {found} of {all} at {path}");
    }
}
