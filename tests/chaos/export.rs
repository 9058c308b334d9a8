//! Exports as a client has them: kicked off, watched, and downloaded whole.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::header::{CONTENT_LOCATION, EXPIRES};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::client::{Answer, Client, Request, Unanswered, below_base};
use crate::download::{Downloader, NoFile};
use crate::filter::Filter;
use crate::findings::{Findings, Of};
use crate::random::Random;

/// From kick-off to the end, faults and all.
const PATIENCE: Duration = Duration::from_secs(120);
/// Well below the rate at which a client is told to ask less often.
const POLL: Duration = Duration::from_millis(250);

/// What an export is asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// All where there are none.
    pub types: Vec<String>,
    /// As the server wrote it.
    pub since: Option<String>,
    pub filters: Vec<Filter>,
    /// Of Provenances those that are about what comes out, and no others.
    pub with_provenance: bool,
}

impl Asked {
    pub fn of(types: &[&str]) -> Self {
        Self { types: types.iter().map(|name| (*name).to_owned()).collect(), ..Self::default() }
    }

    /// Exports that look elsewhere before anything comes out.
    pub fn with_a_chain() -> Self {
        Self { filters: vec![Filter::Chain], ..Self::of(&["Observation"]) }
    }

    fn query(&self) -> String {
        let types = (!self.types.is_empty()).then(|| format!("_type={}", self.types.join(",")));
        let since = self.since.as_ref().map(|since| format!("_since={since}"));
        let filters = self.filters.iter().map(|filter| format!("_typeFilter={}", filter.query()));
        let provenance = self.with_provenance.then(|| "includeAssociatedData=RelevantProvenanceResources".to_owned());
        let parameters: Vec<String> = types.into_iter().chain(since).chain(filters).chain(provenance).collect();
        if parameters.is_empty() { "/$export".to_owned() } else { format!("/$export?{}", parameters.join("&")) }
    }
}

/// A completed export with all its lines.
#[derive(Debug)]
pub struct Export {
    pub job: String,
    pub asked: Asked,
    pub transaction_time: OffsetDateTime,
    /// As the server wrote it: the next `_since`.
    pub instant: String,
    pub output: Vec<Arc<str>>,
    /// `Type/id` of what was deleted.
    pub deleted: Vec<String>,
    pub files: u64,
    pub bytes: u64,
    /// Its place in the chain of `_since`, if it has one.
    pub link: Option<usize>,
}

/// A job that was accepted.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: String,
    path: String,
    accepted: Instant,
}

/// How a job stands.
#[derive(Debug)]
pub enum Standing {
    InProgress,
    Completed(Value),
    Failed(String),
    Gone,
}

/// How a job ended for its client.
#[derive(Debug)]
pub enum Ended {
    Completed(Value),
    Failed,
    Gone,
    /// It did not end: told already.
    Not,
}

/// One who exports.
pub struct Exporter<'a> {
    pub client: &'a Client,
    pub findings: &'a Findings,
    /// Time from the end of a job until it may be gone.
    pub retention: Duration,
}

impl Exporter<'_> {
    /// Where the kick-off has a key it starts one job, however often it has to be sent. Without, a client that heard
    /// nothing may have started one that it knows nothing of, which is to end all the same.
    pub async fn kick_off(&self, asked: &Asked, random: &mut Random) -> Option<Job> {
        let query = asked.query();
        let mut request =
            Request::get(&query).header("accept", "application/fhir+json").header("prefer", "respond-async");
        if random.one_in(2) {
            request = request.header("idempotency-key", format!("\"{}\"", self.findings.new_key()));
        }
        let answer = self.answered(self.client.ask(&request).await, &query)?;
        let location = answer.headers.get(CONTENT_LOCATION).and_then(|url| below_base(url.to_str().ok()?));
        let (StatusCode::ACCEPTED, Some(path)) = (answer.status, location) else {
            self.findings.violation(format!("a kick-off of {query} was answered {}: {}", answer.status, answer.text()));
            return None;
        };
        let id = path.rsplit('=').next().unwrap_or_default().to_owned();
        self.findings.accepted(&id);
        Some(Job { id, path: path.to_owned(), accepted: Instant::now() })
    }

    pub async fn poll(&self, job: &Job) -> Option<Standing> {
        let answer = self.answered(self.client.ask(&Request::get(&job.path)).await, &job.path)?;
        match answer.status {
            StatusCode::ACCEPTED => Some(Standing::InProgress),
            StatusCode::OK => Some(Standing::Completed(serde_json::from_slice(&answer.body).unwrap_or_default())),
            StatusCode::NOT_FOUND => Some(Standing::Gone),
            // The end of a job; any other is a server that broke.
            StatusCode::INTERNAL_SERVER_ERROR if answer.headers.contains_key(EXPIRES) => {
                Some(Standing::Failed(reason(&answer)))
            }
            status => {
                self.findings.violation(format!("a poll of job {} was answered {status}: {}", job.id, answer.text()));
                None
            }
        }
    }

    pub async fn ended(&self, job: &Job) -> Ended {
        while job.accepted.elapsed() < PATIENCE {
            match self.poll(job).await {
                None => return Ended::Not,
                Some(Standing::InProgress) => tokio::time::sleep(POLL).await,
                Some(Standing::Completed(manifest)) => return Ended::Completed(manifest),
                Some(Standing::Failed(reason)) => {
                    self.findings.failed(&reason);
                    return Ended::Failed;
                }
                Some(Standing::Gone) => {
                    self.may_be_gone(job);
                    return Ended::Gone;
                }
            }
        }
        self.findings.violation(format!("job {} is not finished after {PATIENCE:?}", job.id));
        Ended::Not
    }

    /// Only once its time is over, which is after its end.
    fn may_be_gone(&self, job: &Job) {
        if job.accepted.elapsed() < self.retention {
            self.findings.violation(format!(
                "job {} is gone {:?} after it was accepted",
                job.id,
                job.accepted.elapsed()
            ));
        }
        self.findings.count(Of::Seen, "exports that expired before their client came to them");
    }

    /// Ends a job, or says that its files are needed no more; from then on nobody knows it.
    pub async fn delete(&self, job: &Job) {
        let Some(answer) = self.answered(self.client.ask(&Request::delete(&job.path)).await, &job.path) else { return };
        // 404: the answer to a first attempt was lost, or its time was over.
        let is_done = matches!(answer.status, StatusCode::ACCEPTED | StatusCode::NOT_FOUND);
        let is_gone = is_done && matches!(self.poll(job).await, Some(Standing::Gone) | None);
        if !is_gone {
            let (status, text) = (answer.status, answer.text());
            self.findings.violation(format!("job {} is there after its DELETE ({status}: {text})", job.id));
        }
    }

    /// An export from kick-off to the last byte.
    pub async fn export(&self, asked: &Asked, random: &mut Random) -> Option<(Job, Export)> {
        let job = self.kick_off(asked, random).await?;
        let export = self.have(&job, asked, random).await?;
        Some((job, export))
    }

    /// The files of a job, once it has ended.
    pub async fn have(&self, job: &Job, asked: &Asked, random: &mut Random) -> Option<Export> {
        let Ended::Completed(manifest) = self.ended(job).await else { return None };
        match self.download(job, asked, &manifest, random).await {
            Ok(export) => return Some(export),
            Err(NoFile::Gone) => self.may_be_gone(job),
            Err(NoFile::Unanswered) => {
                self.findings.violation(format!("the files of job {} could not be had", job.id));
            }
            Err(NoFile::Wrong) => {}
        }
        None
    }

    async fn download(
        &self,
        job: &Job,
        asked: &Asked,
        manifest: &Value,
        random: &mut Random,
    ) -> Result<Export, NoFile> {
        let transaction_time = manifest["transactionTime"].as_str().unwrap_or_default();
        let mut export = Export {
            job: job.id.clone(),
            asked: asked.clone(),
            transaction_time: OffsetDateTime::parse(transaction_time, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH),
            instant: transaction_time.to_owned(),
            output: Vec::new(),
            deleted: Vec::new(),
            files: 0,
            bytes: 0,
            link: None,
        };
        for (type_name, line) in self.lines(manifest, "output", &mut export, random).await? {
            if !line.starts_with(&format!(r#"{{"resourceType":"{type_name}","#)) {
                self.findings.violation(format!("job {}: a line in a file of {type_name}: {}", job.id, brief(&line)));
            }
            export.output.push(line);
        }
        for (_, line) in self.lines(manifest, "deleted", &mut export, random).await? {
            let bundle: Value = serde_json::from_str(&line).unwrap_or_default();
            let request = &bundle["entry"][0]["request"];
            if request["method"] != "DELETE" {
                self.findings.violation(format!("job {}: a line in a file of deletions: {}", job.id, brief(&line)));
            }
            export.deleted.push(request["url"].as_str().unwrap_or_default().to_owned());
        }
        Ok(export)
    }

    /// All lines of a list of the manifest, each with the type of its file.
    async fn lines(
        &self,
        manifest: &Value,
        list: &str,
        export: &mut Export,
        random: &mut Random,
    ) -> Result<Vec<(String, Arc<str>)>, NoFile> {
        let downloader = Downloader { client: self.client, findings: self.findings };
        let mut lines = Vec::new();
        for item in manifest[list].as_array().into_iter().flatten() {
            let path = item["url"].as_str().and_then(below_base).unwrap_or_default();
            let content = downloader.thrice(path, random).await?;
            let text = String::from_utf8_lossy(&content);
            let count = text.lines().count() as u64;
            if !text.ends_with('\n') || item["count"].as_u64() != Some(count) {
                let expected = &item["count"];
                self.findings.violation(format!("{path} of job {}: {count} lines, not {expected}", export.job));
            }
            export.files += 1;
            export.bytes += content.len() as u64;
            let type_name = item["type"].as_str().unwrap_or_default();
            lines.extend(text.lines().map(|line| (type_name.to_owned(), self.findings.line(line))));
        }
        Ok(lines)
    }

    /// The answer, if there is one; if not, that is told.
    fn answered(&self, answer: Result<Answer, Unanswered>, path: &str) -> Option<Answer> {
        if answer.is_err() {
            self.findings.violation(format!("no replica answers {path}"));
        }
        answer.ok()
    }
}

fn reason(answer: &Answer) -> String {
    let outcome: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    outcome["issue"][0]["diagnostics"].as_str().unwrap_or_default().to_owned()
}

/// The beginning of a text that may be long.
pub fn brief(text: &str) -> String {
    let start: String = text.chars().take(200).collect();
    if start.len() < text.len() { format!("{start}… ({} bytes)", text.len()) } else { start }
}
