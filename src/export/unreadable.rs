//! Resources in which something stands where a filter looks that cannot be read: each goes to the outcome file, and the
//! export goes on. Of those that only the query cannot tell which limits the caller's rights, nothing is said but how many
//! they are: perhaps they are not for the caller.

use super::remark::remark;
use crate::binary::store::Outcome;
use crate::fhir::outcome::IssueType;
use crate::resource::body::name_in;

/// So many are named; what more there are is counted.
const NAMED: usize = 1_000;
/// How much is said of each, in characters.
const MAX_REASON: usize = 500;

/// Those of one part.
pub(super) struct Unreadable {
    /// What becomes of them: `left out`.
    are: &'static str,
    named: Vec<Outcome>,
    /// Those that are not named.
    more: u64,
    /// Those of which it cannot be told whether the caller may have them.
    untold: u64,
}

impl Unreadable {
    pub(super) fn that_are(are: &'static str) -> Self {
        Self { are, named: Vec::new(), more: 0, untold: 0 }
    }

    /// Notes one, and whose data it is.
    pub(super) fn note(&mut self, body: &str, patients: &str, reason: &str) {
        if self.named.len() == NAMED {
            self.more += 1;
            return;
        }
        let reason: String = reason.chars().take(MAX_REASON).collect();
        let text = format!("{} is {}, for a filter cannot read it: {reason}", name_in(body), self.are);
        self.named.push(Outcome { patients: patients.to_owned(), ..remark(IssueType::Value, text) });
    }

    /// Counts one that may be none of the caller's.
    pub(super) fn count(&mut self) {
        self.untold += 1;
    }

    /// What there is to say in the outcome file, a line each.
    pub(super) fn into_remarks(self) -> Vec<Outcome> {
        let Self { are, named: mut remarks, more, untold } = self;
        if more > 0 {
            let text = format!("{more} more resources are {are}, for a filter cannot read them.");
            remarks.push(remark(IssueType::Value, text));
        }
        if untold > 0 {
            let text = format!("{untold} resources are {are}, for the query that limits your rights cannot read them.");
            remarks.push(remark(IssueType::Value, text));
        }
        remarks
    }
}
