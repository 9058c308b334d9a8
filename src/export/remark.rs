//! What an export has to say besides: the lines of its outcome files.

use crate::binary::store::Outcome;
use crate::fhir::outcome::{Issue, IssueType, Severity, operation_outcome};

/// Of all of them: where something is wrong, the export fails.
pub(super) const SEVERITY: Severity = Severity::Warning;

/// One line.
pub(super) fn remark(code: IssueType, text: String) -> Outcome {
    let line = operation_outcome(&[Issue { severity: SEVERITY, code, text }]).to_string();
    Outcome { line, patients: String::new() }
}
