//! Data engineers: clients that export, follow the store by `_since`, change their minds, read slowly and give up, as
//! long as the run lasts. Each finishes what it has begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::client::{Client, below_base};
use crate::download::{Downloader, Manner, NoFile, PLAIN};
use crate::export::{Asked, Ended, Exporter};
use crate::filter::Filter;
use crate::findings::{Findings, Of};
use crate::installation::RETENTION;
use crate::random::Random;
use crate::store::{LARGE, type_names};

/// One of them.
pub struct Engineer {
    pub client: Arc<Client>,
    pub findings: Arc<Findings>,
    pub random: Random,
    pub stop: Arc<AtomicBool>,
    /// The store has resources that do not fit into the shared volume.
    pub with_large: bool,
}

impl Engineer {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Does one thing after the other.
    pub async fn work(mut self) {
        let (client, findings) = (Arc::clone(&self.client), Arc::clone(&self.findings));
        let exporter = Exporter { client: &client, findings: &findings, retention: RETENTION };
        while self.goes_on() {
            match self.random.below(8) {
                0..3 => self.export(&exporter).await,
                3 => self.cancel(&exporter).await,
                4 => self.storm(&exporter).await,
                5 | 6 => self.remove_while_downloading(&exporter).await,
                _ => self.read_slowly(&exporter).await,
            }
            tokio::time::sleep(self.random.time(0..300)).await;
        }
    }

    /// Follows the store: each export has the instant of the one before as its `_since`.
    pub async fn follow(mut self) {
        let (client, findings) = (Arc::clone(&self.client), Arc::clone(&self.findings));
        let exporter = Exporter { client: &client, findings: &findings, retention: RETENTION };
        let types = type_names();
        // The large type would make the first link last as long as all the others.
        let mut asked = Asked::of(if self.with_large { &types } else { &[] });
        let mut link = 0;
        // One more when all the others have stopped.
        let mut is_last = false;
        while !is_last {
            is_last = !self.goes_on();
            // One that failed is tried again from the same instant.
            if let Some((job, mut export)) = exporter.export(&asked, &mut self.random).await {
                asked.since = Some(export.instant.clone());
                export.link = Some(link);
                link += 1;
                findings.count(Of::Seen, "links of the chain of _since");
                findings.keep(export);
                exporter.delete(&job).await;
            }
            tokio::time::sleep(self.random.time(0..200)).await;
        }
    }

    fn some_types(&mut self) -> Asked {
        let mut types = type_names();
        self.random.shuffle(&mut types);
        types.truncate(1 + self.random.index(types.len()));
        Asked::of(&types)
    }

    /// Some types, or what filters let through.
    fn something(&mut self) -> Asked {
        if self.random.one_in(2) { self.some_types() } else { self.filtered() }
    }

    /// One filter or several; perhaps with Provenance for the sake of what they let through.
    fn filtered(&mut self) -> Asked {
        let mut filters = Filter::ALL.to_vec();
        self.random.shuffle(&mut filters);
        filters.truncate(1 + self.random.index(filters.len()));
        let with_provenance = self.random.one_in(2);
        Asked { filters, with_provenance, ..Asked::of(&["Patient", "Observation"]) }
    }

    /// The whole, or something of it; removed afterwards, or left to expire.
    async fn export(&mut self, exporter: &Exporter<'_>) {
        let asked = if self.random.one_in(3) { Asked::of(&type_names()) } else { self.something() };
        if let Some((job, export)) = exporter.export(&asked, &mut self.random).await {
            if !asked.filters.is_empty() {
                exporter.findings.count(Of::Seen, "exports with filters");
            }
            exporter.findings.keep(export);
            if !self.random.one_in(3) {
                exporter.delete(&job).await;
            }
        }
    }

    /// Once, an export that is too large for the shared volume.
    pub async fn export_large(mut self) {
        let (client, findings) = (Arc::clone(&self.client), Arc::clone(&self.findings));
        let exporter = Exporter { client: &client, findings: &findings, retention: RETENTION };
        while self.goes_on() {
            if let Some((job, export)) = exporter.export(&Asked::of(&[LARGE]), &mut self.random).await {
                findings.keep(export);
                findings.count(Of::Seen, "exports with a volume of their own");
                exporter.delete(&job).await;
            }
            tokio::time::sleep(self.random.time(2_000..20_000)).await;
        }
    }

    async fn cancel(&mut self, exporter: &Exporter<'_>) {
        let asked = self.something();
        let Some(job) = exporter.kick_off(&asked, &mut self.random).await else { return };
        tokio::time::sleep(self.random.time(0..1_500)).await;
        exporter.delete(&job).await;
        self.findings.count(Of::Seen, "exports cancelled, perhaps too late");
    }

    /// Many small ones that come and go at once: they race with each other and with the reaper.
    async fn storm(&mut self, exporter: &Exporter<'_>) {
        let asked = Asked::of(&["Task"]);
        let mut jobs = Vec::new();
        for _ in 0..3 + self.random.below(4) {
            jobs.extend(exporter.kick_off(&asked, &mut self.random).await);
        }
        self.random.shuffle(&mut jobs);
        for job in &jobs {
            exporter.delete(job).await;
            self.findings.count(Of::Seen, "exports cancelled, perhaps too late");
        }
    }

    /// Removes an export while a file of it is on its way.
    async fn remove_while_downloading(&mut self, exporter: &Exporter<'_>) {
        let asked = Asked::of(if self.with_large && self.random.one_in(2) { &[LARGE] } else { &["Basic"] });
        let Some(job) = exporter.kick_off(&asked, &mut self.random).await else { return };
        let Ended::Completed(manifest) = exporter.ended(&job).await else { return };
        let Some(path) = self.any_file(&manifest) else { return };
        let downloader = Downloader { client: &self.client, findings: &self.findings };
        let Ok(content) = downloader.whole(&path, PLAIN, &mut self.random).await else { return };
        let pause = self.random.time(0..1_000);
        let removal = async {
            exporter.delete(&job).await;
            // Time for the reaper.
            tokio::time::sleep(pause).await;
        };
        // Where it could not begin there is nothing to see.
        drop(downloader.while_happens(&path, &content, removal).await);
    }

    async fn read_slowly(&mut self, exporter: &Exporter<'_>) {
        let asked = Asked::of(&["DocumentReference"]);
        let Some(job) = exporter.kick_off(&asked, &mut self.random).await else { return };
        let Ended::Completed(manifest) = exporter.ended(&job).await else { return };
        let Some(path) = self.any_file(&manifest) else { return };
        let manner = Manner { gzip: self.random.one_in(2), pause: Some(self.random.time(5..60)) };
        let downloader = Downloader { client: &self.client, findings: &self.findings };
        match downloader.whole(&path, manner, &mut self.random).await {
            Ok(_) => self.findings.count(Of::Seen, "files read slowly"),
            Err(NoFile::Unanswered) => self.findings.violation(format!("{path} could not be had")),
            Err(NoFile::Gone | NoFile::Wrong) => {}
        }
        if self.random.one_in(2) {
            exporter.delete(&job).await;
        }
    }

    fn any_file(&mut self, manifest: &Value) -> Option<String> {
        let files = manifest["output"].as_array().filter(|files| !files.is_empty())?;
        let url = files[self.random.index(files.len())]["url"].as_str()?;
        below_base(url).map(str::to_owned)
    }
}
