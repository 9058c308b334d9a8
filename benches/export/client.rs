//! A client: kicks off, polls, downloads and drops what it gets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_LOCATION};
use serde::Deserialize;

use crate::{Result, Timed, timed};

/// Between two polls of a small export, and of one that is not done after half a second: it may be polled so for ever.
const POLL_EVERY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
const SMALL: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

/// A completed export.
pub struct Job {
    url: String,
    pub files: Vec<File>,
}

#[derive(Deserialize)]
struct Manifest {
    output: Vec<File>,
}

#[derive(Clone, Deserialize)]
pub struct File {
    url: String,
    pub count: usize,
}

impl Job {
    pub fn resources(&self) -> usize {
        self.files.iter().map(|file| file.count).sum()
    }
}

/// How a file is asked for.
#[derive(Clone, Copy)]
pub enum Representation {
    Gzip,
    Identity,
    FhirJson,
}

impl Client {
    pub fn new(base: String) -> Result<Self> {
        Ok(Self { http: reqwest::Client::builder().no_proxy().build()?, base })
    }

    /// From kick-off to the manifest.
    pub async fn export(&self, query: &str) -> Result<Timed<Job>> {
        self.export_at(&format!("$export{query}")).await
    }

    /// The same at any level: a path below the base.
    pub async fn export_at(&self, path: &str) -> Result<Timed<Job>> {
        timed(async { self.completed(self.kick_off_at(path).await?).await }).await
    }

    /// Polls until it is complete.
    pub async fn completed(&self, url: String) -> Result<Job> {
        self.completed_with(url, |age| if age < SMALL { POLL_EVERY.0 } else { POLL_EVERY.1 }).await
    }

    /// Polls until it is complete, and waits in between as its age demands.
    pub async fn completed_with(&self, url: String, pause: impl Fn(Duration) -> Duration) -> Result<Job> {
        let started = Instant::now();
        loop {
            if let Some(files) = self.poll(&url).await? {
                return Ok(Job { url, files });
            }
            tokio::time::sleep(pause(started.elapsed())).await;
        }
    }

    pub async fn kick_off(&self, query: &str) -> Result<String> {
        self.kick_off_at(&format!("$export{query}")).await
    }

    async fn kick_off_at(&self, path: &str) -> Result<String> {
        let request = self.http.get(format!("{}/{path}", self.base));
        let answer = request.header(ACCEPT, "application/fhir+json").header("prefer", "respond-async").send().await?;
        let url = answer
            .error_for_status()?
            .headers()
            .get(CONTENT_LOCATION)
            .ok_or("no Content-Location")?
            .to_str()?
            .to_owned();
        Ok(url)
    }

    /// The files, once the export is complete.
    pub async fn poll(&self, url: &str) -> Result<Option<Vec<File>>> {
        let answer = self.http.get(url).send().await?.error_for_status()?;
        if answer.status() != StatusCode::OK {
            return Ok(None);
        }
        Ok(Some(answer.json::<Manifest>().await?.output))
    }

    pub async fn delete(&self, job: &Job) -> Result<()> {
        self.http.delete(&job.url).send().await?.error_for_status()?;
        Ok(())
    }

    /// Downloads all files of the export in so many streams; gives the bytes received.
    pub async fn download(&self, job: &Job, representation: Representation, streams: usize) -> Result<Timed<f64>> {
        let (next, files) = (Arc::new(AtomicUsize::new(0)), Arc::new(job.files.clone()));
        timed(async {
            let tasks: Vec<_> = (0..streams)
                .map(|_| {
                    let (client, next, files) = (self.clone(), Arc::clone(&next), Arc::clone(&files));
                    tokio::spawn(async move {
                        let mut bytes = 0;
                        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                            bytes += client.download_file(file, representation).await?;
                        }
                        Ok::<_, crate::Error>(bytes)
                    })
                })
                .collect();
            let mut bytes = 0;
            for task in tasks {
                bytes += task.await??;
            }
            Ok(bytes as f64)
        })
        .await
    }

    async fn download_file(&self, file: &File, representation: Representation) -> Result<usize> {
        let (accept, encoding) = match representation {
            Representation::Gzip => ("application/fhir+ndjson", "gzip"),
            Representation::Identity => ("application/fhir+ndjson", "identity"),
            Representation::FhirJson => ("application/fhir+json", "identity"),
        };
        let request = self.http.get(&file.url).header(ACCEPT, accept).header(ACCEPT_ENCODING, encoding);
        let mut answer = request.send().await?.error_for_status()?;
        let mut bytes = 0;
        while let Some(piece) = answer.chunk().await? {
            bytes += piece.len();
        }
        Ok(bytes)
    }
}
