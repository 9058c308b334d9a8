//! Every route and every kind of caller, from one table: what each is answered. A route without a row fails (rules I1, I2,
//! I5, A29 to A35; RFC 8725).

use std::collections::BTreeMap;

use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::support::secured::PATIENT;
use crate::support::smart::{SmartClient, now, registering};
use crate::support::{Caller, Database, Issuer, Job, Server};

const ROLES: [&str; 4] = ["$bulk-export", "Binary.read", "Patient.search", "Group.search"];
const GROUP: &str = r#"{"resourceType":"Group","id":"g","type":"person","actual":true,"member":[{"entity":{"reference":"Patient/p"}}]}"#;

/// Who calls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Who {
    /// Has no token, or one that is not good.
    Nobody,
    /// A kind of user that is not let in.
    WrongKind,
    /// The owner of the export, with a token without any role.
    NoRole,
    /// Another user who may do everything.
    Other,
    /// Another client, whose scopes give it parts of types.
    Limited,
    /// Who started the export.
    Owner,
}

use Who::{Limited, NoRole, Nobody, Other, Owner, WrongKind};

/// What each is answered.
type Row = (&'static str, &'static str, [(Who, u16); 6]);

const fn row(method: &'static str, path: &'static str, answers: [u16; 6]) -> Row {
    let [nobody, wrong_kind, no_role, other, limited, owner] = answers;
    let of_others = [(Other, other), (Limited, limited)];
    let answers =
        [(Nobody, nobody), (WrongKind, wrong_kind), (NoRole, no_role), of_others[0], of_others[1], (Owner, owner)];
    (method, path, answers)
}

const TABLE: [Row; 18] = [
    // nobody, wrong kind, no role, other, limited, owner
    row("GET", "/fhir/$export", [401, 403, 403, 202, 202, 202]),
    row("POST", "/fhir/$export", [401, 403, 403, 202, 202, 202]),
    row("GET", "/fhir/Patient/$export", [401, 403, 403, 202, 202, 202]),
    row("POST", "/fhir/Patient/$export", [401, 403, 403, 202, 202, 202]),
    row("GET", "/fhir/Patient/{id}/$export", [401, 403, 403, 202, 403, 202]),
    row("POST", "/fhir/Patient/{id}/$export", [401, 403, 403, 202, 403, 202]),
    row("GET", "/fhir/Group/{id}/$export", [401, 403, 403, 202, 403, 202]),
    row("POST", "/fhir/Group/{id}/$export", [401, 403, 403, 202, 403, 202]),
    row("GET", "/fhir/$export-poll-status", [401, 403, 403, 404, 404, 200]),
    row("POST", "/fhir/$export-poll-status", [401, 403, 403, 404, 404, 200]),
    // Who has lost the right to read may still have it removed.
    row("DELETE", "/fhir/$export-poll-status", [401, 403, 202, 404, 404, 202]),
    row("GET", "/fhir/Binary/{id}", [401, 403, 403, 404, 404, 200]),
    row("GET", "/fhir/Binary/{id}/_history/{version}", [401, 403, 403, 404, 404, 200]),
    // What the server can do is no secret.
    row("GET", "/fhir/metadata", [200; 6]),
    row("GET", "/fhir/OperationDefinition/{id}", [200; 6]),
    row("GET", "/fhir/.well-known/smart-configuration", [200; 6]),
    row("GET", "/auth/jwks", [200; 6]),
    // Who asks for a token shows who it is in the body, and here shows nothing.
    row("POST", "/auth/token", [400; 6]),
];

/// What a caller sends as `Authorization`.
struct Kind {
    name: &'static str,
    who: Who,
    authorization: Option<String>,
}

/// Those with tokens of the server's own.
async fn clients(scene: &Scene) -> Vec<Kind> {
    let Scene { client, server, stranger, smart, .. } = scene;
    let bearer = |token: String| Some(format!("Bearer {token}"));
    let own = json!({ "iss": format!("{}/auth", server.address()), "sub": client.id, "client_id": client.id,
        "aud": server.base, "scope": "system/*.rs" });
    let kinds = vec![
        ("a client that may have all", Other, client.token(server, "system/*.rs").await),
        (
            "a client that asks for a part",
            Limited,
            client.token(server, "system/Patient.rs?_id=p system/Group.rs?_id=g").await,
        ),
        (
            "a client of another issuer",
            Other,
            smart.token(&json!({ "client_id": client.id, "scope": "system/*.read" })),
        ),
        (
            "a client of another issuer with a part",
            Limited,
            smart.token(&json!({ "sub": "s", "scope": "system/Patient.rs?_id=p" })),
        ),
        ("an assertion of a client", Nobody, client.assertion(server)),
        ("a token that a client has made", Nobody, client.sign(&client.header(), &with_end(&own))),
        ("a token of the server's, by a stranger", Nobody, stranger.token(&own)),
        ("a token of the server's, unsigned", Nobody, stranger.unsigned(&own, "none")),
    ];
    kinds.into_iter().map(|(name, who, token)| Kind { name, who, authorization: bearer(token) }).collect()
}

fn with_end(claims: &Value) -> Value {
    let mut claims = claims.clone();
    claims["exp"] = json!(now() + 300);
    claims
}

/// Every kind of caller; a token of each is fresh.
fn kinds(issuer: &Issuer, stranger: &Issuer) -> Vec<Kind> {
    let user = |user: &str, user_type: &str, roles: &[&str], more: Value| {
        let mut claims = json!({ "user_id": user, "user_type": user_type, "realm_access": { "roles": roles } });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims
    };
    let alice_but = |more: Value| user("alice", "SYSTEM", &ROLES, more);
    let alice = || alice_but(json!({}));
    let injected = |kid: &str| issuer.forged(&alice(), |header, _| header.kid = Some(kid.to_owned()));
    let bearer = |name, token: String| (name, Nobody, Some(format!("Bearer {token}")));
    let public = |secret: fn(&Value) -> Vec<u8>| issuer.signed_with_the_public_key(&alice(), secret);
    let mut altered = issuer.token(&user("bob", "SYSTEM", &ROLES, json!({})));
    let parts: Vec<_> = altered.split('.').map(str::to_owned).collect();
    let others: Vec<_> = issuer.token(&alice()).split('.').map(str::to_owned).collect();
    altered = [&parts[0], &others[1], &parts[2]].map(String::as_str).join(".");
    let let_in = |name, who, claims: &Value| (name, who, Some(format!("Bearer {}", issuer.token(claims))));
    let kinds = vec![
        ("no header", Nobody, None),
        ("an empty header", Nobody, Some(String::new())),
        ("no scheme", Nobody, Some(issuer.token(&alice()))),
        ("Basic", Nobody, Some("Basic YWxpY2U6c2VjcmV0".to_owned())),
        bearer("an empty token", String::new()),
        bearer("garbage", "garbage".to_owned()),
        bearer("garbage in three parts", "a.b.c".to_owned()),
        bearer("two tokens", format!("{} {}", issuer.token(&alice()), issuer.token(&alice()))),
        bearer("expired", issuer.token(&alice_but(json!({ "exp": 1_700_000_000 })))),
        bearer("without an end", issuer.token(&alice_but(json!({ "exp": null })))),
        bearer("of the future", issuer.token(&alice_but(json!({ "nbf": 4_000_000_000_u64 })))),
        bearer("of a stranger", stranger.token(&alice())),
        bearer("of a stranger as the issuer", stranger.token(&alice_but(json!({ "iss": issuer.url() })))),
        bearer("of the issuer as a stranger", issuer.token(&alice_but(json!({ "iss": stranger.url() })))),
        bearer("for another audience", issuer.token(&alice_but(json!({ "aud": "another" })))),
        bearer("for no audience", issuer.token(&alice_but(json!({ "aud": null })))),
        bearer("for an empty list of audiences", issuer.token(&alice_but(json!({ "aud": [] })))),
        bearer("alg none", issuer.unsigned(&alice(), "none")),
        bearer("alg nOnE", issuer.unsigned(&alice(), "nOnE")),
        bearer("an unsigned ES256", issuer.unsigned(&alice(), "ES256")),
        bearer("HS256 with the public JWK", public(|jwk| jwk.to_string().into_bytes())),
        bearer("HS256 with the public x", public(|jwk| jwk["x"].as_str().unwrap().as_bytes().to_vec())),
        bearer("HS256 with nothing", public(|_| Vec::new())),
        bearer("signed by another key", issuer.forged(&alice(), |_, _| ())),
        bearer("kid of a file", injected("../../../../../dev/null")),
        bearer("kid of SQL", injected("x' union select 'key' --")),
        bearer("kid of a URL", injected(&format!("{}/certs", stranger.url()))),
        bearer("kid of a command", injected("| id")),
        bearer("an empty kid", injected("")),
        bearer("no kid, another key", issuer.forged(&alice(), |header, _| header.kid = None)),
        bearer("an embedded key", issuer.forged(&alice(), |header, jwk| header.jwk = Some(jwk))),
        bearer(
            "jku of another server",
            issuer.forged(&alice(), |header, _| header.jku = Some(format!("{}/certs", stranger.url()))),
        ),
        bearer(
            "x5u of another server",
            issuer.forged(&alice(), |header, _| header.x5u = Some(format!("{}/certs", stranger.url()))),
        ),
        bearer("a critical extension", issuer.token_with(&alice(), |header| header.crit = Some(vec!["exp".into()]))),
        bearer("a token of another kind", issuer.token_with(&alice(), |header| header.typ = Some("logout+jwt".into()))),
        bearer("the claims of another token", altered),
        bearer(
            "a user without a name",
            issuer.token(&json!({ "user_type": "SYSTEM", "realm_access": { "roles": ROLES } })),
        ),
        let_in("a patient", WrongKind, &user("alice", "PATIENT", &ROLES, json!({}))),
        let_in("a practitioner", WrongKind, &user("alice", "PRACTITIONER", &ROLES, json!({}))),
        let_in("no kind of user", WrongKind, &user("alice", "", &ROLES, json!({}))),
        let_in("no role", NoRole, &user("alice", "SYSTEM", &[], json!({}))),
        let_in(
            "roles that permit nothing",
            NoRole,
            &user("alice", "SYSTEM", &["$export", "offline_access", "*"], json!({})),
        ),
        let_in("another user", Other, &user("bob", "SYSTEM", &ROLES, json!({}))),
        let_in("a user whose name begins the same", Other, &user("alice2", "SYSTEM", &ROLES, json!({}))),
        let_in("a user whose name is written otherwise", Other, &user("Alice", "SYSTEM", &ROLES, json!({}))),
        let_in("the right user", Owner, &alice()),
    ];
    kinds.into_iter().map(|(name, who, authorization)| Kind { name, who, authorization }).collect()
}

/// An export of the owner's.
struct Export {
    job: Job,
    file: String,
}

impl Export {
    async fn of(owner: &Caller) -> Self {
        let job = owner.kick_off("?_type=Patient").await;
        let file = job.completed().await.urls("output").remove(0).rsplit('/').next().unwrap().to_owned();
        Self { job, file }
    }

    /// Where a route leads for this export.
    fn path(&self, route: &str) -> String {
        let id = match route.split('/').nth(2).unwrap_or_default() {
            "Patient" => "p",
            "Group" => "g",
            "OperationDefinition" => "-s-export",
            _ => &self.file,
        };
        let path = route.replace("{id}", id).replace("{version}", "1");
        if route.ends_with("poll-status") { format!("{path}?_jobId={}", self.job.id()) } else { path }
    }
}

struct Scene {
    _database: Database,
    issuer: Issuer,
    stranger: Issuer,
    /// One whose tokens have scopes.
    smart: Issuer,
    client: SmartClient,
    server: Server,
}

impl Scene {
    async fn set() -> Self {
        let database = Database::create().await;
        database.put(&[PATIENT, GROUP]).await;
        let (issuer, stranger) = (Issuer::start().await, Issuer::start().await);
        let client = SmartClient::new("client");
        let smart = Issuer::start().await;
        let mut settings = vec![("auth.mode", "token".to_owned())];
        let line = |issuer: &Issuer, profile| {
            format!("{{ issuer = \"{}\", audience = [\"fhir\"], profile = \"{profile}\" }}", issuer.url())
        };
        settings.push(("auth.issuers", format!("[{}, {}]", line(&issuer, "ehealth"), line(&smart, "smart"))));
        settings.extend(registering(&[client.registered_for(&["system/*.rs"])]));
        for limit in ["export.max_running_per_owner", "export.max_running", "export.max_queued"] {
            settings.push((limit, "10000".to_owned()));
        }
        let server = Server::start_with(&database, &settings).await;
        Self { _database: database, issuer, stranger, smart, client, server }
    }

    fn owner(&self) -> Caller {
        self.server.with_token(&self.issuer.ehealth_token("alice", &ROLES))
    }

    fn request(&self, method: &str, path: &str, authorization: Option<&str>) -> RequestBuilder {
        let base = self.server.base.strip_suffix("/fhir").unwrap();
        let request =
            self.server.anybody().request(Method::from_bytes(method.as_bytes()).unwrap(), &format!("{base}{path}"));
        let request = request.header("accept", "application/fhir+json, application/fhir+ndjson");
        let request = request.header("prefer", "respond-async");
        match authorization {
            Some(authorization) => request.header("authorization", authorization),
            None => request,
        }
    }
}

/// What every answer has, and an error besides.
async fn check(response: Response, what: &str) -> String {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    assert_eq!(header("x-content-type-options"), "nosniff", "{what}");
    if ["/metadata", "/OperationDefinition", "/smart-configuration", "/jwks"].iter().all(|open| !what.contains(open)) {
        assert!(header("cache-control").contains("no-store"), "{what}: {}", header("cache-control"));
    }
    assert!(!headers.contains_key("server"), "{what}");
    let challenge = header("www-authenticate");
    match status {
        401 => assert!(challenge.starts_with(r#"Bearer realm="fhir""#), "{what}: {challenge}"),
        403 => assert!(challenge.contains(r#"error="insufficient_scope""#), "{what}: {challenge}"),
        _ => assert!(challenge.is_empty(), "{what}: {challenge}"),
    }
    let text = response.text().await.unwrap();
    if status >= 400 && !what.starts_with("HEAD") {
        let error: Value = serde_json::from_str(&text).unwrap();
        // RFC 6749, section 5.2
        let is_of_oauth = what.starts_with("POST /auth/token") && error["error"] == "invalid_request";
        assert!(is_of_oauth || error["resourceType"] == "OperationOutcome", "{what}: {text}");
    }
    text
}

// I1, I2, I5, I6, A29, A30, A34, A35
#[tokio::test]
async fn every_caller_gets_what_the_table_says_at_every_route() {
    let scene = Scene::set().await;
    let export = Export::of(&scene.owner()).await;
    let mut kinds = kinds(&scene.issuer, &scene.stranger);
    kinds.extend(clients(&scene).await);
    let (mut cases, mut counts) = (0, BTreeMap::<Who, usize>::new());
    for (method, route, answers) in TABLE {
        for Kind { name, who, authorization } in &kinds {
            let expected = answers.iter().find(|(of, _)| of == who).unwrap().1;
            // One that is deleted is another's no more.
            let export = match (method, expected) {
                ("DELETE", 202) => &Export::of(&scene.owner()).await,
                _ => &export,
            };
            let heads = if method == "GET" { vec!["GET", "HEAD"] } else { vec![method] };
            for method in heads {
                let what = format!("{method} {route} by {name}");
                let request = scene.request(method, &export.path(route), authorization.as_deref());
                let response = request.send().await.unwrap();
                assert_eq!(response.status().as_u16(), expected, "{what}");
                check(response, &what).await;
                cases += 1;
            }
            *counts.entry(*who).or_default() += 1;
        }
    }
    assert_eq!(scene.request("GET", &export.path("/fhir/Binary/{id}"), None).send().await.unwrap().status(), 401);
    println!("{cases} cases; {counts:?}");
    assert!(cases > 1_000);
}

#[test]
fn every_route_has_its_row() {
    let routes = fhir_bulk_export::routes();
    let mut routes: Vec<_> =
        routes.iter().flat_map(|(path, methods)| methods.iter().map(move |method| (*method, *path))).collect();
    let mut rows: Vec<_> = TABLE.iter().map(|(method, path, _)| (*method, *path)).collect();
    routes.sort_unstable();
    rows.sort_unstable();
    assert_eq!(rows, routes);
}

// A method that a route has not is refused, whoever asks
#[tokio::test]
async fn no_route_has_other_methods() {
    let scene = Scene::set().await;
    let export = Export::of(&scene.owner()).await;
    let right = format!("Bearer {}", scene.issuer.ehealth_token("alice", &ROLES));
    for (route, methods) in fhir_bulk_export::routes() {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "PROPFIND", "EXPORT"] {
            let has = |method| methods.contains(&method);
            if has(method) || method == "HEAD" && has("GET") {
                continue;
            }
            for authorization in [None, Some(right.as_str())] {
                let what = format!("{method} {route}");
                let response = scene.request(method, &export.path(route), authorization).send().await.unwrap();
                assert_eq!(response.status(), 405, "{what}");
                check(response, &what).await;
            }
        }
    }
}

// D9, F15: nobody learns from an answer whether there is such an export or file
#[tokio::test]
async fn what_is_foreign_and_what_never_was_look_the_same() {
    let scene = Scene::set().await;
    let export = Export::of(&scene.owner()).await;
    let bob = format!("Bearer {}", scene.issuer.ehealth_token("bob", &ROLES));
    let (job, file) = ("00000000-0000-4000-8000-000000000000", "00000000000000000000000000000000");
    for (method, route, answers) in TABLE {
        if !answers.contains(&(Other, 404)) || !answers.contains(&(Nobody, 401)) {
            continue;
        }
        let foreign = export.path(route);
        let unknown = foreign.replace(export.job.id(), job).replace(&export.file, file);
        assert_ne!(foreign, unknown);
        let mut answers = Vec::new();
        for path in [foreign, unknown] {
            let response = scene.request(method, &path, Some(&bob)).send().await.unwrap();
            let mut headers: Vec<_> = response
                .headers()
                .iter()
                .filter(|(name, _)| !matches!(name.as_str(), "date" | "x-request-id"))
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                .collect();
            headers.sort();
            let (status, body) = (response.status(), response.text().await.unwrap());
            answers.push((status, headers, body.replace(export.job.id(), job).replace(&export.file, file)));
        }
        assert_eq!(answers[0], answers[1], "{method} {route}");
    }
}

// D9, F15: nor from how long it takes. By hand, on a quiet machine: cargo test --release --test http -- --ignored takes_as_long
#[tokio::test]
#[ignore = "it measures time"]
async fn what_is_foreign_takes_as_long_as_what_never_was() {
    let scene = Scene::set().await;
    let export = Export::of(&scene.owner()).await;
    let bob = format!("Bearer {}", scene.issuer.ehealth_token("bob", &ROLES));
    let (job, file) = (uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().simple().to_string());
    for route in ["/fhir/$export-poll-status", "/fhir/Binary/{id}"] {
        let foreign = export.path(route);
        let unknown = foreign.replace(export.job.id(), &job).replace(&export.file, &file);
        let mut times = [Vec::new(), Vec::new()];
        for n in 0..4_000 {
            let path = if n % 2 == 0 { &foreign } else { &unknown };
            let started = std::time::Instant::now();
            let response = scene.request("GET", path, Some(&bob)).send().await.unwrap();
            assert_eq!(response.status(), 404);
            response.bytes().await.unwrap();
            times[n % 2].push(started.elapsed().as_secs_f64());
        }
        let [foreign, unknown] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        println!("{route}: foreign {:.0} µs, unknown {:.0} µs", foreign * 1e6, unknown * 1e6);
        assert!((0.95..1.05).contains(&(foreign / unknown)), "{route}");
    }
}

// What shows a defence is to be there
#[test]
fn the_tests_that_security_md_names_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let last_columns =
        text.lines().filter(|line| line.matches('|').count() == 4).filter_map(|line| line.split('|').nth(3));
    let named: Vec<_> = last_columns.flat_map(|column| column.split('`').skip(1).step_by(2)).collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        let path = if name.contains('/') { root.join(name) } else { root.join(format!("tests/http/{name}.rs")) };
        assert!(path.exists(), "{name}");
    }
}
