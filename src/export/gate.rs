//! Between the rows of a part and where they go: what comes out of what was read, as the filters of the export have it
//! (rules G9, G12).

use serde::Deserialize;

use super::remark::remark;
use super::sink::Stopped;
use crate::fhir::outcome::IssueType;
use crate::resource::body::Subset;
use crate::search::{Context, Filter, Judgement};

/// So many resources that a filter cannot read are named; what more there are of them is counted.
const NAMED: usize = 1_000;
/// How much is said of each, in characters.
const MAX_REASON: usize = 500;

/// What is asked of the resources of one type, besides: mostly nothing.
pub(super) struct Asked {
    /// Which of them come out, …
    pub(super) filter: Option<Filter>,
    /// … and what of each.
    pub(super) subset: Option<Subset>,
}

impl Asked {
    /// Whether a resource goes on as it is read, in pieces if it is long.
    pub(super) fn is_nothing(&self) -> bool {
        self.filter.is_none() && self.subset.is_none()
    }
}

/// Lets pass what the filters admit, and notes what they cannot read: that is left out, and the export goes on.
pub(super) struct Gate {
    context: Context,
    left_out: i64,
    unreadable: Vec<String>,
    /// Those that are not named.
    more_unreadable: u64,
}

impl Gate {
    pub(super) fn of(context: Context) -> Self {
        Self { context, left_out: 0, unreadable: Vec::new(), more_unreadable: 0 }
    }

    /// Whether a resource comes out.
    pub(super) async fn admits(&mut self, filter: &Filter, body: &[u8]) -> Result<bool, Stopped> {
        let body = str::from_utf8(body).map_err(|error| sqlx::Error::Decode(error.into()))?;
        let is_admitted = match self.judge(filter, body).await? {
            Judgement::Admitted => true,
            Judgement::LeftOut => false,
            Judgement::Unreadable(reason) => {
                self.note_unreadable(body, &reason);
                false
            }
            Judgement::Depends(_) => return Err(undecided()),
        };
        self.left_out += i64::from(!is_admitted);
        Ok(is_admitted)
    }

    /// How many were left out.
    pub(super) fn left_out(&self) -> i64 {
        self.left_out
    }

    /// What there is to say in the outcome file, a line each.
    pub(super) fn into_remarks(self) -> Vec<String> {
        let Self { mut unreadable, more_unreadable, .. } = self;
        if more_unreadable > 0 {
            let text = format!("{more_unreadable} more resources are left out, for a filter cannot read them.");
            unreadable.push(remark(IssueType::Value, text));
        }
        unreadable
    }

    async fn judge(&self, filter: &Filter, body: &str) -> Result<Judgement, Stopped> {
        Ok(filter.judge(body, &self.context, &|_| None))
    }

    fn note_unreadable(&mut self, body: &str, reason: &str) {
        if self.unreadable.len() == NAMED {
            self.more_unreadable += 1;
            return;
        }
        let reason: String = reason.chars().take(MAX_REASON).collect();
        let text = format!("{} is left out, for a filter cannot read it: {reason}", name(body));
        self.unreadable.push(remark(IssueType::Value, text));
    }
}

/// Its type and id.
fn name(body: &str) -> String {
    #[derive(Deserialize)]
    struct Named {
        #[serde(rename = "resourceType")]
        resource_type: String,
        id: String,
    }
    match serde_json::from_str(body) {
        Ok(Named { resource_type, id }) => format!("{resource_type}/{id}"),
        Err(_) => "A resource".to_owned(),
    }
}

/// What has to be looked for first was not.
fn undecided() -> Stopped {
    Stopped::Database(sqlx::Error::Protocol("what a filter depends on is not known".to_owned()))
}
