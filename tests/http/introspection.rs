//! Opaque tokens: their issuer is asked about them, and not more often than need be (rule I23).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};

use crate::support::smart::now;
use crate::support::{Caller, Database, Issuer, Server, eventually};

const SECRET: &str = "p%s w:471147";

/// An introspection endpoint that counts the questions.
#[derive(Clone, Default)]
struct Introspector {
    /// What it says of each token.
    tokens: Arc<Mutex<HashMap<String, Value>>>,
    questions: Arc<AtomicUsize>,
    under_way: Arc<AtomicUsize>,
    most_under_way: Arc<AtomicUsize>,
    is_away: Arc<Mutex<bool>>,
    delay: Arc<Mutex<Duration>>,
}

impl Introspector {
    /// Starts it; gives its URL.
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/introspect", listener.local_addr().unwrap());
        let router = Router::new().route("/introspect", post(answer)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    fn says(&self, token: &str, claims: Value) {
        self.tokens.lock().unwrap().insert(token.to_owned(), claims);
    }

    fn asked(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

async fn answer(State(state): State<Introspector>, headers: HeaderMap, body: String) -> Response {
    state.questions.fetch_add(1, Ordering::SeqCst);
    let under_way = state.under_way.fetch_add(1, Ordering::SeqCst) + 1;
    state.most_under_way.fetch_max(under_way, Ordering::SeqCst);
    let delay = *state.delay.lock().unwrap();
    tokio::time::sleep(delay).await;
    state.under_way.fetch_sub(1, Ordering::SeqCst);
    if *state.is_away.lock().unwrap() {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    // RFC 6749, 2.3.1: encoded as in a form, and then as Basic has it: `bulk:p%25s+w%3A471147`.
    assert_eq!(headers["authorization"], "Basic YnVsazpwJTI1cyt3JTNBNDcxMTQ3");
    assert_eq!(headers["accept"], "application/json");
    assert_eq!(headers["content-type"], "application/x-www-form-urlencoded");
    let form: HashMap<String, String> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let claims = state.tokens.lock().unwrap().get(&form["token"]).cloned();
    claims.unwrap_or(json!({ "active": false })).to_string().into_response()
}

/// The settings of a server that asks there about tokens of this issuer.
fn asking(issuer: &Issuer, url: &str, profile: &str) -> Vec<(&'static str, String)> {
    let introspection = format!("{{ url = \"{url}\", client_id = \"bulk\", client_secret = \"{SECRET}\" }}");
    let table = format!(
        "[{{ issuer = \"{}\", audience = [\"fhir\"], profile = \"{profile}\", introspection = {introspection} }}]",
        issuer.url()
    );
    vec![("auth.mode", "token".to_owned()), ("auth.issuers", table)]
}

async fn set_up(profile: &str) -> (Database, Issuer, Introspector, Server) {
    let database = Database::create().await;
    database.put(&[r#"{"resourceType":"Patient","id":"p"}"#, r#"{"resourceType":"Task","id":"t"}"#]).await;
    let issuer = Issuer::start().await;
    let introspector = Introspector::default();
    let url = introspector.start().await;
    let server = Server::start_with(&database, &asking(&issuer, &url, profile)).await;
    (database, issuer, introspector, server)
}

fn good() -> Value {
    json!({ "active": true, "scope": "system/Patient.rs", "client_id": "lab", "exp": now() + 300 })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = good();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = good();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

async fn status(caller: &Caller) -> u16 {
    caller.get("/$export-poll-status?_jobId=x").send().await.unwrap().status().as_u16()
}

// I23
#[tokio::test]
async fn an_issuer_says_what_its_token_is_good_for_and_is_asked_once() {
    let (_database, _issuer, introspector, server) = set_up("smart").await;
    introspector.says("opaque-1", good());
    let caller = server.with_token("opaque-1");
    let resources = caller.kick_off("").await.completed().await.resources().await;
    assert_eq!(resources.into_keys().collect::<Vec<_>>(), ["Patient/p"]);
    caller.refused(caller.export("?_type=Task"), 403).await;
    assert_eq!(introspector.asked(), 1, "for kick-off, polls and downloads together");
    let log = server.log();
    for secret in ["opaque-1", SECRET, "471147"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

// I23: all that is needed must be there, and be for this server
#[tokio::test]
async fn what_is_said_of_a_token_is_checked() {
    let (_database, issuer, introspector, server) = set_up("smart").await;
    let cases = [
        (json!({ "active": false }), 401),
        (json!({ "active": false, "scope": "system/*.rs", "client_id": "lab", "exp": now() + 300 }), 401),
        (without("scope"), 401),
        (without("client_id"), 401),
        (without("exp"), 401),
        (with("exp", json!(now() - 60)), 401),
        (with("exp", json!("tomorrow")), 401),
        (with("exp", json!(1e300)), 401),
        (with("nbf", json!(now() + 120)), 401),
        (with("iss", json!("https://other.example")), 401),
        (with("aud", json!("other")), 401),
        (with("aud", json!(["other"])), 401),
        (with("client_id", json!("a\nb")), 401),
        (with("scope", json!("openid")), 403),
        (good(), 202),
        (with("iss", json!(issuer.url())), 202),
        (with("aud", json!("fhir")), 202),
        (with("aud", json!(["other", "fhir"])), 202),
        // No answer is no judgement.
        (json!({ "active": "true" }), 503),
        (json!({ "scope": "system/*.rs" }), 503),
        (json!([]), 503),
    ];
    for (n, (claims, expected)) in cases.iter().enumerate() {
        let token = format!("opaque-{n}");
        introspector.says(&token, claims.clone());
        let found = server.with_token(&token).export("").send().await.unwrap();
        assert_eq!(found.status(), *expected, "{claims}");
        assert_eq!(found.headers().contains_key("www-authenticate"), [401, 403].contains(expected), "{claims}");
        assert_eq!(found.headers().contains_key("retry-after"), *expected == 503, "{claims}");
    }
}

// I23, A32: the other profile
#[tokio::test]
async fn the_claims_of_the_ehealth_profile_may_come_so_too() {
    let (_database, issuer, introspector, server) = set_up("ehealth").await;
    let roles = ["$bulk-export", "Task.search", "Binary.read"];
    let mut claims = with("scope", json!("email profile"));
    claims["user_type"] = json!("SYSTEM");
    claims["user_id"] = json!("alice");
    claims["realm_access"] = json!({ "roles": roles });
    introspector.says("opaque", claims.clone());
    let job = server.with_token("opaque").kick_off("").await;
    assert_eq!(job.completed().await.resources().await.into_keys().collect::<Vec<_>>(), ["Task/t"]);
    // She is who she is, by whichever token of the issuer.
    let by_jwt = server.with_token(&issuer.ehealth_token("alice", &roles));
    assert_eq!(by_jwt.get(&job.url).send().await.unwrap().status(), 200);
    claims["user_type"] = json!("PATIENT");
    introspector.says("patient", claims);
    let patient = server.with_token("patient");
    patient.refused(patient.export(""), 403).await;
}

// I23: garbage, and what is a JWT
#[tokio::test]
async fn nobody_is_asked_about_what_cannot_be_a_token_of_theirs() {
    let (_database, issuer, introspector, server) = set_up("smart").await;
    let stranger = Issuer::start().await;
    let long = "a".repeat(5_000);
    let jwt = stranger.token(&json!({ "client_id": "lab", "scope": "system/*.rs" }));
    // {"alg":"none"}
    for token in [jwt.as_str(), "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJub25lIn0.e30.x.y.z", "a b", "a\"b", "=", &long]
    {
        let caller = server.with_token(token);
        caller.refused(caller.export(""), 401).await;
    }
    assert_eq!(introspector.asked(), 0);
    // A JWT of the issuer needs no question.
    server.with_token(&issuer.token(&json!({ "client_id": "lab", "scope": "system/*.rs" }))).kick_off("").await;
    assert_eq!(introspector.asked(), 0);
    // The same garbage is asked about once.
    for _ in 0..5 {
        assert_eq!(status(&server.with_token("garbage")).await, 401);
    }
    assert_eq!(introspector.asked(), 1);
}

// I23: nobody can set the server on the issuer
#[tokio::test]
async fn only_so_many_questions_are_under_way() {
    let (_database, _issuer, introspector, server) = set_up("smart").await;
    *introspector.delay.lock().unwrap() = Duration::from_millis(100);
    let garbage = (0..60).map(|n| {
        let caller = server.with_token(&format!("garbage-{n}"));
        async move { status(&caller).await }
    });
    for status in futures_util::future::join_all(garbage).await {
        assert!([401, 503].contains(&status), "{status}");
    }
    let most = introspector.most_under_way.load(Ordering::SeqCst);
    assert!((1..=16).contains(&most), "{most} at once");
}

// I23: garbage does not stand in the way of whoever comes again
#[tokio::test]
async fn a_token_that_was_good_does_not_wait_behind_garbage() {
    let (_database, _issuer, introspector, server) = set_up("smart").await;
    // Clocks may differ by 30 seconds.
    let ends = now() - 26;
    introspector.says("known", with("exp", json!(ends)));
    let known = server.with_token("known");
    assert_eq!(status(&known).await, 404);
    introspector.says("known", good());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(introspector.asked(), 1);
    *introspector.delay.lock().unwrap() = Duration::from_secs(4);
    let garbage: Vec<_> = (0..60)
        .map(|n| {
            let caller = server.with_token(&format!("garbage-{n}"));
            tokio::spawn(async move { status(&caller).await })
        })
        .collect();
    eventually("the issuer is asked about garbage", || async { introspector.asked() >= 12 }).await;
    assert_eq!(status(&known).await, 404);
    for garbage in garbage {
        assert!([401, 503].contains(&garbage.await.unwrap()));
    }
}

// I23: an answer is not without end, and a failure is not asked for again at once
#[tokio::test]
async fn what_is_no_answer_is_remembered_a_moment_and_logged_once() {
    let (_database, _issuer, introspector, server) = set_up("smart").await;
    introspector.says("long", with("x", json!("x".repeat(70_000))));
    let long = server.with_token("long");
    for _ in 0..10 {
        assert_eq!(status(&long).await, 503);
    }
    let asked = introspector.asked();
    assert!((1..10).contains(&asked), "{asked}");
    *introspector.is_away.lock().unwrap() = true;
    for n in 0..10 {
        assert_eq!(status(&server.with_token(&format!("opaque-{n}"))).await, 503);
    }
    let said = server.log().matches("cannot be asked about tokens").count();
    assert!((1..10).contains(&said), "{said}");
}

// C7
#[tokio::test]
async fn an_issuer_that_is_away_is_a_temporary_failure() {
    let (_database, _issuer, introspector, server) = set_up("smart").await;
    introspector.says("known", good());
    let known = server.with_token("known");
    assert_eq!(status(&known).await, 404);
    *introspector.is_away.lock().unwrap() = true;
    introspector.says("later", good());
    let later = server.with_token("later");
    let text = later.refused(later.export(""), 503).await;
    assert!(text.starts_with("transient: "), "{text}");
    assert_eq!(status(&known).await, 404, "what it has said is remembered");
    *introspector.is_away.lock().unwrap() = false;
    eventually("it is asked again", || async { status(&later).await == 404 }).await;
}
