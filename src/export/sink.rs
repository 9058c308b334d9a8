//! Where what is read of a part goes: through the gate, into lines, which are counted, at the pace of the governor.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::found::Finds;
use super::gate::{Asked, Gate};
use super::governor::Paced;
use super::referenced::Collector;
use super::waiting::{Resource, Waiting};
use crate::binary::ndjson::{Gone, Lines};
use crate::resource::associated::COMES_OUT;
use crate::resource::body::{Subset, id_in};

/// Why reading ended early.
pub(super) enum Stopped {
    Database(sqlx::Error),
    /// The other end of the pipeline is gone, and says why itself.
    Gone,
}

impl From<sqlx::Error> for Stopped {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Gone> for Stopped {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

/// Where what is read goes.
pub(super) struct Sink<'a> {
    pub(super) gate: Gate<'a>,
    pub(super) waiting: Waiting,
    pub(super) lines: Lines,
    /// Notes what they refer to, if that is to come, too.
    pub(super) references: Option<Collector>,
    /// Notes what comes out.
    pub(super) finds: Option<Finds>,
    /// Counts the resources that were read.
    pub(super) examined: &'a AtomicI64,
    pub(super) paced: Paced<'a>,
}

impl Sink<'_> {
    /// A resource: what is asked of it, if it is admitted, now or when that is known; with the ids of the Patients it is
    /// about, a blank between each two.
    pub(super) async fn put(
        &mut self,
        body: Cow<'_, [u8]>,
        patients: Cow<'_, str>,
        asked: &Arc<Asked>,
        resource_type: &'static str,
    ) -> Result<(), Stopped> {
        match self.gate.judge(asked, &body, &patients)? {
            Some(true) if self.waiting.is_empty() => self.put_out(&body, &patients, asked, resource_type).await,
            Some(false) => {
                self.leave_out();
                Ok(())
            }
            judged => {
                let (body, patients, asked) = (body.into_owned(), patients.into_owned(), Arc::clone(asked));
                self.waiting.add(Resource { body, patients, asked, resource_type, is_admitted: judged.is_some() });
                if self.waiting.is_full() || self.gate.wants_much() { self.settle().await } else { Ok(()) }
            }
        }
    }

    /// Learns what those that wait depend on, all at once, and lets them go.
    async fn settle(&mut self) -> Result<(), Stopped> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.gate.learn().await?;
        for Resource { body, patients, asked, resource_type, is_admitted } in self.waiting.take() {
            if is_admitted || self.gate.admits(&asked, &body, &patients).await? {
                self.put_out(&body, &patients, &asked, resource_type).await?;
            } else {
                self.leave_out();
            }
        }
        self.gate.make_room();
        Ok(())
    }

    fn leave_out(&self) {
        self.examined.fetch_add(1, Ordering::Relaxed);
    }

    async fn put_out(
        &mut self,
        body: &[u8],
        patients: &str,
        asked: &Asked,
        resource_type: &str,
    ) -> Result<(), Stopped> {
        if let (Some(finds), Some(resource_type)) = (&mut self.finds, asked.noted) {
            let body = str::from_utf8(body).map_err(|error| sqlx::Error::Decode(error.into()))?;
            finds.add((COMES_OUT, resource_type), id_in(body));
            finds.pass_on_if_much().await?;
        }
        match &asked.subset {
            None => Ok(self.push(body, patients, resource_type).await?),
            Some(subset) => self.push_subset(subset, body, patients, resource_type).await,
        }
    }

    /// Begins a line that comes in pieces, after those that wait.
    pub(super) async fn begin_line(&mut self, bytes: u64, resource_type: &str) -> Result<(), Stopped> {
        self.settle().await?;
        Ok(self.lines.begin_line(bytes, resource_type).await?)
    }

    /// Ends the block under way: nothing waits for longer.
    pub(super) async fn end_block(&mut self, resource_type: &str) -> Result<(), Stopped> {
        self.settle().await?;
        Ok(self.lines.end_block(resource_type).await?)
    }

    /// Ends the file under way: nothing waits for longer.
    pub(super) async fn end_file(&mut self, resource_type: &str) -> Result<(), Stopped> {
        self.settle().await?;
        Ok(self.lines.end_file(resource_type).await?)
    }

    pub(super) async fn push(&mut self, line: &[u8], patients: &str, resource_type: &str) -> Result<(), Gone> {
        self.lines.begin_line(line.len() as u64, resource_type).await?;
        self.lines.is_about(patients);
        self.append(line).await?;
        self.end_line(resource_type).await
    }

    pub(super) async fn append(&mut self, piece: &[u8]) -> Result<(), Gone> {
        if let Some(references) = &mut self.references {
            references.read(piece).await?;
        }
        self.lines.append(piece).await
    }

    /// What the subset leaves of a resource: it is about whom the whole is, whether or not that is left.
    async fn push_subset(
        &mut self,
        subset: &Subset,
        body: &[u8],
        patients: &str,
        resource_type: &str,
    ) -> Result<(), Stopped> {
        let body = str::from_utf8(body).map_err(|error| sqlx::Error::Decode(error.into()))?;
        let pieces = subset.cut(body);
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.lines.begin_line(bytes, resource_type).await?;
        self.lines.is_about(patients);
        for piece in pieces {
            self.append(piece.as_bytes()).await?;
        }
        Ok(self.end_line(resource_type).await?)
    }

    pub(super) async fn end_line(&mut self, resource_type: &str) -> Result<(), Gone> {
        self.lines.end_line(resource_type).await?;
        self.examined.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
