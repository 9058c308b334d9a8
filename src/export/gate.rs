//! Between the rows of a part and where they go: what comes out of what was read, as the filters of the export have it
//! (rules G9, G12).

use super::found::Known;
use super::sink::Stopped;
use super::unreadable::Unreadable;
use crate::binary::store::Outcome;
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

    /// Whether a resource comes out; none if that depends on what is not known yet. [`learn`](Gate::learn) asks for it.
    pub(super) fn judge(&mut self, asked: &Asked, body: &[u8], patients: &str) -> Result<Option<bool>, Stopped> {
        let Some(filter) = &asked.filter else { return Ok(Some(true)) };
        let body = str::from_utf8(body).map_err(|error| sqlx::Error::Decode(error.into()))?;
        let is_admitted = match filter.judge(body, &self.context, &|lookup| self.known.get(lookup)) {
            Judgement::Admitted => true,
            Judgement::LeftOut => false,
            Judgement::Unreadable(reason) => {
                self.unreadable.note(body, patients, &reason);
                false
            }
            Judgement::Untold => {
                self.unreadable.count();
                false
            }
            Judgement::Depends(lookups) => {
                self.known.want(lookups);
                return Ok(None);
            }
        };
        self.left_out += i64::from(!is_admitted);
        Ok(Some(is_admitted))
    }

    /// Whether a resource comes out, whatever has to be asked for that: one that depends on very much says so bit by bit.
    pub(super) async fn admits(&mut self, asked: &Asked, body: &[u8], patients: &str) -> Result<bool, Stopped> {
        loop {
            match self.judge(asked, body, patients)? {
                Some(is_admitted) => return Ok(is_admitted),
                None => self.learn().await?,
            }
        }
    }

    /// Whether no more should wait.
    pub(super) fn wants_much(&self) -> bool {
        self.known.wants_much()
    }

    /// Asks for all that was not known.
    pub(super) async fn learn(&mut self) -> Result<(), sqlx::Error> {
        self.known.learn().await
    }

    /// Makes room when nothing waits any more: before that it would have to be asked for again.
    pub(super) fn make_room(&mut self) {
        self.known.make_room();
    }

    /// How many were left out.
    pub(super) fn left_out(&self) -> i64 {
        self.left_out
    }

    /// What there is to say in the outcome file, a line each.
    pub(super) fn into_remarks(self) -> Vec<Outcome> {
        self.unreadable.into_remarks()
    }
}
