//! Which tokens are good: their issuers and keys, what is said of bad ones, and that none is logged (rules A27-A29, I1-I3;
//! RFC 6750; DESIGN 6).

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::support::secured::{PATIENT, ROLES, calls, set_up};
use crate::support::smart::SmartClient;
use crate::support::{Caller, Database, Issuer, Job, Server, eventually, trusting};

// I1, I2, A29, F5, clients.md 9
#[tokio::test]
async fn without_a_good_token_nothing_is_answered() {
    let (_database, issuer, server) = set_up().await;
    let alice = server.with_token(&issuer.ehealth_token("alice", &ROLES));
    let job = alice.kick_off("").await;
    let file = job.completed().await.urls("output").remove(0);
    let stranger = Issuer::start().await;
    let claims = |extra: serde_json::Value| {
        let mut claims = json!({ "user_id": "alice", "user_type": "SYSTEM", "realm_access": { "roles": ROLES } });
        claims.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        issuer.token(&claims)
    };
    let good = issuer.ehealth_token("alice", &ROLES);
    let (_, rest) = good.split_once('.').unwrap();
    // {"alg":"none","typ":"JWT"}
    let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", rest.split_once('.').unwrap().0);
    let tokens = [
        None,
        Some(String::new()),
        Some("garbage".to_owned()),
        Some(claims(json!({ "exp": 1_000 }))),
        Some(claims(json!({ "aud": "another" }))),
        Some(claims(json!({ "nbf": 4_000_000_000_u64 }))),
        Some(claims(json!({ "iss": stranger.url() }))),
        Some(claims(json!({ "user_id": null }))),
        Some(stranger.ehealth_token("alice", &ROLES)),
        Some(format!("{}x", &good[..good.len() - 1])),
        Some(none),
    ];
    for token in tokens {
        let caller = Caller::new(&server.base, token.as_deref());
        let mut requests = calls(&caller, &job, &file);
        requests.push(caller.export(""));
        requests.push(caller.export_by_post(""));
        for request in requests {
            let response = request.try_clone().unwrap().send().await.unwrap();
            let challenge = response.headers().get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
            assert!(challenge.is_some_and(|challenge| challenge.starts_with("Bearer")), "{token:?}");
            caller.refused(request, 401).await;
        }
    }
    assert_eq!(job.poll().await.status(), 200);
    let anybody = server.anybody();
    assert_eq!(anybody.get("/metadata").send().await.unwrap().status(), 200);
    assert_eq!(anybody.get("/OperationDefinition/-s-export").send().await.unwrap().status(), 200);
}

// I1; RFC 6750, 2.2, 2.3, 3, 3.1
#[tokio::test]
async fn the_challenge_says_what_is_wrong_with_the_token() {
    let (_database, issuer, server) = set_up().await;
    let good = issuer.ehealth_token("alice", &ROLES);
    let claims = json!({ "user_id": "alice", "user_type": "SYSTEM", "realm_access": { "roles": ROLES }, "exp": 1_000 });
    let expired = format!("Bearer {}", issuer.token(&claims));
    // The claims of one token under the signature of another.
    let pieces: Vec<_> = good.split('.').collect();
    let other = issuer.ehealth_token("bob", &ROLES);
    let mixed = format!("Bearer {}.{}.{}", pieces[0], other.split('.').nth(1).unwrap(), pieces[2]);
    let anybody = server.anybody();
    for (header, error, code) in [
        (None, None, "login"),
        (Some("Basic YWxpY2U6c2VjcmV0"), None, "login"),
        (Some(good.as_str()), None, "login"),
        (Some("Bearer"), Some("invalid_token"), "login"),
        (Some("Bearer \u{e6}"), Some("invalid_token"), "login"),
        (Some("bearer a.b.c"), Some("invalid_token"), "login"),
        (Some(mixed.as_str()), Some("invalid_token"), "login"),
        (Some(expired.as_str()), Some("invalid_token"), "expired"),
    ] {
        let request = || match header {
            Some(header) => anybody.export("").header("authorization", header),
            None => anybody.export(""),
        };
        let response = request().send().await.unwrap();
        let challenge = response.headers()["www-authenticate"].to_str().unwrap().to_owned();
        assert!(challenge.starts_with("Bearer "), "{challenge}");
        let found = challenge.split("error=\"").nth(1).map(|rest| rest.split('"').next().unwrap());
        assert_eq!(found, error, "{header:?}: {challenge}");
        let text = anybody.refused(request(), 401).await;
        assert!(text.starts_with(&format!("{code}: ")), "{header:?}: {text}");
    }
    // Only the header counts, and only one.
    anybody.refused(anybody.export(&format!("?access_token={good}")), 401).await;
    let twice = anybody.export("").bearer_auth(&good).bearer_auth(&good);
    anybody.refused(twice, 400).await;
    let response = anybody.request(Method::HEAD, "/Binary/x").send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert!(response.headers().contains_key("www-authenticate"));
}

/// Keys are not asked for more often than every half minute, whatever keys callers invent.
async fn known_after_a_while(caller: &Caller, job: &Job) {
    let started = Instant::now();
    loop {
        let status = caller.get(&job.url).send().await.unwrap().status().as_u16();
        if status != 401 {
            assert!([200, 202].contains(&status), "{status}");
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "the new key is not accepted");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

// I3: Keycloak renews its keys; the server has the old ones, and asks again when a token names one it has not
#[tokio::test]
async fn a_new_key_of_the_issuer_is_fetched() {
    let database = Database::create().await;
    let issuer = Issuer::start().await;
    let server = Server::start_with(&database, &trusting(&[&issuer])).await;
    let withdrawn = issuer.ehealth_token("alice", &ROLES);
    let job = server.with_token(&withdrawn).kick_off("").await;
    issuer.rotate();
    let renewed = server.with_token(&issuer.ehealth_token("alice", &ROLES));
    known_after_a_while(&renewed, &job).await;
    // And the key that is gone vouches for nobody any more.
    let withdrawn = server.with_token(&withdrawn);
    withdrawn.refused(withdrawn.get(&job.url), 401).await;
}

// A27, I3: keys in a file, read again when it has a new one
#[tokio::test]
async fn keys_may_be_in_a_file() {
    let database = Database::create().await;
    let issuer = Issuer::start().await;
    // Nobody is asked over the network.
    issuer.is_away(true);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(issuer.jwks().as_bytes()).unwrap();
    let table =
        format!("[{{ issuer = \"{}\", audience = [\"fhir\"], jwks = \"{}\" }}]", issuer.url(), file.path().display());
    let server = Server::start_with(&database, &[("auth.mode", "token"), ("auth.issuers", table.as_str())]).await;
    let job = server.with_token(&issuer.ehealth_token("alice", &ROLES)).kick_off("").await;
    issuer.rotate();
    let renewed = server.with_token(&issuer.ehealth_token("alice", &ROLES));
    renewed.refused(renewed.get(&job.url), 401).await;
    std::fs::write(file.path(), issuer.jwks()).unwrap();
    known_after_a_while(&renewed, &job).await;
}

// C7: no answer about the token is no answer about the job
#[tokio::test]
async fn an_issuer_that_is_away_is_a_temporary_failure() {
    let database = Database::create().await;
    let issuer = Issuer::start().await;
    let settings = trusting(&[&issuer]);
    let token = issuer.ehealth_token("alice", &ROLES);
    drop(issuer);
    let server = Server::start_with(&database, &settings).await;
    let alice = server.with_token(&token);
    let text = alice.refused(alice.export(""), 503).await;
    assert!(text.starts_with("transient: "), "{text}");
}

// C7: the issuer is away, comes, and goes away again
#[tokio::test]
async fn an_issuer_that_comes_late_is_noticed_and_its_keys_outlast_it() {
    let (_database, issuer, server) = set_up().await;
    issuer.is_away(true);
    let token = issuer.ehealth_token("alice", &ROLES);
    let alice = server.with_token(&token);
    for request in [
        alice.export(""),
        alice.export_by_post(""),
        alice.get("/$export-poll-status?_jobId=x"),
        alice.request(Method::DELETE, "/$export-poll-status?_jobId=x"),
        alice.get("/Binary/x"),
    ] {
        let response = request.try_clone().unwrap().send().await.unwrap();
        assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
        assert!(!response.headers().contains_key("www-authenticate"));
        let text = alice.refused(request, 503).await;
        assert!(text.starts_with("transient: ") && !text.contains(issuer.url()), "{text}");
    }
    // What needs no key is told at once.
    let anybody = server.anybody();
    anybody.refused(anybody.export(""), 401).await;
    let garbage = server.with_token("garbage");
    garbage.refused(garbage.export(""), 401).await;
    issuer.is_away(false);
    eventually("the issuer is noticed", || async { alice.export("").send().await.unwrap().status() == 202 }).await;
    issuer.is_away(true);
    alice.kick_off("").await.completed().await;
}

// J1, A39: what the server can do is no secret, and a bad token does not hide it
#[tokio::test]
async fn the_description_of_the_server_needs_no_token() {
    let (_database, _issuer, server) = set_up().await;
    for caller in [server.anybody(), server.with_token("garbage"), server.with_token("")] {
        for path in ["/metadata", "/OperationDefinition/-s-export", "/OperationDefinition/-s-export-poll-status"] {
            assert_eq!(caller.get(path).send().await.unwrap().status(), 200, "{path}");
        }
    }
}

/// Starts a server that should refuse to; gives what it said.
async fn refuses_to_start(database: &Database, settings: &[(&str, &str)]) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_fhir-bulk-export"));
    command.arg("serve").env("DATABASE_URL", database.url()).env("BULK_EXPORT__OPERATOR__LISTEN", "127.0.0.1:0");
    for (key, value) in settings {
        command.env(format!("BULK_EXPORT__{}", key.to_ascii_uppercase().replace('.', "__")), value);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
    let output = output.expect("the server started").unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

// DESIGN 6: a forgotten setting must not open everything to everybody
#[tokio::test]
async fn without_tokens_it_serves_the_own_machine_only() {
    let database = Database::create().await;
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let said = refuses_to_start(&database, &[("http.listen", address)]).await;
        for name in ["auth.mode", "http.listen", "auth.allow_anonymous_on_any_address"] {
            assert!(said.contains(name), "{address}: {said}");
        }
    }
    let said = refuses_to_start(&database, &[("http.listen", "127.0.0.1:0"), ("auth.mode", "token")]).await;
    assert!(said.contains("auth.issuers"), "{said}");
    // Settings that have no effect but with tokens show that the mode was forgotten.
    let clients = r#"[{ id = "c", jwks = '{"keys":[]}', scopes = ["system/*.rs"] }]"#;
    let issuers = r#"[{ issuer = "https://id.example.org", audience = ["fhir"] }]"#;
    for forgotten in [("auth.clients", clients), ("auth.issuers", issuers), ("http.trusted_proxies", r#"["10.0.0.1"]"#)]
    {
        let said = refuses_to_start(&database, &[("http.listen", "127.0.0.1:0"), forgotten]).await;
        assert!(said.contains("auth.mode"), "{said}");
    }
    let meant = [("http.listen", "0.0.0.0:0"), ("auth.allow_anonymous_on_any_address", "true")];
    let server = Server::start_with(&database, &meant).await;
    server.anybody().kick_off("").await.completed().await;
    let issuer = Issuer::start().await;
    let mut settings = trusting(&[&issuer]);
    settings.push(("http.listen", "0.0.0.0:0".to_owned()));
    let server = Server::start_with(&database, &settings).await;
    let anybody = server.anybody();
    anybody.refused(anybody.export(""), 401).await;
}

// A27, I13, I18, I23: a wrong setting is told at the start, not to a caller
#[tokio::test]
async fn what_cannot_be_meant_stops_the_start() {
    let database = Database::create().await;
    let (lab, own) = (SmartClient::new("lab"), "http://bulk.example/auth");
    let introspection = "{ url = \"http://id.example/introspect\", client_id = \"bulk\", client_secret = \"471147\" }";
    let issuer = |name: &str, rest: &str| {
        format!("[{{ issuer = \"{name}\", audience = [\"fhir\"], jwks = \"https://id.example/jwks\"{rest} }}]")
    };
    let client = lab.registered_for(&["system/*.rs"]);
    let private = r#"{"keys":[{"kty":"EC","crv":"P-384","kid":"k","x":"a","y":"b","d":"471147"}]}"#;
    for (key, value, problem) in [
        ("auth.clients", format!("[{client}, {client}]"), "client `lab` is registered twice"),
        ("auth.clients", format!("[{}]", lab.registered_for(&["system/Doctor.rs"])), "system/Doctor.rs"),
        ("auth.clients", format!("[{}]", lab.registered_at(private, &["system/*.rs"])), "private or symmetric key"),
        ("auth.clients", format!("[{}]", lab.registered_at("/nowhere", &["system/*.rs"])), "client `lab`: jwks"),
        ("auth.clients", "[{ id = \"lab\" }]".to_owned(), "auth.clients"),
        ("auth.issuers", issuer(own, ""), "is the server itself"),
        ("auth.issuers", issuer("https://id.example", ", profile = \"other\""), "auth.issuers"),
        ("auth.issuers", issuer("https://id.example", &format!(", introspection = {introspection}")), "must be https"),
    ] {
        let clients = format!("[{client}]");
        let settings = [
            ("http.listen", "127.0.0.1:0"),
            ("http.public_base_url", "http://bulk.example/fhir"),
            ("auth.mode", "token"),
            ("auth.clients", &clients),
            (key, &value),
        ];
        let said = refuses_to_start(&database, &settings).await;
        assert!(said.contains(problem), "{problem}: {said}");
        assert!(!said.contains("471147"), "a secret is shown: {said}");
    }
}

#[tokio::test]
async fn nothing_of_a_person_is_logged() {
    let (_database, issuer, server) = set_up().await;
    let user = "https://patient.example/fhir/Practitioner/4711";
    let token = issuer.ehealth_token(user, &ROLES);
    let alice = server.with_token(&token);
    let manifest = alice.kick_off("?_exportId=mine").await.completed().await;
    manifest.resources().await;
    let log = server.log();
    assert!(log.contains("accepted an export") && log.contains("answered"));
    for private in [user, "4711", &token, token.rsplit('.').next().unwrap(), "mine"] {
        assert!(!log.contains(private), "{private} is in the log");
    }
}

// Neither what is accepted nor what is refused, at the most talkative level
#[tokio::test]
async fn nothing_of_a_token_is_logged_either_way() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let issuer = Issuer::start().await;
    let mut settings = trusting(&[&issuer]);
    settings.push(("log.filter", "debug".to_owned()));
    let server = Server::start_with(&database, &settings).await;
    let (user, sub, name) = ("https://patient.example/fhir/Practitioner/471147", "sub-471148", "Karla Kvist");
    let token = |extra: serde_json::Value| {
        let mut claims = json!({ "user_id": user, "sub": sub, "name": name, "jti": "jti-471149", "user_type": "SYSTEM",
            "realm_access": { "roles": ROLES } });
        claims.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        issuer.token(&claims)
    };
    let tokens = [
        token(json!({})),
        token(json!({ "user_id": null })),
        token(json!({ "exp": 1_000 })),
        token(json!({ "aud": "another" })),
        token(json!({ "iss": "https://stranger.example/471150" })),
        token(json!({ "user_type": "PATIENT" })),
        token(json!({ "realm_access": { "roles": [] } })),
        "garbage-471151".to_owned(),
    ];
    for token in &tokens {
        let caller = server.with_token(token);
        let mut job = format!("{}/$export-poll-status?_jobId=00000000-0000-4000-8000-000000000000", server.base);
        let response = caller.export("").send().await.unwrap();
        if let Some(location) = response.headers().get("content-location") {
            job = location.to_str().unwrap().to_owned();
            eventually("it completes", || async { caller.get(&job).send().await.unwrap().status() == 200 }).await;
            let manifest: serde_json::Value = caller.get(&job).send().await.unwrap().json().await.unwrap();
            let file = manifest["output"][0]["url"].as_str().unwrap();
            assert!(!caller.download(file).await.is_empty());
            caller.get(file).header("accept", "application/fhir+json").send().await.unwrap().bytes().await.unwrap();
        }
        for request in [caller.get(&job), caller.get("/Binary/x"), caller.request(Method::DELETE, &job)] {
            request.send().await.unwrap();
        }
    }
    let log = server.log();
    assert!(log.contains("DEBUG") && log.contains("/Binary/{id}") && log.contains("discarded by its owner"), "{log}");
    for token in &tokens {
        for piece in token.split('.') {
            assert!(!log.contains(piece), "a piece of a token is in the log: {piece}");
        }
    }
    for private in ["47114", "471150", "471151", name, "Bearer"] {
        let line = log.lines().find(|line| line.contains(private));
        assert!(line.is_none(), "{private} is in the log: {line:?}");
    }
}
