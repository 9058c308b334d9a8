//! Filters that look elsewhere: chains, and `_has` (rule G9).

use rustix::process::Signal;

use crate::support::{Caller, Database, Job, Manifest, Server, eventually};

/// With an identifier of its own.
fn identified(resource_type: &str, id: &str, value: &str) -> String {
    let identifier = format!(r#"[{{"system":"urn:s","value":"{value}"}}]"#);
    format!(r#"{{"resourceType":"{resource_type}","id":"{id}","identifier":{identifier}}}"#)
}

fn observation(id: &str, code: &str, subject: &str, performer: &str) -> String {
    format!(
        r#"{{"resourceType":"Observation","id":"{id}","status":"final","code":{{"coding":[{{"code":"{code}"}}]}},"subject":{{"reference":"{subject}"}},"performer":[{{"reference":"{performer}"}}]}}"#
    )
}

async fn kick_off(caller: &Caller, path: &str, filters: &[&str]) -> Job {
    let encoded = |filter: &&str| format!("&_typeFilter={}", filter.replace('&', "%26").replace('|', "%7C"));
    let filters: String = filters.iter().map(encoded).collect();
    caller.accepted(caller.export_at(&format!("{path}{filters}"))).await
}

/// What comes out, `Type/id`.
async fn names(manifest: &Manifest) -> String {
    manifest.resources().await.into_keys().collect::<Vec<_>>().join(" ")
}

async fn filtered(caller: &Caller, path: &str, filters: &[&str]) -> String {
    names(&kick_off(caller, path, filters).await.completed().await).await
}

/// Of each subject one, `o-` and its id.
async fn fill(database: &Database) {
    database
        .put(&[
            &identified("Patient", "a", "1"),
            &identified("Patient", "b", "2"),
            &identified("Group", "g", "1").replacen("}]", r#"}],"member":[{"entity":{"reference":"Patient/b"}}]"#, 1),
            &identified("Device", "d", "1"),
            &identified("Location", "l", "3"),
            &identified("Practitioner", "x", "9"),
            &observation("o-a", "weight", "Patient/a", "Practitioner/x"),
            &observation("o-b", "length", "Patient/b/_history/1", "Practitioner/y"),
            &observation("o-g", "weight", "Group/g", "Patient/b"),
            &observation("o-d", "length", "Device/d", "Practitioner/x"),
            &observation("o-l", "weight", "Location/l", "Practitioner/x"),
            &observation("o-none", "weight", "Patient/none", "Practitioner/x"),
        ])
        .await;
}

// G9
#[tokio::test]
async fn a_chain_leads_to_whatever_may_be_referred_to() {
    let database = Database::create().await;
    fill(&database).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let of = async |filter: &str| filtered(&anybody, "/$export?_type=Observation", &[filter]).await;
    for (filter, found) in [
        ("Observation?subject.identifier=urn:s|1", "Observation/o-a Observation/o-d Observation/o-g"),
        ("Observation?subject:Patient.identifier=urn:s|1", "Observation/o-a"),
        ("Observation?patient.identifier=1,2", "Observation/o-a Observation/o-b"),
        ("Observation?subject:Device.identifier=1", "Observation/o-d"),
        ("Observation?subject:Location.identifier=1", ""),
        ("Observation?subject.identifier=1&code=weight", "Observation/o-a Observation/o-g"),
        ("Observation?subject.identifier=1&performer.identifier=9", "Observation/o-a Observation/o-d"),
        ("Observation?subject.identifier=none", ""),
    ] {
        assert_eq!(of(filter).await, found, "{filter}");
    }
    let either = ["Observation?subject:Patient.identifier=1", "Observation?subject:Device.identifier=1"];
    let either = filtered(&anybody, "/$export?_type=Observation", &either).await;
    assert_eq!(either, "Observation/o-a Observation/o-d");
    // What is searched does not come out for that, and what comes out besides is not filtered.
    let others = filtered(&anybody, "/$export?_type=Observation,Patient", &["Observation?patient.identifier=1"]).await;
    assert_eq!(others, "Observation/o-a Patient/a Patient/b");
    // They go with their job.
    assert!(database.count("export_found").await > 0);
    database.execute("delete from binary_chunk; delete from binary_file; delete from export_job").await;
    assert_eq!(database.count("export_found").await, 0);
}

// G9
#[tokio::test]
async fn has_leads_back() {
    let database = Database::create().await;
    fill(&database).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    for (filter, found) in [
        ("Patient?_has:Observation:patient:code=weight", "Patient/a"),
        ("Patient?_has:Observation:patient:code=weight,length", "Patient/a Patient/b"),
        ("Patient?_has:Observation:performer:code=weight", "Patient/b"),
        ("Patient?_has:Observation:patient:code=none", ""),
        ("Patient?_has:Observation:patient:code=length&identifier=2", "Patient/b"),
    ] {
        assert_eq!(filtered(&anybody, "/$export?_type=Patient", &[filter]).await, found, "{filter}");
    }
}

// G9, B.4: what is searched is the whole system, whosever data is exported
#[tokio::test]
async fn a_search_sees_what_is_not_exported() {
    let database = Database::create().await;
    fill(&database).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let of_x = "Observation?performer.identifier=9";
    assert_eq!(filtered(&anybody, "/Patient/a/$export?_type=Observation", &[of_x]).await, "Observation/o-a");
    assert_eq!(filtered(&anybody, "/Group/g/$export?_type=Observation", &[of_x]).await, "");
    let all = filtered(&anybody, "/Patient/$export?_type=Observation", &[of_x]).await;
    assert_eq!(all, "Observation/o-a Observation/o-none");
    let blocks = kick_off(&anybody, "/Patient/$export?organizeOutputBy=Patient&_type=Observation", &[of_x]).await;
    let url = blocks.completed().await.urls("output").remove(0);
    let text = String::from_utf8(anybody.download(&url).await).unwrap();
    assert!(text.contains(r#""id":"o-a""#) && !text.contains(r#""id":"o-b""#), "{text}");
    // A device that is old, an observation that is new.
    let since = kick_off(&anybody, "/$export", &[]).await.completed().await.transaction_time().to_owned();
    database.put(&[&observation("new", "weight", "Device/d", "Practitioner/y")]).await;
    let path = format!("/$export?_type=Observation&_since={since}");
    assert_eq!(filtered(&anybody, &path, &["Observation?subject.identifier=1"]).await, "Observation/new");
}

// E3, G9
#[tokio::test]
async fn a_search_sees_the_state_at_the_transaction_time() {
    let database = Database::create().await;
    fill(&database).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    database.hold_parts().await;
    let job = kick_off(&anybody, "/$export?_type=Observation", &["Observation?subject.identifier=1"]).await;
    eventually("it is planned", || async { database.count("export_part").await > 0 }).await;
    database.put(&[&identified("Patient", "a", "changed"), &identified("Patient", "b", "1")]).await;
    database.delete("Device", "d").await;
    database.let_parts_go().await;
    assert_eq!(names(&job.completed().await).await, "Observation/o-a Observation/o-d Observation/o-g");
}

/// Patients of whom every third has the identifier `1`, with one observation of each; in many parts.
async fn with_many(database: &Database, patients: usize) -> Server {
    let text = "x".repeat(1_000);
    let all: Vec<String> = (0..patients)
        .flat_map(|n| {
            let long = |resource: String| resource.replacen("\",", &format!("\",\"language\":\"{text}\","), 1);
            let value = if n % 3 == 0 { "1" } else { "2" };
            [
                long(identified("Patient", &format!("p{n}"), value)),
                long(observation(&format!("o{n}"), "c", &format!("Patient/p{n}"), "Practitioner/x")),
            ]
        })
        .collect();
    for some in all.chunks(200) {
        database.put(&some.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    start_with_small_parts(database).await
}

async fn start_with_small_parts(database: &Database) -> Server {
    let settings = [("export.workers", "4"), ("export.lease", "1s"), ("export.file_target", "64KiB")];
    Server::start_with(database, &settings).await
}

// DESIGN 5, G9: no part is judged before all is found, whoever dies meanwhile
#[tokio::test]
async fn many_parts_and_lost_workers_find_the_same() {
    let database = Database::create().await;
    let first = with_many(&database, 600).await;
    // What is found cannot be stored.
    let mut busy = database.pool.begin().await.unwrap();
    sqlx::query("lock table export_found in share mode").execute(&mut *busy).await.unwrap();
    let filter = "Observation?subject.identifier=1";
    let job = kick_off(&first.anybody(), "/$export?_type=Observation", &[filter]).await;
    let searched = "export_part where stage = 'search' and attempt > 0";
    eventually("it is searched", || async { database.count(searched).await > 3 }).await;
    first.signal(Signal::KILL);
    let second = start_with_small_parts(&database).await;
    assert_eq!(database.count("export_part where stage = 'output' and attempt > 0").await, 0);
    busy.rollback().await.unwrap();
    let resources = job.at(&second).completed().await.resources().await;
    let found = (0..600).filter(|n| n % 3 == 0).map(|n| format!("Observation/o{n}"));
    assert_eq!(
        resources.into_keys().collect::<Vec<_>>(),
        found.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    );
    assert!(database.count("export_part where stage = 'search' and attempt > 1").await > 0, "{}", second.log());
    assert!(database.count("export_part where stage = 'output'").await > 3);
}

/// What the searches of a job that is held have found, besides: more than a part knows at a time.
async fn find_many_others(database: &Database, job: &Job) {
    eventually("it is planned", || async { database.count("export_part").await > 0 }).await;
    database
        .execute(&format!(
            "insert into export_found (job_id, search, resource_type, resource_id)
            select '{}', 0, 'Patient', 'other' || n from generate_series(1, 70000) as n",
            job.id()
        ))
        .await;
}

/// Counts the statements that read what was found.
async fn count_questions(database: &Database) {
    database
        .execute(
            "create sequence question;
            alter table export_found rename to found_before;
            create view export_found as select * from found_before where (select nextval('question')) > 0",
        )
        .await;
}

async fn questions(database: &Database) -> i64 {
    sqlx::query_scalar("select last_value from question").fetch_one(&database.pool).await.unwrap()
}

// G9
#[tokio::test]
async fn what_is_too_much_to_be_known_is_looked_up_for_many_at_once() {
    let database = Database::create().await;
    count_questions(&database).await;
    let server = with_many(&database, 60).await;
    database.hold_parts().await;
    let job = kick_off(&server.anybody(), "/$export?_type=Observation", &["Observation?patient.identifier=1"]).await;
    find_many_others(&database, &job).await;
    database.let_parts_go().await;
    assert_eq!(job.completed().await.resources().await.len(), 20);
    let questions = questions(&database).await;
    assert!((2..20).contains(&questions), "{questions}");
}

// G9: one resource may depend on more than is known at a time, and on the same twice
#[tokio::test]
async fn a_group_of_very_many_is_judged() {
    let database = Database::create().await;
    let members = |name: &str| {
        let member = |n| format!(r#"{{"entity":{{"reference":"Patient/{name}{}"}}}}"#, n % 70_000);
        (0..90_000).map(member).collect::<Vec<_>>().join(",")
    };
    let last = r#"{"entity":{"reference":"Patient/a"}}"#;
    let group = |id: &str, members: &str| {
        format!(r#"{{"resourceType":"Group","id":"{id}","type":"person","actual":true,"member":[{members}]}}"#)
    };
    database
        .put(&[
            &identified("Patient", "a", "1"),
            &group("few", last),
            &group("many", &format!("{},{last}", members("m"))),
            &group("none", &members("n")),
        ])
        .await;
    let server = Server::start(&database).await;
    database.hold_parts().await;
    let job = kick_off(&server.anybody(), "/$export?_type=Group", &["Group?member:Patient.identifier=1"]).await;
    find_many_others(&database, &job).await;
    database.let_parts_go().await;
    assert_eq!(names(&job.completed().await).await, "Group/few Group/many");
}

// F9, G9, G10
#[tokio::test]
async fn what_waits_to_be_looked_up_keeps_its_place_in_a_block() {
    let database = Database::create().await;
    let procedure = |id: &str, patient: &str, text: &str| {
        format!(
            r#"{{"resourceType":"Procedure","id":"{id}","language":"{text}","status":"completed","subject":{{"reference":"Patient/{patient}"}}}}"#
        )
    };
    database
        .put(&[
            &identified("Patient", "a", "1"),
            &identified("Patient", "b", "2"),
            &identified("Practitioner", "x", "9"),
            &observation("o-a", "weight", "Patient/a", "Practitioner/x"),
            &observation("o-a-2", "weight", "Patient/a", "Practitioner/y"),
            &observation("o-b", "length", "Patient/b", "Practitioner/x"),
            &procedure("p-a", "a", "short"),
            &procedure("p-a-long", "a", &"x".repeat(2 << 20)),
            &procedure("p-b", "b", "short"),
        ])
        .await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let path = "/Patient/$export?organizeOutputBy=Patient&_type=Observation,Patient,Procedure";
    let text = async |job: Job| {
        let url = job.completed().await.urls("output").remove(0);
        String::from_utf8(anybody.download(&url).await).unwrap()
    };
    let known = text(kick_off(&anybody, path, &["Observation?performer.identifier=9"]).await).await;
    database.hold_parts().await;
    let job = kick_off(&anybody, path, &["Observation?performer.identifier=9"]).await;
    find_many_others(&database, &job).await;
    database.let_parts_go().await;
    let looked_up = text(job).await;
    let outlines = |text: &str| text.lines().map(|line| line.chars().take(60).collect()).collect::<Vec<String>>();
    assert_eq!(known.lines().count(), 9, "{:?}", outlines(&known));
    assert!(known == looked_up, "{:?}", outlines(&looked_up));
}

// G9
#[tokio::test]
async fn a_search_reads_only_where_it_can_find_anything() {
    let database = Database::create().await;
    fill(&database).await;
    let server = Server::start(&database).await;
    let filters = ["Observation?subject:Patient._id=a", "Observation?patient.identifier=2&subject:Patient._id=b"];
    let path = "/$export?_type=Observation";
    let examined = async || {
        let sum = "select coalesce(sum(examined), 0)::bigint from export_part where stage = 'search'";
        sqlx::query_scalar::<_, i64>(sum).fetch_one(&database.pool).await.unwrap()
    };
    assert_eq!(filtered(&server.anybody(), path, &filters[..1]).await, "Observation/o-a");
    assert_eq!(examined().await, 1, "one of two Patients");
    // Together they look for what an index cannot tell, too.
    assert_eq!(filtered(&server.anybody(), path, &filters).await, "Observation/o-a Observation/o-b");
    assert_eq!(examined().await, 3);
}

// G9, C8: the export goes on, and says what was not found
#[tokio::test]
async fn what_a_search_cannot_read_is_told() {
    let database = Database::create().await;
    let born = |id: &str, date: &str| format!(r#"{{"resourceType":"Patient","id":"{id}","birthDate":"{date}"}}"#);
    database
        .put(&[
            &born("a", "1970-01-01"),
            &born("b", "at some time"),
            &observation("o-a", "c", "Patient/a", "Practitioner/x"),
            &observation("o-b", "c", "Patient/b", "Practitioner/x"),
        ])
        .await;
    let server = Server::start(&database).await;
    let filters = ["ge1960", "ge1961"].map(|date| format!("Observation?subject:Patient.birthdate={date}"));
    let filters = filters.each_ref().map(String::as_str);
    let job = kick_off(&server.anybody(), "/$export?_type=Observation", &filters).await;
    let manifest = job.completed().await;
    assert_eq!(names(&manifest).await, "Observation/o-a");
    let said = manifest.lines("error").await;
    assert!(said.len() == 1 && said[0].1.contains("Patient/b is not found, for a filter cannot read it"), "{said:?}");
}
