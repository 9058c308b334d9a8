//! A server that wants tokens, with one resource of each of three types, two of which its users may have.

use reqwest::{Method, RequestBuilder};

use super::{Caller, Database, Issuer, Job, Server, trusting};

pub const PATIENT: &str = r#"{"resourceType":"Patient","id":"p"}"#;
pub const ROLES: [&str; 4] = ["$bulk-export", "Binary.read", "Patient.search", "Task.*"];

pub async fn set_up() -> (Database, Issuer, Server) {
    let database = Database::create().await;
    database.put(&[PATIENT, r#"{"resourceType":"Task","id":"t"}"#, r#"{"resourceType":"Device","id":"d"}"#]).await;
    let issuer = Issuer::start().await;
    let server = Server::start_with(&database, &trusting(&[&issuer])).await;
    (database, issuer, server)
}

/// Every call about a job and its file.
pub fn calls(caller: &Caller, job: &Job, file: &str) -> Vec<RequestBuilder> {
    vec![
        caller.get(&job.url),
        caller.request(Method::POST, &job.url),
        caller.request(Method::DELETE, &job.url),
        caller.get(file),
        caller.get(&format!("{file}/_history/1")),
        caller.get(file).header("accept", "application/fhir+json"),
    ]
}
