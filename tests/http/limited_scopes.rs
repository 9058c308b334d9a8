//! Scopes that give a part of a type, `system/Observation.rs?category=laboratory`: what they do not match comes out of
//! nothing (rules I5, I20, I21).

use serde_json::{Value, json};

use crate::support::{Caller, Database, Issuer, Job, Manifest, Server, eventually};

const LABORATORY: &str = "system/Observation.rs?category=laboratory";
const VITAL_SIGNS: &str = "system/Observation.rs?category=vital-signs";
const PATIENTS: &str = "system/Patient.rs";

fn observation(id: &str, patient: &str, category: &str) -> String {
    json!({
        "resourceType": "Observation",
        "id": id,
        "status": "final",
        "category": [{ "coding": [{ "code": category }] }],
        "subject": { "reference": format!("Patient/{patient}") },
        "performer": [{ "reference": "Practitioner/active" }, { "reference": "Practitioner/retired" }],
    })
    .to_string()
}

fn provenance(id: &str, target: &str) -> String {
    json!({ "resourceType": "Provenance", "id": id, "target": [{ "reference": target }] }).to_string()
}

/// Two patients of a Group with Observations of two categories, who made them, and where two of them come from.
struct Scene {
    database: Database,
    issuer: Issuer,
    server: Server,
}

impl Scene {
    async fn set() -> Self {
        let database = Database::create().await;
        let patient = |id| json!({ "resourceType": "Patient", "id": id }).to_string();
        let practitioner =
            |id, active| json!({ "resourceType": "Practitioner", "id": id, "active": active }).to_string();
        let group = json!({ "resourceType": "Group", "id": "g", "type": "person", "actual": true,
            "member": [{ "entity": { "reference": "Patient/a" } }, { "entity": { "reference": "Patient/b" } }] });
        let resources = [
            patient("a"),
            patient("b"),
            observation("a-lab", "a", "laboratory"),
            observation("b-lab", "b", "laboratory"),
            observation("a-vital", "a", "vital-signs"),
            practitioner("active", true),
            practitioner("retired", false),
            provenance("of-lab", "Observation/a-lab"),
            provenance("of-vital", "Observation/a-vital"),
            group.to_string(),
        ];
        database.put(&resources.each_ref().map(String::as_str)).await;
        let issuer = Issuer::start().await;
        let issuers = format!("[{{ issuer = \"{}\", audience = [\"fhir\"], profile = \"smart\" }}]", issuer.url());
        let settings =
            [("auth.mode", "token"), ("auth.issuers", issuers.as_str()), ("include.referenced", r#"["Practitioner"]"#)];
        let server = Server::start_with(&database, &settings).await;
        Self { database, issuer, server }
    }

    /// The client, with these scopes.
    fn with(&self, scopes: &[&str]) -> Caller {
        self.server.with_token(&self.issuer.token(&json!({ "client_id": "c", "scope": scopes.join(" ") })))
    }
}

async fn completed(caller: &Caller, path: &str) -> (Job, Manifest) {
    let job = caller.accepted(caller.export_at(path)).await;
    let manifest = job.completed().await;
    (job, manifest)
}

/// What comes out at a path: `Type/id` after `Type/id`.
async fn names(caller: &Caller, path: &str) -> String {
    completed(caller, path).await.1.resources().await.into_keys().collect::<Vec<_>>().join(" ")
}

// I20, I21
#[tokio::test]
async fn only_what_the_scope_matches_comes_out() {
    let scene = Scene::set().await;
    let limited = scene.with(&[LABORATORY, PATIENTS]);
    let both = "Observation/a-lab Observation/b-lab Patient/a Patient/b";
    for path in ["/$export", "/$export?_type=Observation,Patient", "/Patient/$export"] {
        assert_eq!(names(&limited, path).await, both, "{path}");
    }
    let (_, blocks) = completed(&limited, "/Patient/$export?organizeOutputBy=Patient").await;
    let blocks = String::from_utf8(limited.download(&blocks.urls("output")[0]).await).unwrap();
    assert!(blocks.contains("b-lab") && !blocks.contains("a-vital"), "{blocks}");
    assert_eq!(names(&limited, "/Patient/a/$export").await, "Observation/a-lab Patient/a");
    let group = scene.with(&[LABORATORY, "system/Group.rs"]);
    assert_eq!(names(&group, "/Group/g/$export?_type=Observation").await, "Observation/a-lab Observation/b-lab");
    // Several scopes for a type are their union, of which one may be all.
    assert_eq!(names(&scene.with(&[LABORATORY, VITAL_SIGNS]), "/$export").await.split(' ').count(), 3);
    assert_eq!(names(&scene.with(&[LABORATORY, "system/Observation.read"]), "/$export").await.split(' ').count(), 3);
}

// G9, G12, I20: both are asked, whatever the client filters by
#[tokio::test]
async fn filters_only_take_away_from_what_the_scope_gives() {
    let scene = Scene::set().await;
    let limited = scene.with(&[LABORATORY, PATIENTS]);
    for parameter in ["_typeFilter", "_typePostFetchFilterUrl"] {
        let path = |query: &str| format!("/$export?_type=Observation&{parameter}=Observation?{query}");
        assert_eq!(names(&limited, &path("subject=Patient/b")).await, "Observation/b-lab");
        assert_eq!(names(&limited, &path("category=vital-signs")).await, "");
        assert_eq!(
            names(&limited, &path("category=laboratory,vital-signs")).await,
            "Observation/a-lab Observation/b-lab"
        );
    }
    // A search of what is given in part would tell of the rest.
    let search = "/$export?_type=Patient&_typeFilter=Patient?_has:Observation:patient:category=vital-signs";
    assert!(limited.refused(limited.export_at(search), 403).await.contains("Observation"));
    let whole = scene.with(&["system/*.rs"]);
    assert_eq!(names(&whole, search).await, "Patient/a");
    let group = scene.with(&["system/Group.rs?actual=true", PATIENTS]);
    assert!(group.refused(group.export_at("/Group/g/$export?_type=Patient"), 403).await.contains("Group"));
}

// G4, G7, H8, I20: what comes for the sake of others, too
#[tokio::test]
async fn what_is_referred_to_and_what_is_about_others_keeps_within_the_scope() {
    let scene = Scene::set().await;
    let scopes = [LABORATORY, "system/Provenance.rs", "system/Practitioner.rs?active=true"];
    let limited = scene.with(&scopes);
    let path = "/Patient/$export?_type=Observation&includeAssociatedData=RelevantProvenanceResources";
    assert_eq!(names(&limited, path).await, "Observation/a-lab Observation/b-lab Provenance/of-lab");
    let found = names(&limited, "/Patient/$export").await;
    assert!(found.contains("Practitioner/active") && !found.contains("retired"), "{found}");
}

// E14, G15, I20
#[tokio::test]
async fn neither_other_versions_nor_deletions_tell_of_the_rest() {
    let scene = Scene::set().await;
    let limited = scene.with(&[LABORATORY, PATIENTS]);
    let (_, before) = completed(&limited, "/$export").await;
    scene.database.put(&[&observation("b-lab", "b", "vital-signs")]).await;
    scene.database.delete("Observation", "a-vital").await;
    scene.database.delete("Patient", "b").await;
    let history = completed(&limited, "/$export?_type=Observation&_includeHistory=true").await.1;
    let versions: Vec<_> = history.lines("output").await;
    let of = |id: &str| versions.iter().filter(|(_, line)| line.contains(&format!(r#""id":"{id}""#))).count();
    assert_eq!((of("a-lab"), of("b-lab"), of("a-vital")), (1, 1, 0));
    assert!(versions.iter().all(|(_, line)| !line.contains("vital-signs")));
    let since = before.transaction_time().replace('+', "%2B");
    let changed = completed(&limited, &format!("/$export?_since={since}")).await.1;
    assert_eq!(changed.deletions().await, ["Patient/b"]);
    let remarks = changed.lines("error").await;
    assert!(remarks.iter().any(|(_, line)| line.contains("Deletions of Observation are not told")), "{remarks:?}");
    assert!(changed.resources().await.is_empty());
}

// I1, I5: with the token of each call
#[tokio::test]
async fn polls_and_files_need_a_scope_that_covers_what_was_exported() {
    let scene = Scene::set().await;
    let (job, manifest) = completed(&scene.with(&[LABORATORY, PATIENTS]), "/$export").await;
    let file = |of: &str| {
        let output = manifest.urls("output");
        let types: Vec<Value> = manifest.json["output"].as_array().unwrap().clone();
        output[types.iter().position(|item| item["type"] == of).unwrap()].clone()
    };
    let status = async |scopes: &[&str], url: &str| scene.with(scopes).get(url).send().await.unwrap().status().as_u16();
    let (observations, patients) = (file("Observation"), file("Patient"));
    for (scopes, poll, of_observations, of_patients) in [
        (&[LABORATORY, PATIENTS][..], 200, 200, 200),
        (&["system/*.read"], 200, 200, 200),
        (&[LABORATORY, VITAL_SIGNS, PATIENTS], 200, 200, 200),
        (&["system/Observation.rs", PATIENTS], 200, 200, 200),
        (&[LABORATORY], 403, 200, 403),
        (&[VITAL_SIGNS, PATIENTS], 403, 403, 200),
        (&["system/Condition.rs"], 403, 403, 403),
    ] {
        assert_eq!(status(scopes, &job.url).await, poll, "{scopes:?}");
        assert_eq!(status(scopes, &observations).await, of_observations, "{scopes:?}");
        assert_eq!(status(scopes, &patients).await, of_patients, "{scopes:?}");
    }
    // Who had all has more than who has a part.
    let (job, manifest) = completed(&scene.with(&["system/*.rs"]), "/$export?_type=Observation").await;
    let file = manifest.urls("output").remove(0);
    assert_eq!(status(&[LABORATORY], &job.url).await, 403);
    assert_eq!(status(&[LABORATORY], &file).await, 403);
    assert_eq!(status(&["system/Observation.rs"], &file).await, 200);
}

// B15, I5: what the kick-off needed is needed later, too
#[tokio::test]
async fn a_group_and_what_was_searched_are_asked_for_again() {
    let scene = Scene::set().await;
    let all = scene.with(&["system/*.rs"]);
    for (path, without) in [
        ("/Group/g/$export?_type=Patient", "system/Patient.rs system/Observation.rs"),
        ("/Patient/a/$export?_type=Observation", "system/Observation.rs system/Group.rs"),
        ("/Patient/$export?_type=Observation&patient=a", "system/Observation.rs"),
        ("/$export?_type=Patient&_typeFilter=Patient?_has:Observation:patient:category=laboratory", PATIENTS),
    ] {
        let (job, manifest) = completed(&all, path).await;
        let lost = scene.with(&[without]);
        for request in [lost.get(&job.url), lost.get(&manifest.urls("output")[0]), lost.export_at(path)] {
            lost.refused(request, 403).await;
        }
        assert_eq!(job.poll().await.status(), 200, "{path}");
    }
}

// What cannot be compared with the limit is counted; whose it is, is not for the caller. Nor is how much there is.
#[tokio::test]
async fn of_what_limits_hide_nothing_is_told() {
    let scene = Scene::set().await;
    let broken = json!({ "resourceType": "Observation", "id": "hidden", "effectiveDateTime": "yesterday" });
    scene.database.put(&[&broken.to_string()]).await;
    let limited = scene.with(&["system/Observation.rs?date=ge2020", "system/Patient.rs"]);
    let (_, manifest) = completed(&limited, "/$export").await;
    let remarks = manifest.lines("error").await;
    assert!(remarks.iter().all(|(_, line)| !line.contains("hidden")), "{remarks:?}");
    assert!(remarks.iter().any(|(_, line)| line.contains("1 resources are left out")), "{remarks:?}");
    let whole = scene.with(&["system/*.rs"]);
    let (_, manifest) = completed(&whole, "/$export?_typeFilter=Observation?date=ge2020").await;
    assert!(manifest.lines("error").await.iter().any(|(_, line)| line.contains("Observation/hidden")));
    scene.database.hold_parts().await;
    for (caller, is_told) in [(&whole, true), (&limited, false)] {
        let job = caller.kick_off("?_type=Observation").await;
        eventually("it runs and says how far it is", || async {
            let poll = job.poll().await;
            let progress = poll.headers().get("x-progress").map(|progress| progress.to_str().unwrap().to_owned());
            progress.is_some_and(|progress| if is_told { progress.contains(" of about ") } else { progress == "0%" })
        })
        .await;
    }
    scene.database.let_parts_go().await;
}

// Another version may know more kinds of limits
#[tokio::test]
async fn limits_that_are_not_understood_cover_nothing() {
    let scene = Scene::set().await;
    let limited = scene.with(&[LABORATORY]);
    let (job, manifest) = completed(&limited, "/$export").await;
    let file = manifest.urls("output").remove(0);
    let granted = r#"["Observation?x-new=1", "Observation?category=laboratory"]"#;
    scene
        .database
        .execute(&format!("update export_job set request = jsonb_set(request, '{{filters,granted}}', '{granted}')"))
        .await;
    limited.refused(limited.get(&file), 403).await;
    limited.refused(limited.get(&job.url), 403).await;
    assert_eq!(scene.with(&["system/*.rs"]).get(&file).send().await.unwrap().status(), 200);
}
