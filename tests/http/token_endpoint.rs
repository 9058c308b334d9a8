//! SMART Backend Services: a registered client gets a token for an assertion that it signs, and exports with it (rules I8
//! to I17).

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::support::secured::PATIENT;
use crate::support::smart::{BY_ASSERTION, SmartClient, ask, ask_with, form, now, refused, registering};
use crate::support::{Caller, Database, Server, eventually};

const ALL: &[&str] = &["system/*.rs"];
/// Where replicas are, as clients see them.
const PUBLIC: (&str, &str) = ("http.public_base_url", "https://bulk.example/fhir");

async fn set_up() -> (Database, SmartClient, Server) {
    let database = Database::create().await;
    database.put(&[PATIENT, r#"{"resourceType":"Task","id":"t"}"#]).await;
    let client = SmartClient::new("lab");
    let server = Server::start_with(&database, &registering(&[client.registered_for(ALL)])).await;
    (database, client, server)
}

/// One of several servers with the same address for clients.
async fn replica(database: &Database, clients: &[String]) -> Server {
    let mut settings = registering(clients);
    settings.push((PUBLIC.0, PUBLIC.1.to_owned()));
    Server::start_with(database, &settings).await
}

fn header_of(token: &str) -> Value {
    piece(token, 0)
}

fn claims_of(token: &str) -> Value {
    piece(token, 1)
}

fn piece(token: &str, n: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(n).unwrap()).unwrap()).unwrap()
}

// I8, I16, I19: from the token to the files
#[tokio::test]
async fn a_client_exports_with_the_token_that_it_gets() {
    let (_database, client, server) = set_up().await;
    let lab = client.caller(&server, "system/*.read").await;
    let manifest = lab.kick_off("").await.completed().await;
    assert_eq!(manifest.resources().await.into_keys().collect::<Vec<_>>(), ["Patient/p", "Task/t"]);
    // A35: the owner is the client, whichever token it has.
    let job = client.caller(&server, "system/Patient.rs").await.kick_off("").await;
    job.completed().await;
    assert_eq!(client.caller(&server, "system/*.rs").await.get(&job.url).send().await.unwrap().status(), 200);
}

// I15: what Inferno's Bulk Data suite does, in its order
#[tokio::test]
async fn the_conformance_suite_goes_through() {
    for client in [SmartClient::new("inferno"), SmartClient::rs384("inferno")] {
        let database = Database::create().await;
        let server = Server::start_with(&database, &registering(&[client.registered_for(ALL)])).await;
        let with = |name: &str, value: &str, assertion: &str| {
            let mut form: Vec<_> = form(assertion, "system/*.read").into_iter().collect();
            let changed = form.iter_mut().find(|(given, _)| *given == name).unwrap();
            let value = value.to_owned();
            changed.1 = &value;
            url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish()
        };
        let send = async |body: String| ask_with(&server, "application/x-www-form-urlencoded", body).await;
        let good = client.assertion(&server);
        refused(&send(with("grant_type", "not_a_grant_type", &good)).await, 400, "unsupported_grant_type");
        refused(&send(with("client_assertion_type", "not_a_type", &good)).await, 400, "invalid_request");
        let mut claims = client.claims(&server);
        claims["iss"] = json!("not_a_iss");
        let bad = client.sign(&client.header(), &claims);
        refused(&send(with("scope", "system/*.read", &bad)).await, 401, "invalid_client");

        let answer = send(with("scope", "system/*.read", &good)).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!((answer.header("cache-control"), answer.header("pragma")), (Some("no-store"), Some("no-cache")));
        let token = answer.json();
        assert_eq!((&token["token_type"], &token["expires_in"]), (&json!("bearer"), &json!(300)));
        assert_eq!(token["scope"], "system/*.read");
        assert_eq!(token.as_object().unwrap().len(), 4, "no refresh token: {token}");
        let access_token = token["access_token"].as_str().unwrap();
        let (header, claims) = (header_of(access_token), claims_of(access_token));
        assert_eq!((&header["alg"], &header["typ"]), (&json!("ES384"), &json!("at+jwt")));
        assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("inferno"), &json!("inferno")));
        assert_eq!((&claims["aud"], &claims["scope"]), (&json!(server.base), &json!("system/*.read")));
        assert_eq!(claims["iss"], server.public_token_url().trim_end_matches("/token"));
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 300);
        server.with_token(access_token).kick_off("").await;
    }
}

// I9, I10, I12, I14
#[tokio::test]
async fn an_assertion_must_be_good_in_everything() {
    let (_database, client, server) = set_up().await;
    let stranger = SmartClient::new("lab");
    let header = |change: fn(&mut Header)| {
        let mut header = client.header();
        change(&mut header);
        client.sign(&header, &client.claims(&server))
    };
    let claim = |name: &str, value: Value| {
        let mut claims = client.claims(&server);
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.to_owned(), value),
        };
        client.sign(&client.header(), &claims)
    };
    let good = client.assertion(&server);
    let pieces: Vec<_> = good.split('.').collect();
    let access_token = client.token(&server, "system/*.rs").await;
    let public = serde_json::to_string(&client.jwk()).unwrap();
    let hmac = Header { kid: Some("its-key".to_owned()), ..Header::new(Algorithm::HS384) };
    let hmac =
        jsonwebtoken::encode(&hmac, &client.claims(&server), &EncodingKey::from_secret(public.as_bytes())).unwrap();
    let none = URL_SAFE_NO_PAD.encode(json!({ "alg": "none", "kid": "its-key" }).to_string());
    let critical = URL_SAFE_NO_PAD.encode(json!({ "alg": "ES384", "kid": "its-key", "crit": ["b64"] }).to_string());

    // No answer tells who has no key of a client whether there is the client.
    let not_proven = [
        stranger.assertion(&server),
        SmartClient::new("nobody").assertion(&server),
        header(|header| header.kid = Some("another".to_owned())),
        header(|header| header.kid = Some(String::new())),
        header(|header| header.jku = Some("https://keys.example/jwks".to_owned())),
        claim("iss", json!("nobody")),
        format!("{}.{}.{}", pieces[0], pieces[1], "AAAA"),
        format!("{}.{}.", pieces[0], pieces[1]),
        format!("{}.{}.{}!", pieces[0], pieces[1], pieces[2]),
    ];
    let mut said = Vec::new();
    for assertion in &not_proven {
        said.push(refused(&ask(&server, &form(assertion, "system/*.rs")).await, 401, "invalid_client"));
    }
    said.dedup();
    assert_eq!(said.len(), 1, "{said:?}");

    for (assertion, reason) in [
        (header(|header| header.kid = None), "kid"),
        (header(|header| header.typ = Some("at+jwt".to_owned())), "typ"),
        (header(|header| header.typ = Some("logout+jwt".to_owned())), "cannot be read"),
        (format!("{critical}.{}.{}", pieces[1], pieces[2]), "cannot be read"),
        (format!("{none}.{}.", pieces[1]), "cannot be read"),
        (hmac, "RS384 nor ES384"),
        ("garbage".to_owned(), "cannot be read"),
        ("a.b.c".to_owned(), "cannot be read"),
        ("a".repeat(20_000), "cannot be read"),
        (access_token, "typ"),
        (claim("iss", Value::Null), "cannot be read"),
        (claim("sub", Value::Null), "iss and sub"),
        (claim("sub", json!("another")), "iss and sub"),
        (claim("aud", Value::Null), "aud"),
        (claim("aud", json!(server.base)), "aud"),
        (claim("aud", json!(format!("{}/", server.public_token_url()))), "aud"),
        (claim("aud", json!([])), "aud"),
        (claim("aud", json!({ server.public_token_url(): 1 })), "aud"),
        (claim("exp", Value::Null), "exp"),
        (claim("exp", json!("tomorrow")), "exp"),
        (claim("exp", json!(now() + 300 + 60)), "5 minutes"),
        (claim("exp", json!(i64::MAX)), "exp"),
        (claim("exp", json!(253_402_300_799_i64)), "5 minutes"),
        (claim("exp", json!(-377_705_116_800_i64)), "expired"),
        (claim("exp", json!(now() - 60)), "expired"),
        (claim("exp", json!(-1)), "expired"),
        (claim("nbf", json!(now() + 120)), "not valid yet"),
        (claim("nbf", json!("tomorrow")), "not valid yet"),
        (claim("jti", Value::Null), "jti"),
        (claim("jti", json!("")), "jti"),
        (claim("jti", json!(7)), "jti"),
        (claim("jti", json!("x".repeat(1025))), "jti"),
    ] {
        let description = refused(&ask(&server, &form(&assertion, "system/*.rs")).await, 401, "invalid_client");
        assert!(description.contains(reason), "{reason}: {description}");
    }

    for (assertion, why) in [
        (good, "as it should be"),
        (header(|header| header.typ = None), "typ is optional"),
        (claim("aud", json!(["https://other.example", server.public_token_url()])), "aud is a list"),
        (claim("exp", json!(now() + 310)), "clocks differ (I15)"),
        (claim("exp", json!(now() - 10)), "clocks differ"),
        (claim("jti", json!("\u{0}\u{1F600} '; drop table spent_assertion; --")), "any jti"),
        (claim("jti", json!("x".repeat(1024))), "a long jti"),
        (claim("nbf", json!(0)), "nbf"),
    ] {
        assert_eq!(ask(&server, &form(&assertion, "system/*.rs")).await.status, 200, "{why}");
    }
}

// I8, I14
#[tokio::test]
async fn a_request_must_be_a_form_with_all_that_is_needed() {
    let (_database, client, server) = set_up().await;
    let form_type = "application/x-www-form-urlencoded";
    let body = |left_out: &str, further: &[(&str, &str)]| {
        let assertion = client.assertion(&server);
        let mut form = form(&assertion, "system/*.rs");
        form.retain(|(name, _)| *name != left_out);
        form.extend_from_slice(further);
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish()
    };
    let without = |name: &str| body(name, &[]);
    let whole = || body("", &[]);
    let many: String = (0..40).map(|n| format!("&p{n}=1")).collect();
    for (content_type, body, error, reason) in [
        (form_type, without("grant_type"), "invalid_request", "grant_type is missing"),
        (form_type, without("client_assertion_type"), "invalid_request", "client_assertion_type is missing"),
        (form_type, without("client_assertion"), "invalid_request", "client_assertion is missing"),
        (form_type, without("scope"), "invalid_request", "scope is missing"),
        (form_type, without("scope") + "&scope=", "invalid_request", "scope is missing"),
        (form_type, without("scope") + "&scope=openid", "invalid_scope", "system/Patient.rs"),
        (
            form_type,
            without("grant_type") + "&grant_type=refresh_token",
            "unsupported_grant_type",
            "client_credentials",
        ),
        (form_type, whole() + "&scope=system/*.rs", "invalid_request", "twice"),
        (form_type, body("", &[("client_assertion", "x")]), "invalid_request", "twice"),
        (form_type, whole() + "&x=1&x=1", "invalid_request", "twice"),
        (form_type, whole() + &many, "invalid_request", "too many"),
        (form_type, whole() + "&x=" + &"x".repeat(70_000), "invalid_request", "too long"),
        (form_type, String::new(), "invalid_request", "grant_type is missing"),
        ("application/json", json!({ "grant_type": "client_credentials" }).to_string(), "invalid_request", form_type),
        ("text/plain", whole(), "invalid_request", form_type),
        ("", whole(), "invalid_request", form_type),
    ] {
        let description = refused(&ask_with(&server, content_type, body).await, 400, error);
        assert!(description.contains(reason), "{reason}: {description}");
    }
    let other = body("", &[("client_id", "other")]);
    refused(&ask_with(&server, form_type, other).await, 401, "invalid_client");
    for (content_type, body) in [
        (form_type, body("", &[("client_id", "lab")])),
        (form_type, body("", &[("unknown", "1")])),
        ("Application/X-WWW-Form-URLencoded; charset=utf-8", whole()),
    ] {
        assert_eq!(ask_with(&server, content_type, body).await.status, 200);
    }
    // Only in the body, and only by POST.
    let anybody = server.anybody();
    let url = format!("{}?{}", server.token_url(), whole());
    anybody.refused(anybody.get(&url), 405).await;
    let empty = anybody.request(reqwest::Method::POST, &url).header("content-type", form_type);
    assert_eq!(empty.send().await.unwrap().status(), 400);
    for path in ["/auth", "/auth/", "/auth/token/", "/auth/other"] {
        let url = server.token_url().replace("/auth/token", path);
        anybody.refused(anybody.get(&url), 404).await;
    }
}

// I11
#[tokio::test]
async fn an_assertion_is_good_once_at_all_replicas_together() {
    let database = Database::create().await;
    let (client, namesake) = (SmartClient::new("lab"), SmartClient::new("ward"));
    let clients = [client.registered_for(ALL), namesake.registered_for(ALL)];
    let (one, other) = tokio::join!(replica(&database, &clients), replica(&database, &clients));
    let assertion = client.assertion(&one);
    let form = form(&assertion, "system/*.rs");
    let answers = futures_util::future::join_all([&one, &other, &one, &other].map(|server| ask(server, &form))).await;
    let good = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(good, 1);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert!(refused(answer, 401, "invalid_client").contains("jti"));
    }
    // Of another client it is another one, and of the same client also one that ends later is the same.
    let mut claims = claims_of(&assertion);
    claims["exp"] = json!(now() + 299);
    let later = client.sign(&client.header(), &claims);
    refused(&ask(&other, &crate::support::smart::form(&later, "system/*.rs")).await, 401, "invalid_client");
    claims["iss"] = json!("ward");
    claims["sub"] = json!("ward");
    let of_namesake = namesake.sign(&namesake.header(), &claims);
    assert_eq!(ask(&other, &crate::support::smart::form(&of_namesake, "system/*.rs")).await.status, 200);
    // What is not signed uses nothing up.
    let fresh = client.assertion(&one);
    let forged = format!("{}.{}", fresh.rsplit_once('.').unwrap().0, assertion.rsplit('.').next().unwrap());
    refused(&ask(&one, &crate::support::smart::form(&forged, "system/*.rs")).await, 401, "invalid_client");
    assert_eq!(ask(&one, &crate::support::smart::form(&fresh, "system/*.rs")).await.status, 200);
    // And it is forgotten when it is refused for its age.
    database
        .execute("update spent_assertion set expires_at = now() - interval '2 hours' where client_id = 'lab'")
        .await;
    let mut settings = registering(&clients);
    settings.push(("retention.sweep", "100ms".to_owned()));
    let _sweeping = Server::start_with(&database, &settings).await;
    eventually("old assertions are forgotten", || async { database.count("spent_assertion").await == 1 }).await;
}

// I2, I3: one replica issues, the other accepts, whatever key it is
#[tokio::test]
async fn replicas_share_their_keys_and_take_turns_with_them() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let client = SmartClient::new("lab");
    let clients = [client.registered_for(ALL)];
    let (one, other) = tokio::join!(replica(&database, &clients), replica(&database, &clients));
    // The first token anywhere: both want a key, one makes it.
    let (first, second) = tokio::join!(client.token(&one, "system/*.rs"), client.token(&other, "system/*.rs"));
    assert_eq!(header_of(&first)["kid"], header_of(&second)["kid"]);
    assert_eq!(database.count("signing_key").await, 1);
    let accepted = async |server: &Server, token: &str| {
        let caller = Caller::new(&server.address(), Some(token));
        caller.get("/$export-poll-status?_jobId=x").send().await.unwrap().status() == 404
    };
    assert!(accepted(&one, &second).await && accepted(&other, &first).await);

    // An hour before its time is over the next one is there, and signs nothing yet.
    database.execute("update signing_key set signs_until = now() + interval '59 minutes'").await;
    let same = client.token(&one, "system/*.rs").await;
    assert_eq!(header_of(&same)["kid"], header_of(&first)["kid"]);
    assert_eq!(database.count("signing_key").await, 2);
    let gap = "signing_key a join signing_key b on b.signs_from = a.signs_until";
    assert_eq!(database.count(gap).await, 1, "without a gap");
    // Its time comes.
    database
        .execute("update signing_key set signs_from = signs_from - interval '1 hour', signs_until = signs_until - interval '1 hour'")
        .await;
    let next = client.token(&one, "system/*.rs").await;
    assert_ne!(header_of(&next)["kid"], header_of(&first)["kid"]);
    // The other one, which has not heard of it, looks; and what the old key signed is still good.
    eventually("the new key is known", || accepted(&other, &next)).await;
    assert!(accepted(&other, &first).await && accepted(&one, &first).await);

    // When no token of a key can be good any more, it goes, and vouches for nothing.
    database
        .execute("update signing_key set signs_until = now() - interval '11 minutes' where signs_until < now()")
        .await;
    let mut settings = registering(&clients);
    settings.extend([("retention.sweep", "100ms".to_owned()), (PUBLIC.0, PUBLIC.1.to_owned())]);
    let sweeping = Server::start_with(&database, &settings).await;
    eventually("the old key goes", || async { database.count("signing_key").await == 1 }).await;
    assert!(accepted(&sweeping, &next).await && !accepted(&sweeping, &first).await);
}

// I3: what is published, and what is not
#[tokio::test]
async fn the_public_keys_are_for_everybody_and_the_private_ones_for_nobody() {
    let (database, client, server) = set_up().await;
    let token = client.token(&server, "system/*.rs").await;
    let url = server.token_url().replace("/token", "/jwks");
    let answer = crate::support::answer::get(&server.anybody(), &url, &[]).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.header("cache-control"), Some("public, max-age=300"));
    let keys = answer.json()["keys"].as_array().unwrap().clone();
    assert_eq!(keys.len(), 1);
    let members: Vec<_> = keys[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert!(members.iter().all(|member| ["kty", "use", "alg", "kid", "crv", "x", "y"].contains(member)), "{members:?}");
    assert_eq!(keys[0]["kid"], header_of(&token)["kid"]);
    // Whoever has them can verify, as with any issuer's.
    let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(keys[0].clone()).unwrap();
    let mut validation = jsonwebtoken::Validation::new(Algorithm::ES384);
    validation.set_audience(&[&server.base]);
    let key = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
    jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap();

    let private: Vec<u8> =
        sqlx::query_scalar("select private_key from signing_key").fetch_one(&database.pool).await.unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let assertion = client.assertion(&server);
    ask(&server, &form(&assertion, "system/*.rs")).await;
    refused(&ask(&server, &form(&assertion, "system/*.rs")).await, 401, "invalid_client");
    eventually("all is logged", || async { server.log().contains("refused a client") }).await;
    let log = server.log();
    assert!(log.contains("issued an access token"), "{log}");
    for secret in [hex(&private[40..]), format!("{:?}", &private[40..50]), token, assertion] {
        assert!(!log.contains(&secret), "a secret is in the log");
    }
}

// I14: what is not verified is not in the log
#[tokio::test]
async fn every_refusal_is_logged_with_the_client_that_is_verified() {
    let (_database, client, server) = set_up().await;
    let stranger = SmartClient::new("person-471147");
    let good = client.assertion(&server);
    for (assertion, scope, status) in [
        (stranger.assertion(&server), "system/*.rs", 401),
        (client.assertion(&server), "openid", 400),
        (client.assertion(&server), "", 400),
        (good.clone(), "system/*.rs", 200),
        (good, "system/*.rs", 401),
    ] {
        assert_eq!(ask(&server, &form(&assertion, scope)).await.status, status, "{scope}");
    }
    eventually("all is logged", || async { server.log().matches("refused a client").count() == 4 }).await;
    let log = server.log();
    let has = |parts: &[&str]| log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(has(&["refused a client", "invalid_scope", "lab"]), "{log}");
    assert!(has(&["refused a client", "used before", "lab"]), "{log}");
    assert!(has(&["refused a client", "scope is missing"]), "{log}");
    assert!(has(&["refused a client", "client is not known"]), "{log}");
    assert!(has(&["issued an access token", "lab"]), "{log}");
    assert!(!log.contains("471147"), "{log}");
}

// I2: the server's own tokens are judged as all are
#[tokio::test]
async fn a_token_of_the_servers_own_must_be_whole() {
    let (database, client, server) = set_up().await;
    let token = client.token(&server, "system/*.rs").await;
    let private: Vec<u8> =
        sqlx::query_scalar("select private_key from signing_key").fetch_one(&database.pool).await.unwrap();
    let key = EncodingKey::from_ec_der(&private);
    let good = Header {
        typ: Some("at+jwt".to_owned()),
        kid: Some(header_of(&token)["kid"].as_str().unwrap().to_owned()),
        ..Header::new(Algorithm::ES384)
    };
    let sign = |header: &Header, name: &str, value: Value| {
        let mut claims = claims_of(&token);
        claims[name] = value;
        jsonwebtoken::encode(header, &claims, &key).unwrap()
    };
    let pieces: Vec<_> = token.split('.').collect();
    let none = URL_SAFE_NO_PAD.encode(json!({ "alg": "none", "typ": "at+jwt" }).to_string());
    let foreign = client.sign(&good, &claims_of(&token));
    let public =
        crate::support::answer::get(&server.anybody(), &server.token_url().replace("token", "jwks"), &[]).await;
    let hmac = Header { alg: Algorithm::HS384, ..good.clone() };
    let hmac = jsonwebtoken::encode(&hmac, &claims_of(&token), &EncodingKey::from_secret(&public.body)).unwrap();
    for (bad, why) in [
        (sign(&Header { typ: None, ..good.clone() }, "jti", json!("1")), "typ"),
        (sign(&Header { typ: Some("JWT".to_owned()), ..good.clone() }, "jti", json!("1")), "typ"),
        (sign(&Header { kid: None, ..good.clone() }, "jti", json!("1")), "kid"),
        (sign(&Header { kid: Some("x".to_owned()), ..good.clone() }, "jti", json!("1")), "kid"),
        (sign(&good, "aud", json!("https://other.example/fhir")), "aud"),
        (sign(&good, "exp", json!(now() - 60)), "exp"),
        (sign(&good, "iss", json!("https://other.example/auth")), "iss"),
        (sign(&good, "client_id", json!("nobody")), "client"),
        (sign(&good, "client_id", Value::Null), "client"),
        (sign(&good, "scope", Value::Null), "scope"),
        (foreign, "another's key"),
        (hmac, "HMAC"),
        (format!("{none}.{}.", pieces[1]), "none"),
        (client.assertion(&server), "an assertion is no token"),
    ] {
        let caller = server.with_token(&bad);
        let response = caller.export("").send().await.unwrap();
        assert_eq!(response.status(), 401, "{why}");
        let challenge = response.headers()["www-authenticate"].to_str().unwrap().to_owned();
        assert!(challenge.contains("invalid_token"), "{why}: {challenge}");
    }
    server.with_token(&sign(&good, "jti", json!("1"))).kick_off("").await;
}

// I5: rights are those of now
#[tokio::test]
async fn a_client_that_is_taken_out_or_has_less_has_less_at_once() {
    let database = Database::create().await;
    database.put(&[PATIENT, r#"{"resourceType":"Task","id":"t"}"#]).await;
    let (client, other) = (SmartClient::new("lab"), SmartClient::new("ward"));
    let before = replica(&database, &[client.registered_for(ALL), other.registered_for(ALL)]).await;
    let token = client.token(&before, "system/*.rs").await;
    let at = |server: &Server| Caller::new(&server.address(), Some(&token));

    let less = replica(&database, &[client.registered_for(&["system/Task.rs"]), other.registered_for(ALL)]).await;
    let caller = at(&less);
    let text = caller.refused(caller.export("?_type=Patient"), 403).await;
    assert!(text.contains("Patient"), "{text}");
    assert_eq!(caller.export("?_type=Task").send().await.unwrap().status(), 202);

    let without = replica(&database, &[other.registered_for(ALL)]).await;
    let caller = at(&without);
    for request in [caller.export(""), caller.get("/$export-poll-status?_jobId=x"), caller.get("/Binary/x")] {
        caller.refused(request, 401).await;
    }
    refused(&client.ask(&without, "system/*.rs").await, 401, "invalid_client");
    // What was granted was not more than that, either: where more is registered later.
    let narrow = client.token(&less, "system/*.rs").await;
    let caller = Caller::new(&before.address(), Some(&narrow));
    caller.refused(caller.export("?_type=Patient"), 403).await;
}

// I12, I13
#[tokio::test]
async fn keys_may_be_in_place_in_a_file_or_at_a_url() {
    let database = Database::create().await;
    let (inline, in_file, at_url) = (SmartClient::new("inline"), SmartClient::rs384("file"), SmartClient::new("url"));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(in_file.jwks().as_bytes()).unwrap();
    let served = Arc::new(Mutex::new(Some(at_url.jwks())));
    let serving = Arc::clone(&served);
    let accepts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&accepts);
    let jwks = move |headers: axum::http::HeaderMap| async move {
        seen.lock().unwrap().push(headers["accept"].to_str().unwrap().to_owned());
        let keys = serving.lock().unwrap().clone();
        keys.map(|keys| ([("cache-control", "no-store")], keys)).ok_or(axum::http::StatusCode::BAD_GATEWAY)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/jwks", get(jwks))).await });
    let clients = [
        inline.registered_for(ALL),
        in_file.registered_at(file.path().to_str().unwrap(), ALL),
        at_url.registered_at(&url, ALL),
    ];
    let server = Server::start_with(&database, &registering(&clients)).await;
    for client in [&inline, &in_file, &at_url] {
        assert_eq!(client.ask(&server, "system/*.rs").await.status, 200, "{}", client.id);
    }
    assert!(accepts.lock().unwrap().iter().all(|accept| accept == "application/json"));

    // jku: the registered URL, and where there is none, none.
    let with_jku = async |client: &SmartClient, jku: &str| {
        let header = Header { jku: Some(jku.to_owned()), ..client.header() };
        ask(&server, &form(&client.sign(&header, &client.claims(&server)), "system/*.rs")).await.status
    };
    assert_eq!(with_jku(&at_url, &url).await, 200);
    for (client, jku) in [(&at_url, format!("{url}?")), (&inline, url.clone()), (&in_file, url.clone())] {
        assert_eq!(with_jku(client, &jku).await, 401, "{jku}");
    }

    // I13: what is withdrawn is not good any more, as Cache-Control says; and without keys nobody gets in.
    let next = SmartClient::new("url");
    *served.lock().unwrap() = Some(next.jwks());
    eventually("the old key is refused", || async { at_url.ask(&server, "system/*.rs").await.status == 401 }).await;
    assert_eq!(next.ask(&server, "system/*.rs").await.status, 200);
    *served.lock().unwrap() = None;
    eventually("no key is kept", || async { next.ask(&server, "system/*.rs").await.status == 401 }).await;
    // The others are not concerned.
    assert_eq!(inline.ask(&server, "system/*.rs").await.status, 200);
}

// I11: what cannot be remembered is not granted
#[tokio::test]
async fn without_the_database_there_is_no_token() {
    let (database, client, server) = set_up().await;
    assert_eq!(client.ask(&server, "system/*.rs").await.status, 200);
    database.close(true).await;
    let assertion = client.assertion(&server);
    let answer = tokio::time::timeout(Duration::from_secs(25), ask(&server, &form(&assertion, "system/*.rs"))).await;
    let text = refused(&answer.expect("an answer"), 503, "temporarily_unavailable");
    assert!(!text.contains("database"), "{text}");
    database.close(false).await;
    eventually("it goes on", || async { client.ask(&server, "system/*.rs").await.status == 200 }).await;
}

// Without clients, or without tokens, nothing is there
#[tokio::test]
async fn without_clients_no_tokens_are_issued() {
    let database = Database::create().await;
    let issuer = crate::support::Issuer::start().await;
    let open = Server::start(&database).await;
    let trusting = Server::start_with(&database, &crate::support::trusting(&[&issuer])).await;
    for server in [open, trusting] {
        let anybody = server.anybody();
        let post = anybody
            .request(reqwest::Method::POST, &server.token_url())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("grant_type=client_credentials&client_assertion_type={BY_ASSERTION}"));
        anybody.refused(post, 404).await;
        anybody.refused(anybody.get(&server.token_url().replace("/token", "/jwks")), 404).await;
    }
}
