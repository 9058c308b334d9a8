//! What the server says of itself is true (rules J1-J5, A39).

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Database, Server};

#[tokio::test]
async fn the_capability_statement_names_what_there_is() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let response = anybody.get("/metadata?_format=json").send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/fhir+json; charset=UTF-8");
    let statement: Value = response.json().await.unwrap();
    assert_eq!((&statement["kind"], &statement["fhirVersion"]), (&"instance".into(), &"4.0.1".into()));
    assert_eq!(statement["instantiates"][0], "http://hl7.org/fhir/uv/bulkdata/CapabilityStatement/bulk-data");
    let rest = &statement["rest"][0];
    assert!(rest.get("security").is_none(), "without tokens there is nothing to say of them");
    let operations: Vec<_> = rest["operation"]
        .as_array()
        .unwrap()
        .iter()
        .map(|operation| (operation["name"].as_str().unwrap(), operation["definition"].as_str().unwrap().to_owned()))
        .collect();
    let local = |id: &str| format!("{}/OperationDefinition/{id}", server.base);
    assert!(operations.contains(&("export", "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/export".into())));
    assert!(operations.contains(&("export", local("-s-export"))));
    assert!(operations.contains(&("export-poll-status", local("-s-export-poll-status"))));
    for (name, id) in [("Patient", "Patient-it-export"), ("Group", "Group-i-export")] {
        let of_type = rest["resource"].as_array().unwrap().iter().find(|resource| resource["type"] == name).unwrap();
        assert_eq!(of_type["operation"][2]["definition"], local(id));
        // Conformance suites look for the one or the other name.
        let guides: BTreeSet<&str> =
            [0, 1].map(|n| of_type["operation"][n]["name"].as_str().unwrap()).into_iter().collect();
        assert!(guides.contains("export") && guides.iter().any(|name| name.ends_with("-export")), "{guides:?}");
    }
    let types: Vec<_> =
        rest["resource"].as_array().unwrap().iter().map(|resource| resource["type"].as_str().unwrap()).collect();
    assert_eq!(types.len(), 146);
    // J5
    let parameters = |name: &str| -> Vec<(String, String)> {
        let resource = rest["resource"].as_array().unwrap().iter().find(|resource| resource["type"] == name).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let listed = resource["searchParam"].as_array().unwrap().iter();
        listed.map(|listed| (text(&listed["name"]), text(&listed["type"]))).collect()
    };
    let of_observation = parameters("Observation");
    for (name, kind) in [("code", "token"), ("_lastUpdated", "date"), ("code-value-quantity", "composite")] {
        assert!(of_observation.contains(&(name.to_owned(), kind.to_owned())), "{of_observation:?}");
    }
    assert!(!parameters("Location").iter().any(|(name, _)| name == "near"), "nothing that cannot be evaluated");
    let binary = rest["resource"].as_array().unwrap().iter().find(|resource| resource["type"] == "Binary").unwrap();
    assert_eq!(binary["interaction"][0]["code"], "read");
    assert_eq!(binary["conditionalRead"], "full-support");
}

#[tokio::test]
async fn the_operation_definitions_are_there_and_list_what_is_accepted() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let definition = async |id: &str| -> Value {
        let response = anybody.get(&format!("/OperationDefinition/{id}")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    };
    let export = definition("-s-export").await;
    assert_eq!((&export["code"], &export["system"], &export["type"]), (&"export".into(), &true.into(), &false.into()));
    let values = [
        ("_outputFormat", "ndjson"),
        ("_type", "Patient"),
        ("_since", "2020-01-01T00:00:00Z"),
        ("_until", "2030-01-01T00:00:00Z"),
        ("_includeHistory", "true"),
        ("_elements", "id"),
        ("_typeFilter", "Patient?active=true"),
        ("_typePostFetchFilterUrl", "Observation?status=final"),
        ("_exportId", "x"),
        ("_minimumFileSize", "1000"),
        ("_maximumFileSize", "2000000"),
        ("includeAssociatedData", "LatestProvenanceResources"),
        ("allowPartialManifests", "true"),
    ];
    let names: Vec<_> =
        export["parameter"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, values.map(|(name, _)| name));
    for (name, value) in values {
        anybody.kick_off(&format!("?{name}={value}")).await.completed().await;
    }
    for (id, is_type) in [("Patient-it-export", true), ("Group-i-export", false)] {
        let export = definition(id).await;
        assert_eq!(
            (&export["system"], &export["type"], &export["instance"]),
            (&false.into(), &is_type.into(), &true.into())
        );
        let names: Vec<_> = export["parameter"].as_array().unwrap().iter().map(|p| p["name"].clone()).collect();
        assert_eq!(names[values.len()..], ["organizeOutputBy", "patient"]);
    }
    let poll = definition("-s-export-poll-status").await;
    let names: Vec<_> = poll["parameter"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["_jobId", "page"]);
    anybody.refused(anybody.get("/OperationDefinition/other"), 404).await;
}
