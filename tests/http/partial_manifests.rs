//! `allowPartialManifests`: which files are ready is told page by page while an export runs (rules C11, E11, G11).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::answer::{Answer, get, send};
use crate::support::schema::Schema;
use crate::support::secured::{ROLES, calls, set_up};
use crate::support::{Caller, Database, Job, Server, eventually, put_mebibytes};

const QUERY: &str = "?_type=Patient&allowPartialManifests=true";
/// An export with a part more, of deletions, of which there are none.
const WITH_DELETIONS: &str = "?_since=2020-01-01T00:00:00Z&allowPartialManifests=true";
/// Small files, so that an export of a few hundred Patients has parts enough.
const SMALL_FILES: (&str, &str) = ("export.file_target", "4KiB");

/// Lets these parts be done, and waits until they are.
async fn release(database: &Database, which: &str) {
    eventually("it is planned", || async { database.count("export_job where state = 'accepted'").await == 0 }).await;
    database
        .execute(&format!("update export_part set not_before = '-infinity' where {which}; notify export_work"))
        .await;
    let unfinished = format!("export_part where ({which}) and state <> 'done'");
    eventually("they are done", || async { database.count(&unfinished).await == 0 }).await;
}

/// A database with so many Patients, an export of which waits part by part.
async fn held(patients: usize) -> Database {
    let database = Database::create().await;
    database.put_patients(patients).await;
    database.hold_parts().await;
    database
}

async fn poll(caller: &Caller, url: &str) -> Answer {
    get(caller, url, &[]).await
}

fn json(answer: &Answer) -> Value {
    assert_eq!(answer.header("content-type"), Some("application/json"));
    serde_json::from_slice(&answer.body).unwrap()
}

/// The partial manifest that is answered.
async fn partial(caller: &Caller, url: &str) -> Value {
    let answer = poll(caller, url).await;
    assert_eq!(answer.status, 202);
    assert!(answer.header("x-progress").is_some() && answer.header("retry-after").is_some());
    json(&answer)
}

/// There is nothing (new) to tell.
async fn expect_nothing(caller: &Caller, url: &str) {
    let answer = poll(caller, url).await;
    assert_eq!((answer.status, answer.header("content-length"), answer.header("content-type")), (202, Some("0"), None));
    assert!(answer.header("x-progress").is_some() && answer.header("retry-after").is_some());
}

/// Where the next page is.
fn next(manifest: &Value) -> Option<String> {
    let link = manifest.get("link")?;
    assert_eq!((link.as_array().unwrap().len(), &link[0]["relation"]), (1, &json!("next")));
    Some(link[0]["url"].as_str().unwrap().to_owned())
}

fn without_link(manifest: &Value) -> Value {
    let mut manifest = manifest.clone();
    manifest.as_object_mut().unwrap().remove("link");
    manifest
}

/// What all pages have in common.
fn common(manifest: &Value) -> Value {
    let mut common = without_link(manifest);
    for list in ["output", "deleted", "error", "outcome"] {
        common.as_object_mut().unwrap().remove(list);
    }
    common
}

fn files(manifest: &Value) -> Vec<String> {
    ["output", "deleted", "error", "outcome"]
        .iter()
        .flat_map(|list| manifest[list].as_array().into_iter().flatten())
        .map(|file| file["url"].as_str().unwrap().to_owned())
        .collect()
}

/// All pages of an export that is complete.
async fn pages(caller: &Caller, job: &Job) -> Vec<Value> {
    let mut pages = Vec::new();
    let mut url = Some(job.url.clone());
    while let Some(at) = url {
        let answer = poll(caller, &at).await;
        assert_eq!(answer.status, 200);
        assert!(answer.header("expires").is_some());
        let page = json(&answer);
        url = next(&page);
        pages.push(page);
    }
    pages
}

/// Whether these files are all of the only export, each once.
async fn expect_each_once(database: &Database, server: &Server, mut found: Vec<String>) {
    let ids: Vec<String> = sqlx::query_scalar("select id from binary_file").fetch_all(&database.pool).await.unwrap();
    let mut wanted: Vec<_> = ids.into_iter().map(|id| format!("{}/Binary/{id}", server.base)).collect();
    wanted.sort();
    found.sort();
    assert_eq!(found, wanted);
}

// A page that is told is written down; HEAD tells nobody, so it closes none
#[tokio::test]
async fn who_is_told_what_is_ready_is_written_down() {
    let database = held(300).await;
    let server = Server::start_with(&database, &[SMALL_FILES]).await;
    let anybody = server.anybody();
    let job = anybody.kick_off(QUERY).await;
    release(&database, "ordinal in (0, 1)").await;
    let entries = "disclosure where event = 'manifest'";
    assert_eq!(send(anybody.request(Method::HEAD, &job.url)).await.status, 202);
    let closed = "export_job where pages > 0";
    assert_eq!((database.count(entries).await, database.count(closed).await), (0, 0));
    let page = partial(&anybody, &job.url).await;
    let resources = page["output"].as_array().unwrap().iter().map(|file| file["count"].as_u64().unwrap()).sum::<u64>();
    let as_told = format!(
        "{entries} and outcome = 202 and job_id = '{}' and detail = '{}'",
        job.id(),
        json!({ "page": 1, "files": files(&page).len(), "resources": resources })
    );
    assert_eq!((database.count(entries).await, database.count(&as_told).await), (1, 1));
}

// C11, E11, G11
#[tokio::test]
async fn what_is_ready_is_told_page_by_page() {
    let database = held(300).await;
    let server = Server::start_with(&database, &[SMALL_FILES]).await;
    let anybody = server.anybody();
    let job = anybody.kick_off(QUERY).await;
    let (second, third) = (format!("{}&page=2", job.url), format!("{}&page=3", job.url));
    release(&database, "false").await;
    expect_nothing(&anybody, &job.url).await;
    expect_nothing(&anybody, &format!("{}&page=1", job.url)).await;
    anybody.refused(anybody.get(&second), 404).await;

    release(&database, "ordinal in (0, 1)").await;
    let first_page = partial(&anybody, &job.url).await;
    assert!(files(&first_page).len() >= 2 && next(&first_page).is_none(), "{first_page}");
    assert!(first_page["transactionTime"].is_string());
    assert_eq!(first_page["request"], format!("{}/$export{QUERY}", server.base));
    // Again and again the same, while there is nothing new.
    assert_eq!(partial(&anybody, &format!("{}&page=1", job.url)).await, first_page);
    expect_nothing(&anybody, &second).await;
    anybody.refused(anybody.get(&third), 404).await;

    release(&database, "ordinal = 2").await;
    let linked = partial(&anybody, &job.url).await;
    assert_eq!((without_link(&linked), next(&linked)), (first_page.clone(), Some(second.clone())));
    let second_page = partial(&anybody, &second).await;
    assert!(!files(&second_page).is_empty() && next(&second_page).is_none());
    release(&database, "ordinal = 3").await;
    let by_post = json!({ "resourceType": "Parameters", "parameter": [
        { "name": "_jobId", "valueString": job.id() }, { "name": "page", "valuePositiveInt": 2 },
    ] });
    let post = anybody.request(Method::POST, "/$export-poll-status").header("content-type", "application/json");
    let answer = send(post.body(by_post.to_string())).await;
    assert_eq!((without_link(&json(&answer)), next(&json(&answer))), (second_page.clone(), Some(third.clone())), "C13");

    // Nobody has asked for the third page yet: all that is left is on it.
    release(&database, "true").await;
    let mut whole = job.completed().await;
    let pages = pages(&anybody, &job).await;
    assert_eq!(pages.len(), 3);
    assert_eq!((&pages[0], without_link(&pages[1])), (&linked, second_page));
    assert!(pages.iter().all(|page| common(page) == common(&first_page)), "E11");
    expect_each_once(&database, &server, pages.iter().flat_map(files).collect()).await;
    whole.json["output"] = pages.iter().flat_map(|page| page["output"].as_array().unwrap().clone()).collect();
    assert_eq!(whole.resources().await.len(), 300);

    anybody.refused(anybody.get(&format!("{}&page=4", job.url)), 404).await;
    for bad in ["0", "-1", "two", "", "1&page=1"] {
        let said = anybody.refused(anybody.get(&format!("{}&page={bad}", job.url)), 400).await;
        assert!(said.contains("page "), "{bad}: {said}");
    }
}

// F10, F14, F18, F20
#[tokio::test]
async fn a_file_that_is_told_of_can_be_had_in_every_way() {
    let database = held(100).await;
    let server = Server::start_with(&database, &[SMALL_FILES]).await;
    let anybody = server.anybody();
    let job = anybody.kick_off(QUERY).await;
    release(&database, "ordinal = 0").await;
    let url = files(&partial(&anybody, &job.url).await).remove(0);
    let whole = get(&anybody, &url, &[]).await;
    assert_eq!((whole.status, whole.header("content-type")), (200, Some("application/fhir+ndjson")));
    let head = send(anybody.request(Method::HEAD, &url)).await;
    assert_eq!((head.status, head.header("content-length")), (200, whole.header("content-length")));
    let part = get(&anybody, &url, &[("range", "bytes=5-14")]).await;
    assert_eq!((part.status, part.body.as_slice()), (206, &whole.body[5..15]));
    let binary = get(&anybody, &format!("{url}/_history/1"), &[("accept", "application/fhir+json")]).await;
    let binary: Value = serde_json::from_slice(&binary.body).unwrap();
    assert_eq!(binary["resourceType"], "Binary");
    assert_eq!(database.count("export_job where state = 'running'").await, 1);
    // And it is the same when all are done (C11).
    release(&database, "true").await;
    job.completed().await;
    let later = get(&anybody, &url, &[]).await;
    assert_eq!((later.header("etag"), &later.body), (whole.header("etag"), &whole.body));
}

// A8, F15, I5
#[tokio::test]
async fn only_its_owner_gets_it_and_only_with_the_right_to_it() {
    let (database, issuer, server) = set_up().await;
    database.hold_parts().await;
    let alice = server.with_token(&issuer.ehealth_token("alice", &ROLES));
    let job = alice.kick_off(WITH_DELETIONS).await;
    release(&database, "stage = 'output'").await;
    let manifest = partial(&alice, &job.url).await;
    let files = files(&manifest);
    assert_eq!((files.len(), &manifest["output"][0]["type"]), (2, &json!("Patient")));
    let bob = server.with_token(&issuer.ehealth_token("bob", &ROLES));
    for request in calls(&bob, &job, &files[0]) {
        bob.refused(request, 404).await;
    }
    bob.refused(bob.get(&format!("{}&page=2", job.url)), 404).await;
    let fewer = ["$bulk-export", "Binary.read", "Task.*"];
    let alice_with_fewer = server.with_token(&issuer.ehealth_token("alice", &fewer));
    alice_with_fewer.refused(alice_with_fewer.get(&files[0]), 403).await;
    assert!(!alice_with_fewer.download(&files[1]).await.is_empty());
    assert!(!alice.download(&files[0]).await.is_empty());
}

// G11
#[tokio::test]
async fn without_it_nothing_is_told_or_had_before_the_end() {
    let database = held(100).await;
    let server = Server::start_with(&database, &[SMALL_FILES]).await;
    let anybody = server.anybody();
    for query in ["", "&allowPartialManifests=false"] {
        let job = anybody.kick_off(&format!("?_type=Patient{query}")).await;
        release(&database, "ordinal = 0").await;
        expect_nothing(&anybody, &job.url).await;
        anybody.refused(anybody.get(&format!("{}&page=2", job.url)), 404).await;
        let of_job = "select id from binary_file where job_id = $1::uuid limit 1";
        let id: String = sqlx::query_scalar(of_job).bind(job.id()).fetch_one(&database.pool).await.unwrap();
        anybody.refused(anybody.get(&format!("/Binary/{id}")), 404).await;
        release(&database, "true").await;
        let manifest = job.completed().await;
        assert_eq!(next(&manifest.json), None);
        assert_eq!(manifest.resources().await.len(), 100);
        assert!(!anybody.download(&format!("/Binary/{id}")).await.is_empty());
    }
}

// G11, G18
#[tokio::test]
async fn it_is_true_or_false_and_given_once() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    for bad in ["=yes", "=", "=1", "=true&allowPartialManifests=true"] {
        let export = anybody.export(&format!("?allowPartialManifests{bad}")).header("prefer", "handling=lenient");
        let said = anybody.refused(export, 400).await;
        assert!(said.contains("allowPartialManifests"), "{said}");
    }
    let parameter = json!({ "name": "allowPartialManifests", "valueBoolean": true });
    let parameters = json!({ "resourceType": "Parameters", "parameter": [parameter] });
    anybody.accepted(anybody.export_by_post(&parameters.to_string())).await;
    for path in ["/Patient/$export", "/Patient/$export?patient=p"] {
        database.put_patients(1).await;
        database.put(&[r#"{"resourceType":"Patient","id":"p"}"#]).await;
        let sign = if path.contains('?') { '&' } else { '?' };
        anybody.accepted(anybody.export_at(&format!("{path}{sign}allowPartialManifests=true"))).await;
    }
    let allowed = "export_job where (request ->> 'partial_manifests')::boolean";
    assert_eq!(database.count(allowed).await, 3);
}

// C11: one manifest where none was told before
#[tokio::test]
async fn an_export_that_was_not_polled_while_it_ran_has_one_manifest() {
    let database = Database::create().await;
    database.put_patients(100).await;
    let server = Server::start_with(&database, &[SMALL_FILES]).await;
    let anybody = server.anybody();
    let job = anybody.kick_off(QUERY).await;
    eventually("it is complete", || async { database.count("export_job where state = 'completed'").await == 1 }).await;
    let manifest = job.completed().await;
    assert!(files(&manifest.json).len() > 2 && next(&manifest.json).is_none());
    assert_eq!(pages(&anybody, &job).await, std::slice::from_ref(&manifest.json));
    assert_eq!(manifest.resources().await.len(), 100);
    anybody.refused(anybody.get(&format!("{}&page=2", job.url)), 404).await;
    let nothing = anybody.kick_off("?_type=Task&allowPartialManifests=true").await.completed().await;
    assert_eq!((files(&nothing.json).len(), next(&nothing.json)), (0, None));
}

// C11
#[tokio::test]
async fn a_page_without_a_file_is_never_made() {
    let database = held(3).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let job = anybody.kick_off(WITH_DELETIONS).await;
    release(&database, "stage = 'output'").await;
    let page = partial(&anybody, &job.url).await;
    assert_eq!((files(&page).len(), &page["deleted"]), (1, &json!([])));
    expect_nothing(&anybody, &format!("{}&page=2", job.url)).await;
    release(&database, "true").await;
    assert_eq!(job.completed().await.json, page, "what came last had no file");
    anybody.refused(anybody.get(&format!("{}&page=2", job.url)), 404).await;
}

// C11: what is on a page is decided once, whoever asks for it, and for good
#[tokio::test]
async fn polls_at_once_and_after_a_crash_get_the_same_page() {
    let database = held(300).await;
    let mut servers = Vec::new();
    for _ in 0..2 {
        servers.push(Server::start_with(&database, &[SMALL_FILES, ("http.public_base_url", "https://x/fhir")]).await);
    }
    let callers: Vec<_> = servers.iter().map(|server| Caller::new(&server.address(), None)).collect();
    let job = callers[0].kick_off(QUERY).await;
    let query = job.url.strip_prefix("https://x/fhir").unwrap();
    for page in 1..=2 {
        // Five at a time, before, while and after parts are done.
        let which = format!("ordinal = {}", page * 2);
        let polls: Vec<_> = (0..20)
            .map(|n| {
                let (caller, url) = (callers[n % 2].clone(), format!("{query}&page={page}"));
                tokio::spawn(async move {
                    let mut answers = Vec::new();
                    for _ in 0..2 {
                        tokio::time::sleep(Duration::from_millis(u64::try_from(n / 5).unwrap() * 30)).await;
                        answers.push(poll(&caller, &url).await);
                    }
                    answers
                })
            })
            .collect();
        release(&database, &which).await;
        release(&database, &format!("ordinal = {}", page * 2 - 1)).await;
        let mut told = Vec::new();
        for poll in polls {
            told.extend(poll.await.unwrap());
        }
        assert!(told.iter().all(|answer| answer.status == 202));
        let found = without_link(&partial(&callers[0], &format!("{query}&page={page}")).await);
        for answer in told.iter().filter(|answer| !answer.body.is_empty()) {
            assert_eq!(without_link(&json(answer)), found);
        }
    }
    let before: Vec<_> = [partial(&callers[0], query).await, partial(&callers[1], &format!("{query}&page=2")).await]
        .iter()
        .map(without_link)
        .collect();
    for server in &servers {
        server.signal(Signal::KILL);
    }
    let other = Server::start_with(&database, &[("http.public_base_url", "https://x/fhir")]).await;
    let caller = Caller::new(&other.address(), None);
    let after: Vec<_> = [partial(&caller, query).await, partial(&caller, &format!("{query}&page=2")).await]
        .iter()
        .map(without_link)
        .collect();
    assert_eq!(before, after);
}

/// A poll of the first page that waits for the job's row, after so many others.
async fn waiting(database: &Database, caller: &Caller, job: &Job, others: i64) -> JoinHandle<Answer> {
    let poll = tokio::spawn(send(caller.get(&job.url)));
    let waiting = "pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
        and query like '-- export.page.close%'";
    eventually("it waits", || async { database.count(waiting).await == others + 1 }).await;
    poll
}

// C11: two want to close a page, and the second knows of more files than the first
#[tokio::test]
async fn who_closes_a_page_second_changes_nothing() {
    let database = held(100).await;
    let server = Server::start_with(&database, &[SMALL_FILES]).await;
    let job = server.anybody().kick_off(QUERY).await;
    release(&database, "ordinal = 0").await;
    let mut lock = database.pool.begin().await.unwrap();
    sqlx::query("select from export_job for no key update").execute(&mut *lock).await.unwrap();
    let first = waiting(&database, &server.anybody(), &job, 0).await;
    let one_more =
        "insert into binary_file (id, job_id, part, ordinal, kind, resource_type, resources, bytes, crc32, sha256,
            deflated_bytes)
        select 'more', job_id, part, 99, kind, resource_type, resources, bytes, crc32, sha256, deflated_bytes
        from binary_file where ordinal = 0";
    database.execute(one_more).await;
    let second = waiting(&database, &server.anybody(), &job, 1).await;
    lock.commit().await.unwrap();
    let (first, second) = (json(&first.await.unwrap()), json(&second.await.unwrap()));
    assert_eq!(without_link(&first), without_link(&second));
    assert!(!files(&first).iter().any(|file| file.ends_with("/more")));
    assert!(next(&second).is_some());
    assert_eq!(database.count("export_job where pages = 1").await, 1);
}

// C11: one wants to close a page, and the last part is done
#[tokio::test]
async fn no_page_is_closed_of_a_job_that_is_complete() {
    let database = held(100).await;
    let server = Server::start_with(&database, &[SMALL_FILES]).await;
    let job = server.anybody().kick_off(QUERY).await;
    release(&database, "ordinal = 0").await;
    let mut last_part = database.pool.begin().await.unwrap();
    sqlx::query("select from export_job for no key update").execute(&mut *last_part).await.unwrap();
    let poll = waiting(&database, &server.anybody(), &job, 0).await;
    let complete = "update export_job set state = 'completed', finished_at = clock_timestamp(),
        expires_at = clock_timestamp() + interval '1 hour'";
    sqlx::query(complete).execute(&mut *last_part).await.unwrap();
    last_part.commit().await.unwrap();
    let manifest = job.completed().await.json;
    assert_eq!(next(&manifest), None);
    // What is told is the whole, a moment before it is said to be so.
    assert_eq!(json(&poll.await.unwrap()), manifest);
    assert_eq!(database.count("export_job where pages = 0").await, 1);
}

/// A client that follows the links at moments of chance; what every page was when anybody saw it first is in `seen`.
async fn follow(
    caller: Caller,
    first: String,
    mut chance: u64,
    seen: Arc<Mutex<BTreeMap<String, Value>>>,
) -> Vec<String> {
    let mut found = Vec::new();
    let mut url = first;
    let mut has_link = false;
    loop {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        tokio::time::sleep(Duration::from_millis((chance >> 33) % 400)).await;
        // Links name the public base, behind which this client has its own replica.
        let answer = poll(&caller, url.strip_prefix("https://x/fhir").unwrap()).await;
        match answer.status {
            429 => continue,
            202 if answer.body.is_empty() => continue,
            status => assert!(matches!(status, 200 | 202), "{status}"),
        }
        let page = json(&answer);
        let known = seen.lock().unwrap().entry(url.clone()).or_insert_with(|| without_link(&page)).clone();
        assert_eq!(without_link(&page), known, "a page never changes");
        assert!(next(&page).is_some() || !has_link, "a link stays");
        has_link = next(&page).is_some();
        // Now and then another look at the same page.
        if chance.is_multiple_of(4) {
            continue;
        }
        match next(&page) {
            Some(next) => {
                found.extend(files(&page));
                (url, has_link) = (next, false);
            }
            None if answer.status == 200 => {
                found.extend(files(&page));
                return found;
            }
            None => {}
        }
    }
}

// C11, E11
#[tokio::test]
async fn whenever_it_is_polled_who_follows_the_links_gets_every_file_once() {
    let database = held(400).await;
    let settings = [("export.file_target", "1KiB"), ("export.lease", "1s"), ("http.public_base_url", "https://x/fhir")];
    let servers = [Server::start_with(&database, &settings).await, Server::start_with(&database, &settings).await];
    let doomed = Server::start_with(&database, &settings).await;
    let job = Caller::new(&servers[0].address(), None).kick_off(QUERY).await;
    let seed = uuid::Uuid::new_v4().as_u64_pair().0;
    let seen = Arc::new(Mutex::new(BTreeMap::new()));
    let clients: Vec<_> = (0..6)
        .map(|n| {
            let caller = Caller::new(&servers[n % 2].address(), None);
            tokio::spawn(follow(caller, job.url.clone(), seed.wrapping_add(n as u64), Arc::clone(&seen)))
        })
        .collect();
    release(&database, "false").await;
    let parts = database.count("export_part").await;
    assert!(parts > 30, "{parts}");
    for part in 0..parts {
        database
            .execute(&format!(
                "update export_part set not_before = '-infinity' where ordinal = {part}; notify export_work"
            ))
            .await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        if part == parts / 2 {
            doomed.signal(Signal::KILL);
        }
    }
    for client in clients {
        let found = client.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        expect_each_once(&database, &servers[0], found).await;
    }
    let pages = seen.lock().unwrap().len();
    assert!(pages > 2, "it was told in parts");
    assert_eq!(i64::try_from(pages).unwrap(), database.count("(select distinct page from binary_file) as pages").await);
}

// C6, D7
#[tokio::test]
async fn of_a_failed_export_nothing_can_be_had_any_more() {
    let database = held(100).await;
    let settings = [SMALL_FILES, ("export.attempts", "1"), ("retention.sweep", "100ms")];
    let server = Server::start_with(&database, &settings).await;
    let anybody = server.anybody();
    let job = anybody.kick_off(QUERY).await;
    release(&database, "ordinal = 0").await;
    let url = files(&partial(&anybody, &job.url).await).remove(0);
    assert!(!anybody.download(&url).await.is_empty());
    database.execute("update binary_file set held_until = null").await;
    database.execute("alter table binary_chunk add constraint broken check (octet_length(data) < 0) not valid").await;
    database.execute("update export_part set not_before = '-infinity'; notify export_work").await;
    eventually("it fails", || async { job.poll().await.status() == 500 }).await;
    anybody.refused(anybody.get(&format!("{}&page=2", job.url)), 500).await;
    anybody.refused(anybody.get(&format!("{}&page=3", job.url)), 404).await;
    anybody.refused(anybody.get(&url), 404).await;
    eventually("its files are gone", || async { database.count("binary_file").await == 0 }).await;
}

// D4, D7, D8
#[tokio::test]
async fn a_cancel_takes_all_but_a_file_that_is_being_downloaded() {
    let database = Database::create().await;
    put_mebibytes(&database, 24).await;
    database.hold_parts().await;
    let server = Server::start_with(&database, &[("retention.sweep", "100ms")]).await;
    let anybody = server.anybody();
    let job = anybody.kick_off(WITH_DELETIONS).await;
    release(&database, "stage = 'output'").await;
    let url = files(&partial(&anybody, &job.url).await).remove(0);
    let mut slow = anybody.get(&url).send().await.unwrap();
    let length = slow.content_length().unwrap();
    let mut received = slow.chunk().await.unwrap().unwrap().len() as u64;
    assert_eq!(job.delete().await.status(), 202);
    for page in ["", "&page=1", "&page=2"] {
        anybody.refused(anybody.get(&format!("{}{page}", job.url)), 404).await;
    }
    anybody.refused(anybody.get(&url), 404).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(database.count("binary_chunk").await > 0, "the reaper leaves it alone");
    while let Some(chunk) = slow.chunk().await.unwrap() {
        received += chunk.len() as u64;
    }
    assert_eq!(received, length, "the download is whole");
    database.execute("update binary_file set held_until = clock_timestamp()").await;
    eventually("it goes", || async { database.count("binary_file").await == 0 }).await;
}

// A20, C12, E1-E16: in the form of each dialect, also apart from the status and after a wait
#[tokio::test]
async fn a_partial_manifest_has_the_form_of_its_dialect() {
    let dialects = [
        ("stu3", include_str!("schemas/stu3.json")),
        ("stu4", include_str!("schemas/stu4.json")),
        ("ehealth", include_str!("schemas/ehealth.json")),
    ];
    for (dialect, schema) in dialects {
        let schema = Schema::parse(schema);
        let database = held(100).await;
        let server = Server::start_with(&database, &[SMALL_FILES, ("wire.dialect", dialect)]).await;
        let anybody = server.anybody();
        // What is left out is told on the first page.
        let kick_off = anybody.export(&format!("{QUERY}&_unknown=1"));
        let kick_off = kick_off.header("prefer", "separate-export-status").header("prefer", "handling=lenient");
        let job = anybody.accepted(kick_off).await;
        release(&database, "false").await;
        let remark = json(&poll(&anybody, &job.url).await);
        assert_eq!((files(&remark).len(), &remark["output"]), (1, &json!([])), "{dialect}");
        assert_eq!(schema.problems(&remark), [""; 0], "{dialect}");
        release(&database, "ordinal in (0, 1)").await;
        for headers in [&[][..], &[("prefer", "wait=1")]] {
            let answer = get(&anybody, &job.url, headers).await;
            assert_eq!((answer.status, answer.header("x-export-status")), (200, Some("202 Accepted")));
            let linked = json(&answer);
            assert_eq!(schema.problems(&linked), [""; 0], "{dialect}");
            assert_eq!((without_link(&linked), next(&linked)), (remark.clone(), Some(format!("{}&page=2", job.url))));
        }
        let second = poll(&anybody, &format!("{}&page=2", job.url)).await;
        assert_eq!((second.status, second.header("x-export-status")), (200, Some("202 Accepted")));
        let second = json(&second);
        assert_eq!(schema.problems(&second), [""; 0], "{dialect}");
        assert_eq!(common(&second), common(&remark), "{dialect}");
        release(&database, "true").await;
        let waited = get(&anybody, &format!("{}&page=2", job.url), &[("prefer", "wait=25")]).await;
        assert_eq!((waited.status, waited.header("x-export-status")), (200, Some("200 OK")));
        let pages = pages(&anybody, &job).await;
        assert_eq!((pages.len(), &without_link(&pages[1])), (3, &second), "{dialect}");
        expect_each_once(&database, &server, pages.iter().flat_map(files).collect()).await;
    }
}
