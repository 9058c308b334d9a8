//! `Group/{id}/$export`: whom it is about, and that what comes out is what an independent look at the store gives
//! (rules H7, H10; L14, L15).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::{Caller, Database, Manifest, Random, Server};

async fn export(caller: &Caller, path: &str) -> Manifest {
    caller.accepted(caller.export_at(path)).await.completed().await
}

async fn patients(caller: &Caller, path: &str) -> String {
    let names = export(caller, path).await.resources().await.into_keys();
    names.filter_map(|name| name.strip_prefix("Patient/").map(str::to_owned)).collect::<Vec<_>>().join(" ")
}

fn group(id: &str, members: &Value) -> String {
    json!({ "resourceType": "Group", "id": id, "member": members }).to_string()
}

// H7, L14
#[tokio::test]
async fn members_are_active_patients_also_of_nested_groups() {
    let database = Database::create().await;
    database.put_patients(9).await;
    let of = |reference: &str| json!({ "reference": reference });
    database
        .put(&[
            &group(
                "g",
                &json!([
                    { "entity": of("Patient/p0") },
                    { "entity": of("https://x/fhir/Patient/p1/_history/3"), "inactive": false },
                    { "entity": of("Patient/p2"), "inactive": true },
                    { "entity": of("Patient/p3"), "period": { "start": "2020", "end": "2021-03" } },
                    { "entity": of("Patient/p4"), "period": { "start": "2020-01-01", "end": "2999" } },
                    { "entity": of("Patient/p5"), "period": { "start": "2999-01-01T00:00:00Z" } },
                    { "entity": of("Practitioner/p6") },
                    { "entity": of("Group/nested") },
                    { "entity": of("Group/nobody-knows") },
                    { "entity": of("Group/g") },
                    { "entity": { "display": "p8" } },
                ]),
            ),
            &group("nested", &json!([{ "entity": of("Patient/p7") }, { "entity": of("Group/g") }])),
            &group("inactive", &json!([{ "entity": of("Group/nested"), "inactive": true }])),
            &group("malformed", &json!([{ "entity": of("Patient/p0"), "inactive": "no" }])),
            r#"{"resourceType":"Group","id":"empty"}"#,
        ])
        .await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    assert_eq!(patients(&anybody, "/Group/g/$export").await, "p0 p1 p4 p7");
    assert_eq!(patients(&anybody, "/Group/nested/$export").await, "p0 p1 p4 p7");
    for nobody in
        ["/Group/inactive/$export", "/Group/empty/$export", "/Group/empty/$export?_since=2020-01-01T00:00:00Z"]
    {
        assert_eq!(export(&anybody, nobody).await.json["output"], json!([]), "{nobody}");
    }
    // G6: those listed among the members.
    assert_eq!(patients(&anybody, "/Group/g/$export?patient=p0,Patient/p7").await, "p0 p7");
    let text = anybody.refused(anybody.export_at("/Group/g/$export?patient=p0,p2"), 400).await;
    assert!(text.contains("Patient/p2") && !text.contains("p0"), "{text}");
    let lenient = anybody.export_at("/Group/g/$export?patient=p0,p2").header("prefer", "handling=lenient");
    let manifest = anybody.accepted(lenient).await.completed().await;
    assert!(manifest.resources().await.contains_key("Patient/p0"));
    assert!(manifest.lines("error").await[0].1.contains("Patient/p2"));
    anybody.refused(anybody.export_at("/Group/nobody-knows/$export"), 404).await;
    database.delete("Group", "nested").await;
    anybody.refused(anybody.export_at("/Group/nested/$export"), 404).await;
    // To leave a member out that cannot be understood would be worse.
    let failed = anybody.accepted(anybody.export_at("/Group/malformed/$export")).await;
    crate::support::eventually("it fails", || async { failed.poll().await.status() == 500 }).await;
}

// H7, L14: as of the transaction time, whatever happens to the Group after that
#[tokio::test]
async fn members_are_those_at_the_transaction_time() {
    let database = Database::create().await;
    database.put_patients(2).await;
    let of = |id: &str| group("g", &json!([{ "entity": { "reference": format!("Patient/{id}") } }]));
    database.put(&[&of("p0")]).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    // Nobody works, so that the job has its time, and is planned later.
    database.command("govern", &["--workers", "0"], b"").await;
    let job = anybody.accepted(anybody.export_at("/Group/g/$export?_type=Patient")).await;
    database.execute("update export_job set transaction_time = clock_timestamp()").await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    database.put(&[&of("p1")]).await;
    database.command("govern", &["--workers", "default"], b"").await;
    let resources = job.completed().await.resources().await;
    assert_eq!(resources.into_keys().collect::<Vec<_>>(), ["Patient/p0"]);
}

// H9: who joins later comes with everything, whatever is older than _since, unless the operator says otherwise
#[tokio::test]
async fn new_members_come_with_their_whole_history() {
    let database = Database::create().await;
    database.put_patients(3).await;
    database
        .put(&[
            r#"{"resourceType":"Observation","id":"o1","subject":{"reference":"Patient/p1"}}"#,
            r#"{"resourceType":"Provenance","id":"about-o1","target":[{"reference":"Observation/o1"}]}"#,
            r#"{"resourceType":"Appointment","id":"a01","participant":[{"actor":{"reference":"Patient/p0"}},{"actor":{"reference":"Patient/p1"}}]}"#,
        ])
        .await;
    let of = |ids: &[&str]| {
        let members: Vec<_> =
            ids.iter().map(|id| json!({ "entity": { "reference": format!("Patient/{id}") } })).collect();
        group("g", &json!(members))
    };
    database.put(&[&of(&["p0"])]).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let names = async |caller: &Caller, path: &str| {
        export(caller, path).await.resources().await.into_keys().collect::<Vec<_>>().join(" ")
    };
    let first = export(&anybody, "/Group/g/$export").await;
    let since = format!("/Group/g/$export?_since={}", first.transaction_time());
    assert_eq!(names(&anybody, &since).await, "");
    database
        .put(&[&of(&["p0", "p1"]), r#"{"resourceType":"Flag","id":"f","subject":{"reference":"Patient/p0"}}"#])
        .await;
    let new = "Appointment/a01 Flag/f Group/g Observation/o1 Patient/p1 Provenance/about-o1";
    assert_eq!(names(&anybody, &since).await, new);
    assert_eq!(names(&anybody, &format!("{since}&patient=p0")).await, "Flag/f Group/g");
    assert_eq!(names(&anybody, &format!("{since}&_type=Provenance")).await, "Provenance/about-o1");
    // Whoever cannot be shown to have been a member is new.
    let all = "Appointment/a01 Flag/f Group/g Observation/o1 Patient/p0 Patient/p1 Provenance/about-o1";
    assert_eq!(names(&anybody, "/Group/g/$export?_since=2020-01-01T00:00:00Z").await, all);
    database.execute("delete from resource where superseded_at < 'infinity'").await;
    assert_eq!(names(&anybody, &since).await, all);
    let settings = [("GROUP__NEW_MEMBERS_FULL_HISTORY", "false")];
    let other = Server::start_with(&database, &settings).await;
    assert_eq!(names(&other.anybody(), &since).await, "Flag/f Group/g");
}

const PATIENTS: u64 = 250;
const TYPES: [&str; 5] = ["Patient", "Observation", "Appointment", "Task", "Provenance"];

fn random_resource(random: &mut Random) -> (String, String) {
    let type_name = TYPES[usize::try_from(random.below(5)).unwrap()];
    let id =
        if type_name == "Patient" { format!("p{}", random.below(PATIENTS)) } else { format!("r{}", random.below(400)) };
    let mut patient = || format!(r#"{{"reference":"Patient/p{}"}}"#, random.below(PATIENTS + 5));
    let members = match type_name {
        "Observation" => format!(r#""subject":{}"#, patient()),
        "Appointment" => format!(r#""participant":[{{"actor":{}}},{{"actor":{}}}]"#, patient(), patient()),
        "Task" => format!(r#""for":{}"#, patient()),
        "Provenance" => {
            let target = TYPES[usize::try_from(random.below(4)).unwrap()];
            let prefix = if target == "Patient" { "p" } else { "r" };
            format!(r#""target":[{{"reference":"{target}/{prefix}{}"}}]"#, random.below(400))
        }
        _ => format!(r#""active":{}"#, random.below(2) == 0),
    };
    (
        type_name.to_owned(),
        format!(r#"{{"resourceType":"{type_name}","id":"{id}","language":"l{}",{members}}}"#, random.below(9)),
    )
}

/// A version of a resource, as it lies in the store.
#[derive(sqlx::FromRow)]
struct Version {
    resource_type: String,
    id: String,
    last_updated: OffsetDateTime,
    deleted: bool,
    patients: Vec<String>,
    body: Option<String>,
}

/// The versions that hold at an instant, deletions too.
async fn versions_at(database: &Database, at: OffsetDateTime) -> BTreeMap<String, Version> {
    let select = "select resource_type, id, last_updated, deleted, patients, body from resource
        where last_updated <= $1 and superseded_at > $1";
    let versions: Vec<Version> = sqlx::query_as(select).bind(at).fetch_all(&database.pool).await.unwrap();
    versions.into_iter().map(|version| (format!("{}/{}", version.resource_type, version.id), version)).collect()
}

/// What a deleted Provenance was about, and any other: in the body of its last version.
async fn last_body(database: &Database, version: &Version) -> String {
    match &version.body {
        Some(body) => body.clone(),
        None => {
            let select = "select body from resource where resource_type = $1 and id = $2 and superseded_at = $3";
            let query = sqlx::query_scalar(select).bind(&version.resource_type).bind(&version.id);
            query.bind(version.last_updated).fetch_one(&database.pool).await.unwrap()
        }
    }
}

/// Output and deletions, as an independent filter of the store has them.
async fn expected(
    database: &Database,
    at: OffsetDateTime,
    since: Option<OffsetDateTime>,
    is_one_of: impl Fn(&str) -> bool,
    new: &BTreeSet<String>,
    types: &[&str],
) -> (BTreeMap<String, String>, BTreeSet<String>) {
    let versions = versions_at(database, at).await;
    let belongs = |version: &Version| version.patients.iter().any(|id| is_one_of(id));
    let is_new = |version: &Version| version.patients.iter().any(|id| is_one_of(id) && new.contains(id));
    let (mut output, mut deleted) = (BTreeMap::new(), BTreeSet::new());
    for (name, version) in &versions {
        if !types.contains(&version.resource_type.as_str()) {
            continue;
        }
        let (mut is_in, mut of_new) = (belongs(version), is_new(version));
        if version.resource_type == "Provenance" {
            let body: Value = serde_json::from_str(&last_body(database, version).await).unwrap();
            let target = body["target"][0]["reference"].as_str().unwrap();
            is_in |= versions.get(target).is_some_and(belongs);
            of_new |= versions.get(target).is_some_and(is_new);
        }
        if since.is_some_and(|since| version.last_updated <= since) && (version.deleted || !of_new) {
            continue;
        }
        match &version.body {
            Some(body) if is_in => {
                output.insert(name.clone(), body.clone());
            }
            None if is_in && version.deleted && since.is_some() => {
                deleted.insert(name.clone());
            }
            _ => {}
        }
    }
    (output, deleted)
}

// B.4, H1 to H10: few patients and many, read in either way
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_what_the_store_has_of_its_patients() {
    let seed = u64::from(std::process::id()) << 20 | 0x51F7;
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let everybody: Vec<String> =
        (0..PATIENTS).map(|n| format!(r#"{{"resourceType":"Patient","id":"p{n}"}}"#)).collect();
    database.put(&everybody.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut groups: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut since: Option<String> = None;
    for round in 0..3 {
        let before = groups.clone();
        for (name, size) in [("few", 12), ("many", 180)] {
            let members = groups.entry(name).or_default();
            let joining = if round == 0 { size } else { 3 };
            members.extend((0..joining).map(|_| format!("p{}", random.below(PATIENTS))));
            let listed: Vec<_> =
                members.iter().map(|id| json!({ "entity": { "reference": format!("Patient/{id}") } })).collect();
            database.put(&[&group(name, &json!(listed))]).await;
        }
        for _ in 0..40 {
            let batch: Vec<(String, String)> = (0..20).map(|_| random_resource(&mut random)).collect();
            database.put(&batch.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>()).await;
            let (type_name, text) = &batch[0];
            let id: Value = serde_json::from_str(text).unwrap();
            if type_name != "Patient" {
                database.delete(type_name, id["id"].as_str().unwrap()).await;
            }
        }
        // With numbers of rows to choose the way by, and without.
        if round == 1 {
            database.execute("analyze").await;
        }
        let nobody = BTreeSet::new();
        let new_in = |name| before.get(name).map_or_else(BTreeSet::new, |before| &groups[name] - before);
        let (new_in_few, new_in_many) = (new_in("few"), new_in("many"));
        let one = groups["few"].first().unwrap().clone();
        let two: BTreeSet<String> = groups["many"].iter().take(2).cloned().collect();
        let list = two.iter().fold(String::new(), |mut list, id| {
            write!(list, "&patient={id}").unwrap();
            list
        });
        let cases = [
            ("/Patient/$export?".to_owned(), None, &nobody),
            (format!("/Patient/{one}/$export?"), Some(BTreeSet::from([one])), &nobody),
            (format!("/Group/many/$export?{list}"), Some(two), &new_in_many),
            ("/Group/few/$export?".to_owned(), Some(groups["few"].clone()), &new_in_few),
            ("/Group/many/$export?".to_owned(), Some(groups["many"].clone()), &new_in_many),
        ];
        let mut last = String::new();
        for (path, set, new) in &cases {
            for types in [None, Some(["Appointment", "Provenance"])] {
                for since in [None, since.as_ref()] {
                    let mut path = path.clone();
                    if let Some(types) = types {
                        write!(path, "&_type={}", types.join(",")).unwrap();
                    }
                    if let Some(since) = since {
                        write!(path, "&_since={since}").unwrap();
                    }
                    let manifest = export(&anybody, &path).await;
                    let instant = |text: &str| OffsetDateTime::parse(text, &Rfc3339).unwrap();
                    let at = instant(manifest.transaction_time());
                    let all = ["Patient", "Observation", "Appointment", "Provenance", "Group"];
                    let types: &[&str] = types.as_ref().map_or(&all, |types| types.as_slice());
                    let is_one_of = |id: &str| set.as_ref().is_none_or(|set| set.contains(id));
                    let since = since.map(|since| instant(since));
                    let (output, deleted) = expected(&database, at, since, is_one_of, new, types).await;
                    assert_eq!(manifest.resources().await, output, "round {round}, seed {seed}, {path}");
                    let deletions: BTreeSet<String> = manifest.deletions().await.into_iter().collect();
                    assert_eq!(deletions, deleted, "round {round}, seed {seed}, {path}");
                    manifest.transaction_time().clone_into(&mut last);
                }
            }
        }
        since = Some(last);
    }
}
