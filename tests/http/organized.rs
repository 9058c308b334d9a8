//! `organizeOutputBy=Patient`: files of blocks, each a patient with what belongs to it (rules F9, G10, E6 to E8).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::secured::ROLES;
use crate::support::{Caller, Database, Issuer, Manifest, Random, Server, trusting};

/// The resources of a patient, by `Type/id`.
type Block = BTreeMap<String, String>;

async fn export(caller: &Caller, path: &str) -> Manifest {
    caller.accepted(caller.export_at(path)).await.completed().await
}

/// The lines of each file.
async fn files(caller: &Caller, manifest: &Manifest) -> Vec<Vec<String>> {
    let mut files = Vec::new();
    for item in manifest.json["output"].as_array().unwrap() {
        let text = String::from_utf8(caller.download(item["url"].as_str().unwrap()).await).unwrap();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        assert!(text.ends_with('\n'), "F2");
        assert_eq!(item["count"], lines.len(), "E17: count is exact");
        assert!(item.get("type").is_none(), "E6");
        files.push(lines);
    }
    files
}

/// The blocks by patient; checks that each is one, begins with its header and goes on only where the manifest says so.
async fn blocks(caller: &Caller, manifest: &Manifest) -> BTreeMap<String, Block> {
    assert_eq!(manifest.json["outputOrganizedBy"], "Patient", "E6");
    let items = manifest.json["output"].as_array().unwrap();
    let mut blocks: BTreeMap<String, Block> = BTreeMap::new();
    let mut patient = String::new();
    let mut goes_on_in: Option<&Value> = None;
    for (item, lines) in items.iter().zip(files(caller, manifest).await) {
        let mut after_header = false;
        for (n, line) in lines.iter().enumerate() {
            let resource: Value = serde_json::from_str(line).unwrap();
            if resource["resourceType"] == "Parameters" {
                assert!(!after_header, "a block has more than its header");
                let found = resource["parameter"][0]["valueReference"]["reference"].as_str().unwrap();
                let header = json!({ "name": "header", "valueReference": { "reference": found } });
                assert_eq!(resource, json!({ "resourceType": "Parameters", "parameter": [header] }), "F9");
                if n == 0 && goes_on_in.is_some() {
                    assert_eq!((goes_on_in, found), (Some(&item["url"]), patient.as_str()), "E8");
                } else {
                    assert!(blocks.insert(found.to_owned(), Block::new()).is_none(), "{found} has two blocks");
                }
                found.clone_into(&mut patient);
                after_header = true;
                continue;
            }
            assert!(n > 0, "F9: a file begins with a header");
            let name = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
            let block = blocks.get_mut(&patient).unwrap();
            assert!(name != patient || block.is_empty(), "the Patient comes first");
            assert!(block.insert(name, line.clone()).is_none(), "a resource came twice in a block");
            after_header = false;
        }
        assert!(!after_header, "a block has more than its header");
        goes_on_in = item.get("continuesInFile");
    }
    assert_eq!(goes_on_in, None);
    blocks
}

/// Who is in which block, in words.
async fn told(caller: &Caller, path: &str) -> Vec<String> {
    let manifest = export(caller, path).await;
    let blocks = blocks(caller, &manifest).await;
    blocks.values().map(|block| block.keys().map(String::as_str).collect::<Vec<_>>().join(" ")).collect()
}

const RESOURCES: [&str; 10] = [
    r#"{"resourceType":"Observation","id":"of-a","subject":{"reference":"Patient/a"}}"#,
    r#"{"resourceType":"Patient","id":"a"}"#,
    r#"{"resourceType":"Patient","id":"b","link":[{"other":{"reference":"Patient/a"}}]}"#,
    r#"{"resourceType":"Patient","id":"gone"}"#,
    r#"{"resourceType":"Observation","id":"of-gone","subject":{"reference":"Patient/gone"}}"#,
    r#"{"resourceType":"Observation","id":"of-never","subject":{"reference":"https://x/fhir/Patient/never"}}"#,
    r#"{"resourceType":"Observation","id":"of-nobody","subject":{"reference":"Group/g"}}"#,
    r#"{"resourceType":"Appointment","id":"of-both","participant":[{"actor":{"reference":"Patient/a"}},{"actor":{"reference":"Patient/b"}}]}"#,
    r#"{"resourceType":"Provenance","id":"about-both","target":[{"reference":"Appointment/of-both"},{"reference":"Patient/a"}]}"#,
    r#"{"resourceType":"Provenance","id":"about-gone","target":[{"reference":"Observation/of-gone"}]}"#,
];

async fn set_up() -> (Database, Server) {
    let database = Database::create().await;
    database.put(&RESOURCES).await;
    let members = ["a", "gone", "never"].map(|id| json!({ "entity": { "reference": format!("Patient/{id}") } }));
    database.put(&[&json!({ "resourceType": "Group", "id": "g", "member": members }).to_string()]).await;
    database.delete("Patient", "gone").await;
    let server = Server::start(&database).await;
    (database, server)
}

// F9, G8, H10: also of a patient whose Patient is not there any more, or never was
#[tokio::test]
async fn a_block_is_a_patient_and_its_compartment() {
    let (_database, server) = set_up().await;
    let anybody = server.anybody();
    let a = "Appointment/of-both Observation/of-a Patient/a Patient/b Provenance/about-both";
    let b = "Appointment/of-both Patient/b Provenance/about-both";
    let gone = "Observation/of-gone Provenance/about-gone";
    let never = "Observation/of-never";
    for path in ["/Patient/$export?", "/Patient/$export?_since=2020-01-01T00:00:00Z&"] {
        assert_eq!(told(&anybody, &format!("{path}organizeOutputBy=Patient")).await, [a, b, gone, never], "{path}");
    }
    assert_eq!(told(&anybody, "/Group/g/$export?organizeOutputBy=Patient").await, [a, gone, never]);
    assert_eq!(told(&anybody, "/Patient/a/$export?organizeOutputBy=Patient").await, [a]);
    assert_eq!(told(&anybody, "/Patient/$export?organizeOutputBy=Patient&patient=b").await, [b]);
    // Among the types that are asked for; nobody of whom there is none.
    let types = "/Patient/$export?organizeOutputBy=Patient&_type=Appointment";
    assert_eq!(told(&anybody, types).await, ["Appointment/of-both"; 2]);
    let types = "/Group/g/$export?organizeOutputBy=Patient&_type=Provenance";
    assert_eq!(told(&anybody, types).await, ["Provenance/about-both", "Provenance/about-gone"]);
    // A Group would be repeated with each member: only where it is asked for.
    let types = "/Group/g/$export?organizeOutputBy=Patient&_type=Group,Patient";
    assert_eq!(told(&anybody, types).await, ["Group/g Patient/a Patient/b", "Group/g", "Group/g"]);
    let nothing = export(&anybody, "/Patient/$export?organizeOutputBy=Patient&_type=Flag").await;
    assert_eq!((&nothing.json["output"], &nothing.json["outputOrganizedBy"]), (&json!([]), &"Patient".into()));
    // By POST, too.
    let body = r#"{"resourceType":"Parameters","parameter":[
        {"name":"organizeOutputBy","valueString":"Patient"},{"name":"_type","valueString":"Observation"}]}"#;
    let manifest = anybody.accepted(anybody.export_by_post_at("/Patient/$export", body)).await.completed().await;
    assert_eq!(blocks(&anybody, &manifest).await.len(), 3);
}

// G2, E14: of whom nothing has changed there is no block
#[tokio::test]
async fn an_incremental_export_has_blocks_of_what_has_changed() {
    let (database, server) = set_up().await;
    let anybody = server.anybody();
    let first = export(&anybody, "/Patient/$export?organizeOutputBy=Patient").await;
    let since = format!("organizeOutputBy=Patient&_since={}", first.transaction_time());
    assert_eq!(export(&anybody, &format!("/Patient/$export?{since}")).await.json["output"], json!([]));
    database
        .put(&[
            r#"{"resourceType":"Observation","id":"of-never","language":"x","subject":{"reference":"Patient/never"}}"#,
            r#"{"resourceType":"Provenance","id":"new","target":[{"reference":"Appointment/of-both"}]}"#,
        ])
        .await;
    database.delete("Observation", "of-a").await;
    database.delete("Observation", "of-nobody").await;
    let path = format!("/Patient/$export?{since}");
    assert_eq!(told(&anybody, &path).await, ["Provenance/new", "Provenance/new", "Observation/of-never"]);
    let manifest = export(&anybody, &path).await;
    let headers = blocks(&anybody, &manifest).await;
    assert_eq!(headers.into_keys().collect::<Vec<_>>(), ["Patient/a", "Patient/b", "Patient/never"]);
    assert_eq!(manifest.deletions().await, ["Observation/of-a"]);
    assert_eq!(told(&anybody, &format!("/Group/g/$export?{since}")).await, ["Provenance/new", "Observation/of-never"]);
    // H9: a block of who has joined the Group since then has everything.
    let members = ["a", "b"].map(|id| json!({ "entity": { "reference": format!("Patient/{id}") } }));
    database.put(&[&json!({ "resourceType": "Group", "id": "g", "member": members }).to_string()]).await;
    let b = "Appointment/of-both Patient/b Provenance/about-both Provenance/new";
    assert_eq!(told(&anybody, &format!("/Group/g/$export?{since}")).await, ["Provenance/new", b]);
    let until = format!("/Patient/$export?organizeOutputBy=Patient&_until={}", first.transaction_time());
    assert!(!told(&anybody, &until).await.concat().contains("Provenance/new"));
}

// G10, G18, B17
#[tokio::test]
async fn what_cannot_be_organised_is_refused_or_comes_by_type() {
    let (_database, server) = set_up().await;
    let anybody = server.anybody();
    for (path, word) in [
        ("/$export?organizeOutputBy=Patient", "Patient/$export"),
        ("/Patient/$export?organizeOutputBy=Encounter", "Encounter is not supported; Patient is"),
    ] {
        let text = anybody.refused(anybody.export_at(path), 400).await;
        assert!(text.starts_with("not-supported: organizeOutputBy") && text.contains(word), "{text}");
        let lenient = anybody.export_at(path).header("prefer", "handling=lenient");
        let manifest = anybody.accepted(lenient).await.completed().await;
        assert!(manifest.json.get("outputOrganizedBy").is_none());
        assert!(manifest.resources().await.contains_key("Patient/a"), "F5: each file has its type");
        assert!(manifest.lines("error").await[0].1.contains("organizeOutputBy"));
    }
    let twice = "/Patient/$export?organizeOutputBy=Patient&organizeOutputBy=Patient";
    let text = anybody.refused(anybody.export_at(twice), 400).await;
    assert!(text.contains("organizeOutputBy may be given once"), "{text}");
}

/// So many Observations of a patient, each of so many bytes and more.
async fn put_observations(database: &Database, patient: &str, count: usize, bytes: usize) {
    let text = "æ".repeat(bytes / 2);
    for n in 0..count {
        let body = json!({
            "resourceType": "Observation", "id": format!("{patient}-{n}"), "valueString": text,
            "subject": { "reference": format!("Patient/{patient}") },
        });
        database.put(&[&body.to_string()]).await;
    }
}

// E8, F9, G13
#[tokio::test]
async fn a_block_is_split_where_it_has_to_be_and_nowhere_else() {
    const MIB: usize = 1 << 20;
    let database = Database::create().await;
    database.put_patients(30).await;
    put_observations(&database, "p3", 40, 40_000).await;
    for n in 4..30 {
        put_observations(&database, &format!("p{n}"), 2, 30_000).await;
    }
    let server = Server::start_with(&database, &[("export.file_target", "100KiB")]).await;
    let anybody = server.anybody();
    for (query, max) in
        [("", 400 * 1024), ("&_maximumFileSize=1048576", 400 * 1024), ("&_minimumFileSize=900000", 8 * MIB)]
    {
        let manifest = export(&anybody, &format!("/Patient/$export?organizeOutputBy=Patient{query}")).await;
        let blocks = blocks(&anybody, &manifest).await;
        assert_eq!((blocks.len(), blocks["Patient/p3"].len(), blocks["Patient/p9"].len()), (30, 41, 3));
        let files = files(&anybody, &manifest).await;
        let sizes: Vec<usize> = files.iter().map(|lines| lines.iter().map(|line| line.len() + 1).sum()).collect();
        assert!(sizes.iter().all(|size| *size <= max), "{query}: {sizes:?}");
        // Of 1.6 MB of one block there are four files, and no other block is in two.
        let headers = files.iter().flatten().filter(|line| line.contains(r#""name":"header""#)).count();
        let split =
            manifest.json["output"].as_array().unwrap().iter().filter(|item| item.get("continuesInFile").is_some());
        let split = split.count();
        assert_eq!(headers, 30 + split);
        assert_eq!(split > 2, max < MIB, "{query}: {sizes:?}");
        assert!(max < MIB || split == 0, "{query}: {sizes:?}");
        assert!(manifest.urls("error").is_empty());
    }
}

// G13, C8, G5: bodies that come in pieces
#[tokio::test]
async fn long_resources_are_whole_in_their_block() {
    const MIB: usize = 1 << 20;
    let database = Database::create().await;
    database.put_patients(3).await;
    for patient in ["p0", "p1", "p2"] {
        put_observations(&database, patient, 2, 2 * MIB + 12_345).await;
        database
            .put(&[&format!(
                r#"{{"resourceType":"Flag","id":"{patient}","subject":{{"reference":"Patient/{patient}"}}}}"#
            )])
            .await;
    }
    let server = Server::start_with(&database, &[("export.file_target", "100KiB")]).await;
    let anybody = server.anybody();
    for query in ["", "&_elements=id,Observation.subject", "&_maximumFileSize=1048576"] {
        let by_type = export(&anybody, &format!("/Patient/$export?{}", query.trim_start_matches('&'))).await;
        let manifest = export(&anybody, &format!("/Patient/$export?organizeOutputBy=Patient{query}")).await;
        let blocks = blocks(&anybody, &manifest).await;
        assert!(blocks.values().all(|block| block.len() == 4));
        assert_eq!(blocks.into_values().flatten().collect::<Block>(), by_type.resources().await, "{query}");
        let told: String = manifest.lines("error").await.into_iter().map(|(_, line)| line).collect();
        assert_eq!(told.contains("_maximumFileSize: "), query.contains("_maximumFileSize"), "{told}");
    }
}

// F4, I5, A24
#[tokio::test]
async fn a_file_needs_the_right_to_every_type_of_the_export() {
    let (database, _) = set_up().await;
    let issuer = Issuer::start().await;
    let server = Server::start_with(&database, &trusting(&[&issuer])).await;
    let with = |roles: &[&str]| server.with_token(&issuer.ehealth_token("alice", roles));
    let alice = with(&[&ROLES[..], &["Observation.search"]].concat());
    let manifest = export(&alice, "/Patient/a/$export?organizeOutputBy=Patient").await;
    assert_eq!(blocks(&alice, &manifest).await["Patient/a"].len(), 3, "types she may have, and no others");
    let file = manifest.urls("output").remove(0);
    let response = alice.get(&file).header("accept", "application/fhir+json").send().await.unwrap();
    let binary: Value = response.json().await.unwrap();
    let extensions = binary["meta"]["extension"].as_array().unwrap();
    let of_type =
        extensions.iter().find(|extension| extension["url"].as_str().unwrap().ends_with("binary-resource-type"));
    assert_eq!(of_type.unwrap()["valueString"], "Parameters");
    let fewer = with(&ROLES);
    let text = fewer.refused(fewer.get(&file), 403).await;
    assert!(text.contains("Observation"), "{text}");
    assert!(!text.contains("Patient"), "{text}");
}

const PATIENTS: u64 = 120;
const TYPES: [&str; 4] = ["Patient", "Observation", "Appointment", "Provenance"];

fn random_resource(random: &mut Random) -> String {
    let type_name = TYPES[usize::try_from(random.below(4)).unwrap()];
    let id =
        if type_name == "Patient" { format!("p{}", random.below(PATIENTS)) } else { format!("r{}", random.below(150)) };
    // Some are never there.
    let mut patient = || json!({ "reference": format!("Patient/p{}", random.below(PATIENTS + 5)) });
    let mut resource = match type_name {
        "Patient" => json!({ "link": [{ "other": patient() }] }),
        "Observation" => json!({ "subject": patient() }),
        "Appointment" => json!({ "participant": [{ "actor": patient() }, { "actor": patient() }] }),
        _ => {
            let mut target = || match random.below(3) {
                0 => json!({ "reference": format!("Patient/p{}", random.below(PATIENTS + 5)) }),
                n => json!({ "reference": format!("{}/r{}", TYPES[usize::try_from(n).unwrap()], random.below(150)) }),
            };
            json!({ "target": [target(), target()] })
        }
    };
    resource["resourceType"] = type_name.into();
    resource["id"] = id.into();
    resource["language"] = "x".repeat(usize::try_from(random.below(3_000)).unwrap()).into();
    resource.to_string()
}

/// What holds at an instant. Of what was deleted: what it was before.
#[derive(sqlx::FromRow)]
struct Version {
    resource_type: String,
    id: String,
    last_updated: OffsetDateTime,
    deleted: bool,
    body: String,
}

impl Version {
    fn references(&self) -> Vec<String> {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        let of = |value: &Value| value["reference"].as_str().map(str::to_owned);
        let each = |list: &str, member: Option<&str>| -> Vec<String> {
            let items = body[list].as_array().into_iter().flatten();
            items.filter_map(|item| of(member.map_or(item, |member| &item[member]))).collect()
        };
        match self.resource_type.as_str() {
            "Patient" => [each("link", Some("other")), vec![format!("Patient/{}", self.id)]].concat(),
            "Observation" => of(&body["subject"]).into_iter().collect(),
            "Appointment" => each("participant", Some("actor")),
            _ => each("target", None),
        }
    }
}

async fn versions_at(database: &Database, at: OffsetDateTime) -> BTreeMap<String, Version> {
    let mut versions = BTreeMap::new();
    for type_name in TYPES {
        let select = "select resource_type, id, last_updated, deleted, coalesce(body, (
                select body from resource as ended
                where ended.resource_type = $2 and ended.id = resource.id
                    and ended.superseded_at = resource.last_updated
            )) as body
            from resource where resource_type = $2 and last_updated <= $1 and superseded_at > $1";
        let found: Vec<Version> =
            sqlx::query_as(select).bind(at).bind(type_name).persistent(false).fetch_all(&database.pool).await.unwrap();
        versions.extend(found.into_iter().map(|version| (format!("{type_name}/{}", version.id), version)));
    }
    versions
}

/// The blocks as an independent look at the bodies has them.
fn expected(
    versions: &BTreeMap<String, Version>,
    since: Option<OffsetDateTime>,
    is_one_of: impl Fn(&str) -> bool,
) -> BTreeMap<String, Block> {
    let mut blocks: BTreeMap<String, Block> = BTreeMap::new();
    for (name, version) in versions {
        if version.deleted || since.is_some_and(|since| version.last_updated <= since) {
            continue;
        }
        let mut owners: BTreeSet<String> = BTreeSet::new();
        for reference in version.references() {
            if version.resource_type == "Provenance"
                && let Some(target) = versions.get(&reference)
            {
                owners.extend(target.references());
            }
            owners.insert(reference);
        }
        for owner in owners.iter().filter(|owner| owner.starts_with("Patient/") && is_one_of(owner)) {
            blocks.entry(owner.clone()).or_default().insert(name.clone(), version.body.clone());
        }
    }
    blocks
}

// F9, E17, G10: the same resources as by type, in the blocks in which they belong, in many parts and files
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organised_export_is_the_same_as_one_by_type() {
    let seed = u64::from(std::process::id()) << 20 | 0x0B1C;
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let database = Database::create().await;
    let server = Server::start_with(&database, &[("export.file_target", "100KiB")]).await;
    let anybody = server.anybody();
    let member = |n: u64| json!({ "entity": { "reference": format!("Patient/p{n}") } });
    let few: BTreeSet<u64> = (0..12).map(|_| random.below(PATIENTS)).chain([PATIENTS + 2]).collect();
    let many: BTreeSet<u64> = (0..PATIENTS + 5).filter(|n| n % 7 != 3).collect();
    for (name, members) in [("few", &few), ("many", &many)] {
        let group = json!({
            "resourceType": "Group", "id": name, "member": members.iter().map(|n| member(*n)).collect::<Vec<_>>(),
        });
        database.put(&[&group.to_string()]).await;
    }
    let mut since: Option<String> = None;
    for round in 0..2 {
        for _ in 0..30 {
            let batch: Vec<String> = (0..20).map(|_| random_resource(&mut random)).collect();
            database.put(&batch.iter().map(String::as_str).collect::<Vec<_>>()).await;
            let resource: Value = serde_json::from_str(&batch[0]).unwrap();
            database.delete(resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap()).await;
        }
        let cases =
            [("/Patient/$export", None), ("/Group/few/$export", Some(&few)), ("/Group/many/$export", Some(&many))];
        let mut last = String::new();
        for (path, members) in cases {
            for since in [None, since.as_ref()] {
                let types = "_type=Patient,Observation,Appointment,Provenance";
                let query = since.map_or_else(|| types.to_owned(), |since| format!("{types}&_since={since}"));
                let by_type = export(&anybody, &format!("{path}?{query}")).await;
                let manifest = export(&anybody, &format!("{path}?{query}&organizeOutputBy=Patient")).await;
                let found = blocks(&anybody, &manifest).await;
                let case = format!("round {round}, seed {seed}, {path}?{query}");
                let everything: Block =
                    found.values().flatten().map(|(name, line)| (name.clone(), line.clone())).collect();
                assert_eq!(everything, by_type.resources().await, "{case}");
                let deletions =
                    async |manifest: &Manifest| manifest.deletions().await.into_iter().collect::<BTreeSet<_>>();
                assert_eq!(deletions(&manifest).await, deletions(&by_type).await, "{case}");
                let instant = |text: &str| OffsetDateTime::parse(text, &Rfc3339).unwrap();
                let is_one_of = |reference: &str| {
                    let n: u64 = reference.strip_prefix("Patient/p").unwrap().parse().unwrap();
                    members.is_none_or(|members| members.contains(&n))
                };
                let versions = versions_at(&database, instant(manifest.transaction_time())).await;
                assert_eq!(found, expected(&versions, since.map(|since| instant(since)), is_one_of), "{case}");
                manifest.transaction_time().clone_into(&mut last);
            }
        }
        let parts = database.count("export_part where cardinality(resource_types) = 4 and key_from > 0").await;
        assert!(parts > 10, "it is cut into many parts: {parts}");
        let elements =
            "/Patient/$export?_elements=id,Observation.subject&_type=Patient,Observation,Appointment,Provenance";
        let by_type = export(&anybody, elements).await.resources().await;
        let manifest = export(&anybody, &format!("{elements}&organizeOutputBy=Patient")).await;
        assert_eq!(blocks(&anybody, &manifest).await.into_values().flatten().collect::<Block>(), by_type, "G5");
        since = Some(last);
    }
}
