//! TLS from configuration, and a certificate that changes while the server runs (rule I4).

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Caller, Database, Server, eventually};

/// A certificate of 127.0.0.1 that signs itself, and its key.
fn pair() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap()
}

fn write(folder: &Path, certificate: &CertifiedKey<KeyPair>, key: &CertifiedKey<KeyPair>) {
    std::fs::write(folder.join("chain.pem"), certificate.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), key.signing_key.serialize_pem()).unwrap();
}

fn settings(folder: &Path) -> Vec<(&'static str, String)> {
    let path = |name| folder.join(name).display().to_string();
    vec![("http.tls.certificate", path("chain.pem")), ("http.tls.key", path("key.pem"))]
}

/// A caller that trusts this certificate, and no other.
fn caller(server: &Server, pair: &CertifiedKey<KeyPair>) -> Caller {
    let trusted = reqwest::Certificate::from_pem(pair.cert.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([trusted]);
    Caller::by(client.build().unwrap(), &server.base)
}

/// Whether who trusts only this certificate is served on a new connection.
async fn serves(server: &Server, pair: &CertifiedKey<KeyPair>) -> bool {
    caller(server, pair).get("/metadata").send().await.is_ok()
}

async fn start() -> (Database, TempDir, CertifiedKey<KeyPair>, Server) {
    let (database, folder, pair) = (Database::create().await, TempDir::new().unwrap(), pair());
    write(folder.path(), &pair, &pair);
    let server = Server::start_with(&database, &settings(folder.path())).await;
    (database, folder, pair, server)
}

/// What comes back for these bytes until the server closes the connection.
async fn answer_to(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let address = server.address().replace("http://", "").replace("/fhir", "");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

// I4, A22
#[tokio::test]
async fn a_whole_export_goes_over_https() {
    let (database, _folder, pair, server) = start().await;
    database.put_patients(3).await;
    assert!(server.base.starts_with("https://127.0.0.1:"), "{}", server.base);
    let caller = caller(&server, &pair);
    let manifest = caller.kick_off("").await.completed().await;
    assert!(manifest.urls("output").iter().all(|url| url.starts_with(&server.base)));
    assert_eq!(manifest.resources().await.len(), 3);
    for path in ["/metadata", "/nowhere", "/$export"] {
        let response = caller.get(path).send().await.unwrap();
        assert_eq!(response.headers()["strict-transport-security"], "max-age=31536000", "{path}");
    }
    // Probes are plain: they are for operators, on an address of their own.
    assert!(server.probes.starts_with("http://"));
    let ready = reqwest::get(format!("{}/readyz", server.probes)).await.unwrap();
    assert_eq!((ready.status().as_u16(), ready.headers().get("strict-transport-security")), (200, None));
}

// I4
#[tokio::test]
async fn only_tls_1_2_and_1_3_are_spoken() {
    let (_database, _folder, pair, server) = start().await;
    for version in [reqwest::tls::Version::TLS_1_2, reqwest::tls::Version::TLS_1_3] {
        let trusted = reqwest::Certificate::from_pem(pair.cert.pem().as_bytes()).unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([trusted]);
        let client = client.tls_version_min(version).tls_version_max(version).build().unwrap();
        assert_eq!(Caller::by(client, &server.base).get("/metadata").send().await.unwrap().status(), 200);
    }
    // A ClientHello of TLS 1.1: the answer is a fatal alert, protocol_version (RFC 8446, 6).
    let suites = [0, 2, 0xc0, 0x09];
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend(suites);
    hello.extend([1, 0]);
    let signature_algorithms = [0, 8, 0, 13, 0, 4, 0, 2, 4, 3];
    hello.extend(signature_algorithms);
    let length = u8::try_from(hello.len()).unwrap();
    let record = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat();
    let alert = answer_to(&server, &record).await;
    assert_eq!((alert[0], &alert[5..]), (21, &[2, 70][..]), "{alert:?}");
    // And no HTTP without it.
    let answer = answer_to(&server, b"GET /fhir/metadata HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert!(serves(&server, &pair).await);
}

#[tokio::test]
async fn a_certificate_that_changes_is_used_from_then_on() {
    let (_database, folder, old, server) = start().await;
    let connected = caller(&server, &old);
    assert!(connected.get("/metadata").send().await.unwrap().bytes().await.is_ok());
    let new = pair();
    write(folder.path(), &new, &new);
    eventually("the new certificate is in use", || async {
        // So that the connection stays open.
        connected.get("/metadata").send().await.unwrap().bytes().await.unwrap();
        serves(&server, &new).await
    })
    .await;
    assert!(!serves(&server, &old).await);
    // Who is connected stays so, although he trusts only the old one.
    assert_eq!(connected.get("/metadata").send().await.unwrap().status(), 200);
}

// As the secrets of Kubernetes change: a link is put in the place of another, the files keep their names.
#[tokio::test]
async fn a_certificate_may_change_behind_a_link() {
    let (database, folder, new) = (Database::create().await, TempDir::new().unwrap(), pair());
    let old = pair();
    for (version, pair) in [("1", &old), ("2", &new)] {
        std::fs::create_dir(folder.path().join(version)).unwrap();
        write(&folder.path().join(version), pair, pair);
    }
    let (link, next) = (folder.path().join("data"), folder.path().join("next"));
    symlink("1", &link).unwrap();
    let server = Server::start_with(&database, &settings(&link)).await;
    assert!(serves(&server, &old).await);
    symlink("2", &next).unwrap();
    std::fs::rename(&next, &link).unwrap();
    eventually("the new certificate is in use", || serves(&server, &new)).await;
}

#[tokio::test]
async fn a_pair_that_cannot_be_used_leaves_the_one_before() {
    let (_database, folder, old, server) = start().await;
    let (new, other) = (pair(), pair());
    let told = |what: &str| {
        let lines = server.log();
        lines.lines().filter(|line| line.contains("ERROR") && line.contains(what)).count()
    };
    write(folder.path(), &new, &other);
    eventually("the pair that does not match is told", || async { told("cannot be used together") == 1 }).await;
    std::fs::write(folder.path().join("chain.pem"), "no certificate").unwrap();
    eventually("the broken certificate is told", || async { told("no certificate in PEM") == 1 }).await;
    std::fs::remove_file(folder.path().join("key.pem")).unwrap();
    eventually("the missing key is told", || async { told("cannot read") == 1 }).await;
    assert!(serves(&server, &old).await);
    write(folder.path(), &new, &new);
    eventually("the good pair is in use", || serves(&server, &new)).await;
    // Each once, not at every look.
    assert_eq!(told("the one before stays"), 3, "{}", server.log());
}

#[tokio::test]
async fn who_does_not_shake_hands_holds_nobody_up() {
    let (database, folder, pair) = (Database::create().await, TempDir::new().unwrap(), pair());
    write(folder.path(), &pair, &pair);
    let mut settings = settings(folder.path());
    settings.extend([("http.header_timeout", "500ms".to_owned()), ("http.max_connections", "2".to_owned())]);
    let server = Server::start_with(&database, &settings).await;
    let address = server.address().replace("http://", "").replace("/fhir", "");
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    // All places are theirs, until their time is over.
    assert!(serves(&server, &pair).await);
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0]).await.unwrap_or_default(), 0, "it is closed without a word");
    }
}

#[tokio::test]
async fn a_server_without_a_good_pair_does_not_start() {
    let (database, folder, one, other) = (Database::create().await, TempDir::new().unwrap(), pair(), pair());
    let start = async || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fhir-bulk-export"));
        command.arg("serve").env("DATABASE_URL", database.url());
        command.env("BULK_EXPORT__HTTP__LISTEN", "127.0.0.1:0").env("BULK_EXPORT__OPERATOR__LISTEN", "127.0.0.1:0");
        for (key, value) in settings(folder.path()) {
            command.env(format!("BULK_EXPORT__{}", key.to_ascii_uppercase().replace('.', "__")), value);
        }
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let error = start().await;
    assert!(error.contains("http.tls: cannot read") && error.contains("chain.pem"), "{error}");
    write(folder.path(), &one, &other);
    let error = start().await;
    assert!(error.contains("cannot be used together"), "{error}");
    std::fs::write(folder.path().join("key.pem"), one.cert.pem()).unwrap();
    let error = start().await;
    assert!(error.contains("key.pem holds no private key in PEM"), "{error}");
}
