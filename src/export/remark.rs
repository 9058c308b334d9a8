//! What an export has to say besides: the lines of its outcome files.

use crate::fhir::outcome::{Issue, IssueType, Severity, operation_outcome};

/// Of all of them: where something is wrong, the export fails.
pub(super) const SEVERITY: Severity = Severity::Warning;

/// One line.
pub(super) fn remark(code: IssueType, text: String) -> String {
    operation_outcome(&[Issue { severity: SEVERITY, code, text }]).to_string()
}
