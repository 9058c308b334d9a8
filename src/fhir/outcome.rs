//! OperationOutcome: how FHIR says what went wrong. `diagnostics` and `details.text` say the same, since some clients
//! read the one and some the other (rule K24).

use serde::Serialize;
use serde_json::{Value, json};

/// How bad an issue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Severity {
    Error,
    Warning,
    Information,
}

/// What kind of issue it is: FHIR R4 value set issue-type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum IssueType {
    Invalid,
    Value,
    NotSupported,
    Login,
    Expired,
    Forbidden,
    NotFound,
    Processing,
    BusinessRule,
    TooLong,
    Throttled,
    Transient,
    NoStore,
    Exception,
    Informational,
}

/// One issue of an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Issue {
    pub(crate) severity: Severity,
    pub(crate) code: IssueType,
    pub(crate) text: String,
}

impl Issue {
    pub(crate) fn error(code: IssueType, text: impl Into<String>) -> Self {
        Self { severity: Severity::Error, code, text: text.into() }
    }
}

/// The resource.
pub(crate) fn operation_outcome(issues: &[Issue]) -> Value {
    let issues: Vec<Value> = issues
        .iter()
        .map(|issue| {
            json!({
                "severity": issue.severity,
                "code": issue.code,
                "details": { "text": issue.text },
                "diagnostics": issue.text,
            })
        })
        .collect();
    json!({ "resourceType": "OperationOutcome", "issue": issues })
}

/// A client's own text, short enough to be repeated.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(100).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
