//! Between the rows of a part and where they go: what comes out of what was read, as the filters of the export have it
//! (rules G9, G12).

use super::found::Known;
use super::sink::Stopped;
use super::unreadable::Unreadable;
use crate::fhir::resource_type::ResourceType;
use crate::resource::body::Subset;
use crate::search::{Context, Filter, Judgement};

/// What is asked of the resources of one type, besides: mostly nothing.
pub(super) struct Asked {
    /// Which of them come out, …
    pub(super) filter: Option<Filter>,
    /// … and what of each.
    pub(super) subset: Option<Subset>,
    /// The type, if it is noted what comes out of it: what is noted is filtered, too.
    pub(super) noted: Option<ResourceType>,
}

impl Asked {
    /// Whether a resource goes on as it is read, in pieces if it is long.
    pub(super) fn is_nothing(&self) -> bool {
        self.filter.is_none() && self.subset.is_none()
    }
}

/// Lets pass what the filters admit, and notes what they cannot read: that is left out, and the export goes on.
pub(super) struct Gate<'a> {
    context: Context,
    known: Known<'a>,
    left_out: i64,
    unreadable: Unreadable,
}

impl<'a> Gate<'a> {
    pub(super) fn of(context: Context, known: Known<'a>) -> Self {
        Self { context, known, left_out: 0, unreadable: Unreadable::that_are("left out") }
    }

    /// Whether a resource comes out.
    pub(super) async fn admits(&mut self, filter: &Filter, body: &[u8]) -> Result<bool, Stopped> {
        let body = str::from_utf8(body).map_err(|error| sqlx::Error::Decode(error.into()))?;
        self.known.make_room();
        let is_admitted = loop {
            let judgement = filter.judge(body, &self.context, &|lookup| self.known.get(lookup));
            match judgement {
                Judgement::Admitted => break true,
                Judgement::LeftOut => break false,
                Judgement::Unreadable(reason) => {
                    self.unreadable.note(body, &reason);
                    break false;
                }
                Judgement::Depends(lookups) => self.known.learn(lookups).await?,
            }
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
        self.unreadable.into_remarks()
    }
}
