//! The input of an operation as name and value, from a query or from a Parameters resource.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::outcome::shown;

/// One parameter. In a Parameters resource its value may have any simple FHIR type: clients differ (rule A26).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// More of them no operation has a use for.
const MOST: usize = 1_000;

/// The parameters of a URL's query. A blank is kept as it is decoded: only a parameter knows whether it was a `+`.
///
/// # Errors
/// What is wrong with them, in words for the client.
pub(crate) fn from_query(query: &str) -> Result<Vec<Parameter>, String> {
    let parameters = url::form_urlencoded::parse(query.as_bytes());
    checked(parameters.map(|(name, value)| Ok(Parameter { name: name.into_owned(), value: value.into_owned() })))
}

/// As many as anybody needs, and texts that can be stored: no FHIR string has a NUL, and none in Postgres.
fn checked(parameters: impl Iterator<Item = Result<Parameter, String>>) -> Result<Vec<Parameter>, String> {
    let parameters = parameters.take(MOST + 1).collect::<Result<Vec<_>, String>>()?;
    if parameters.len() > MOST {
        return Err(format!("There are more than {MOST} parameters; send fewer."));
    }
    match parameters.iter().find(|parameter| parameter.name.contains('\0') || parameter.value.contains('\0')) {
        Some(Parameter { name, .. }) => {
            Err(format!("The parameter {} has a NUL character in it, which no text in FHIR may have.", shown(name)))
        }
        None => Ok(parameters),
    }
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
        Some("Parameters") => checked(body.parameter.into_iter().map(parameter)),
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
        None => Err(format!("The parameter {} needs exactly one value, such as valueString.", shown(name))),
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
            r#"{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"a\u0000"}]}"#,
            r#"{"resourceType":"Parameters","parameter":[{"name":"\u0000","valueString":"a"}]}"#,
            &format!(r#"{{"resourceType":"Parameters","parameter":{}"#, "[".repeat(500_000)),
            &format!(r#"{{"resourceType":"Parameters","x":{}{}}}"#, "[".repeat(500_000), "]".repeat(400_000)),
        ] {
            assert!(from_body(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn more_parameters_than_anybody_needs_are_refused() {
        assert_eq!(from_query(&"a&".repeat(MOST)).map(|found| found.len()), Ok(MOST));
        assert!(from_query(&"a&".repeat(MOST + 1)).is_err());
        let of = |count| {
            let parameters = vec![r#"{"name":"a","valueString":"b"}"#; count].join(",");
            from_body(format!(r#"{{"resourceType":"Parameters","parameter":[{parameters}]}}"#).as_bytes())
        };
        assert_eq!((of(MOST).map(|found| found.len()), of(MOST + 1).is_err()), (Ok(MOST), true));
    }

    #[test]
    fn a_nul_stands_in_no_parameter() {
        assert!(from_query("_typeFilter=Patient?name=a%00").unwrap_err().contains("_typeFilter"));
        assert!(from_query("a%00=b").is_err());
    }

    #[test]
    fn what_is_repeated_of_a_name_is_short() {
        let body = format!(r#"{{"resourceType":"Parameters","parameter":[{{"name":"{}"}}]}}"#, "n".repeat(9_000));
        assert!(from_body(body.as_bytes()).unwrap_err().len() < 300);
    }
}
