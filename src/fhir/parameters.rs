//! The input of an operation as name and value, from a query or from a Parameters resource.

use serde::Deserialize;
use serde_json::{Map, Value};

/// One parameter. In a Parameters resource its value may have any simple FHIR type: clients differ (rule A26).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// The parameters of a URL's query. A blank is kept as it is decoded: only a parameter knows whether it was a `+`.
pub(crate) fn from_query(query: &str) -> Vec<Parameter> {
    url::form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| Parameter { name: name.into_owned(), value: value.into_owned() })
        .collect()
}

#[derive(Deserialize)]
struct Body {
    #[serde(rename = "resourceType")]
    resource_type: Option<String>,
    #[serde(default)]
    parameter: Vec<Map<String, Value>>,
}

/// The parameters of a body, which is a Parameters resource or empty.
///
/// # Errors
/// What is wrong with it, in words for the client.
pub(crate) fn from_body(body: &[u8]) -> Result<Vec<Parameter>, String> {
    if body.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let body: Body = serde_json::from_slice(body).map_err(|error| {
        format!("The body is not a Parameters resource in JSON (line {}, column {}).", error.line(), error.column())
    })?;
    match body.resource_type.as_deref() {
        Some("Parameters") => body.parameter.into_iter().map(parameter).collect(),
        Some(_) => Err("The body is another resource than Parameters.".to_owned()),
        None => Err("The body has no resourceType; a Parameters resource is expected.".to_owned()),
    }
}

fn parameter(parameter: Map<String, Value>) -> Result<Parameter, String> {
    let Some(name) = parameter.get("name").and_then(Value::as_str) else {
        return Err("A parameter of the Parameters resource has no name.".to_owned());
    };
    let mut values = parameter.iter().filter(|(key, _)| key.starts_with("value"));
    let value = match (values.next(), values.next()) {
        (Some((_, value)), None) => simple(value),
        _ => None,
    };
    match value {
        Some(value) => Ok(Parameter { name: name.to_owned(), value }),
        None => Err(format!("The parameter {name} needs exactly one value, such as valueString.")),
    }
}

fn simple(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        // A Reference, or a Coding (rule K21).
        Value::Object(members) => members.get("reference").or_else(|| members.get("code"))?.as_str().map(str::to_owned),
        Value::Null | Value::Array(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_have_any_simple_type() {
        let body = br#"{"resourceType":"Parameters","parameter":[
            {"name":"_since","valueInstant":"2026-04-16T12:05:13.449+00:00"},
            {"name":"_type","valueCode":"Task"}]}"#;
        let parameters = from_body(body).unwrap();
        assert_eq!(parameters[0].value, "2026-04-16T12:05:13.449+00:00");
        assert_eq!(parameters[1].value, "Task");
        assert_eq!(from_body(b" \n").unwrap(), []);
    }

    #[test]
    fn what_is_no_parameters_resource_is_refused() {
        for body in [
            r#"{"resourceType":"Patient"}"#,
            "[]",
            "{",
            "{}",
            r#"{"resourceType":"Parameters","parameter":[{"name":"_type"}]}"#,
            r#"{"resourceType":"Parameters","parameter":[{"valueString":"x"}]}"#,
            r#"{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"x","valueCode":"y"}]}"#,
        ] {
            assert!(from_body(body.as_bytes()).is_err(), "{body}");
        }
    }
}
