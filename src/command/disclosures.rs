//! `disclosures`: who received whose data, by the ledger of disclosures. It tells who they are: that is what it is for.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use sqlx::PgPool;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::Failure;
use crate::database::Database;
use crate::fhir::{instant, reference};
use crate::ledger::audit_event::audit_event;
use crate::ledger::event::{self, Event, Kind};
use crate::ledger::file::{Holding, holding};
use crate::ledger::received::{Downloads, Received};

/// For so long after the ledger began, replicas of the version before it may have handed out files unrecorded.
const OLDER_REPLICAS: Duration = Duration::DAY;

#[derive(Debug, Args)]
pub(super) struct Question {
    /// Who received data of this Patient, and what of it; without it: all that happened
    #[arg(long, value_name = "ID", value_parser = patient_id)]
    patient: Option<String>,
    /// Only what happened at or after this date (2026-01-31) or instant (2026-01-31T12:00:00Z)
    #[arg(long, value_name = "DATE", value_parser = since)]
    since: Option<OffsetDateTime>,
    /// Only entries after the one of this number: goes on where another answer ended, and misses none
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: i64,
    /// How to say it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// A JSON object a line
    Json,
    /// A FHIR R4 AuditEvent a line
    AuditEvent,
}

fn patient_id(text: &str) -> Result<String, &'static str> {
    let id = text.strip_prefix("Patient/").unwrap_or(text);
    if reference::is_id(id) { Ok(id.to_owned()) } else { Err("the id of a Patient, or Patient/<id>") }
}

fn since(text: &str) -> Result<OffsetDateTime, &'static str> {
    let midnight = || instant::parse(&format!("{text}T00:00:00Z"));
    instant::parse(text)
        .or_else(midnight)
        .ok_or("a date such as 2026-01-31, or an instant such as 2026-01-31T12:00:00Z")
}

pub(super) async fn run(database: &Database, question: Question) -> Result<ExitCode, Failure> {
    // The sets of all files take as long to look at as they take.
    let pool = database.work_pool(2);
    match answer(&pool, &question).await {
        // Nobody reads any more.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        answered => answered.map(|()| ExitCode::SUCCESS),
    }
}

async fn answer(pool: &PgPool, question: &Question) -> Result<(), Failure> {
    let until = event::settled(pool).await?;
    let Some(patient) = &question.patient else { return tell_all(pool, question, until).await };
    match question.format {
        Format::AuditEvent => tell_events_of_patient(pool, question, patient, until).await,
        Format::Text | Format::Json => tell_of_patient(pool, question, patient).await,
    }
}

/// A line of the answer: one that cannot be written is no answer.
fn tell(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

async fn tell_all(pool: &PgPool, question: &Question, until: i64) -> Result<(), Failure> {
    let mut events = event::list(pool, question.after, until, question.since);
    while let Some(event) = events.try_next().await? {
        match question.format {
            Format::Text => tell(&as_text(&event))?,
            Format::Json => tell(&as_json(&event).to_string())?,
            Format::AuditEvent => tell(&audit_event(&event, None).to_string())?,
        }
    }
    Ok(())
}

fn as_text(event: &Event) -> String {
    let outcome = event.outcome.map(|outcome| outcome.to_string()).unwrap_or_default();
    let job = event.job.map(|job| job.to_string()).unwrap_or_default();
    let [address, client, file] =
        [&event.address, &event.client, &event.file].map(|text| text.as_deref().unwrap_or("-"));
    format!(
        "{:>8}  {}  {:10}  {outcome:3}  {}  {client}  {address}  {job:36}  {file}  {}",
        event.number,
        instant::format(event.at),
        event.kind.as_str(),
        owner_of(event),
        event.detail
    )
}

fn as_json(event: &Event) -> Value {
    json!({
        "number": event.number,
        "at": instant::format(event.at),
        "event": event.kind.as_str(),
        "issuer": event.issuer,
        "subject": event.subject,
        "client": event.client,
        "address": event.address,
        "export": event.job,
        "file": event.file,
        "download": event.download,
        "outcome": event.outcome,
        "detail": event.detail,
    })
}

/// The name, and who gave it.
fn owner(issuer: Option<&str>, subject: Option<&str>) -> String {
    match (subject, issuer) {
        (Some(subject), Some("") | None) => subject.to_owned(),
        (Some(subject), Some(issuer)) => format!("{subject} ({issuer})"),
        (None, _) => "-".to_owned(),
    }
}

fn owner_of(event: &Event) -> String {
    owner(event.issuer.as_deref(), event.subject.as_deref())
}

/// The files that hold data of a patient, by export.
async fn files_by_export(
    pool: &PgPool,
    patient: &str,
    since: Option<OffsetDateTime>,
) -> Result<HashMap<Uuid, Vec<Holding>>, Failure> {
    let mut exports: HashMap<Uuid, Vec<Holding>> = HashMap::new();
    for file in holding(pool, patient, since).await? {
        exports.entry(file.job).or_default().push(file);
    }
    Ok(exports)
}

async fn tell_of_patient(pool: &PgPool, question: &Question, patient: &str) -> Result<(), Failure> {
    let exports = files_by_export(pool, patient, question.since).await?;
    if question.format == Format::Text {
        tell(&format!("Patient/{patient}: data of it was in the files of {} exports.", exports.len()))?;
    }
    let began = event::beginning(pool).await?;
    for (job, files) in exports {
        let mut export = Export { job, files, began, ..Export::default() };
        export.read(pool, question.since).await?;
        match question.format {
            Format::Text => export.as_text().iter().try_for_each(|line| tell(line))?,
            Format::Json | Format::AuditEvent => tell(&export.to_json().to_string())?,
        }
    }
    tell_what_is_unknown(pool, question, |line| tell(&line)).await
}

/// Of the exports that hold data of the patient, of the patient's erasure, and of the ledger itself, in their order, so that one
/// may go on from the last. Of files those that hold data of the patient.
async fn tell_events_of_patient(pool: &PgPool, question: &Question, patient: &str, until: i64) -> Result<(), Failure> {
    // Before the files are looked at: those of exports that have ended by then are all there.
    let until = event::ended(pool, until).await?;
    let exports = files_by_export(pool, patient, question.since).await?;
    let jobs: Vec<Uuid> = exports.keys().copied().collect();
    let files: HashSet<&str> = exports.values().flatten().map(|file| file.id.as_str()).collect();
    let erased = format!("Patient/{patient}");
    let mut events = event::about(pool, &jobs, &erased, (question.after, until), question.since);
    while let Some(event) = events.try_next().await? {
        if event.file.as_deref().is_some_and(|file| !files.contains(file)) {
            continue;
        }
        let is_of_patient = event.kind == Kind::Erase || event.job.is_some_and(|job| exports.contains_key(&job));
        tell(&audit_event(&event, is_of_patient.then_some(patient)).to_string())?;
    }
    // On standard output there are AuditEvents and nothing else.
    tell_what_is_unknown(pool, question, |line| writeln!(io::stderr(), "{line}")).await
}

/// An export with files that hold data of the patient asked for, and what its entries come to.
#[derive(Default)]
struct Export {
    job: Uuid,
    files: Vec<Holding>,
    /// When the ledger began.
    began: Option<OffsetDateTime>,
    /// Whose it is; of an export that was accepted by an older version that is known, too.
    issuer: Option<String>,
    subject: Option<String>,
    clients: BTreeSet<String>,
    addresses: BTreeSet<String>,
    kick_off: Option<Event>,
    /// When its owner was told of files, first and last, and how often.
    told: Option<(OffsetDateTime, OffsetDateTime)>,
    manifests: u64,
    received: HashMap<String, Received>,
    last_downloads: HashMap<String, OffsetDateTime>,
}

impl Export {
    /// Goes through all entries about it, one after the other.
    async fn read(&mut self, pool: &PgPool, since: Option<OffsetDateTime>) -> Result<(), Failure> {
        let files: HashSet<String> = self.files.iter().map(|file| file.id.clone()).collect();
        let mut downloads = Downloads::since(since);
        let mut events = event::of_job(pool, self.job);
        while let Some(event) = events.try_next().await? {
            if event.file.as_ref().is_some_and(|file| files.contains(file)) {
                downloads.add(&event);
            }
            self.add(event);
        }
        self.received = downloads.received();
        Ok(())
    }

    fn add(&mut self, event: Event) {
        if self.subject.is_none() {
            (self.issuer, self.subject) = (event.issuer.clone(), event.subject.clone());
        }
        self.clients.extend(event.client.clone());
        self.addresses.extend(event.address.clone());
        match event.kind {
            Kind::Manifest => {
                self.told = Some((self.told.map_or(event.at, |(first, _)| first), event.at));
                self.manifests += 1;
            }
            Kind::Download => self.last_downloads.extend(event.file.map(|file| (file, event.at))),
            Kind::KickOff => self.kick_off = Some(event),
            _ => {}
        }
    }

    /// What was asked for, as it is noted.
    fn noted(&self, name: &str) -> Option<&Value> {
        self.kick_off.as_ref()?.detail.get(name)
    }

    fn received(&self, file: &str) -> Received {
        self.received.get(file).copied().unwrap_or_default()
    }

    fn last_download(&self, file: &str) -> Option<String> {
        self.last_downloads.get(file).map(|at| instant::format(*at))
    }

    /// One that was accepted by a version without a ledger has no kick-off in it.
    fn is_wholly_known(&self) -> bool {
        self.kick_off.is_some()
    }

    /// Whether it came so long after the ledger began that no older replica can have handed out its files.
    fn has_all_downloads(&self) -> bool {
        self.kick_off.as_ref().zip(self.began).is_some_and(|(event, began)| event.at - began >= OLDER_REPLICAS)
    }

    fn as_text(&self) -> Vec<String> {
        let line = |name: &str, value: &str| format!("  {name:14}{value}");
        let list = |texts: &BTreeSet<String>| texts.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let mut lines = vec![
            String::new(),
            format!("export {}", self.job),
            line("owner", &owner(self.issuer.as_deref(), self.subject.as_deref())),
            line("client", &list(&self.clients)),
            line("addresses", &list(&self.addresses)),
            line("kick-off", &self.kick_off.as_ref().map(|event| instant::format(event.at)).unwrap_or_default()),
            line("manifest", &self.manifests_as_text()),
        ];
        if let Some(request) = self.noted("request") {
            let text = |name: &str| request.get(name).and_then(Value::as_str).unwrap_or_default();
            lines.push(line("request", text("url")));
            let types = request.get("types").and_then(Value::as_array).into_iter().flatten();
            lines.push(line("types", &types.filter_map(Value::as_str).collect::<Vec<_>>().join(", ")));
        }
        for Holding { id, kind, resource_type, resources, is_there, .. } in &self.files {
            let last = self.last_download(id).map(|last| format!(", last at {last}")).unwrap_or_default();
            let gone = if *is_there { "" } else { "; removed since" };
            let received = self.received(id);
            lines.push(line("file", &format!("{id} {kind} {resource_type} {resources}: {received}{last}{gone}")));
        }
        if !self.is_wholly_known() {
            let text = "it was accepted by an older version: more of its files may hold data of the patient";
            lines.push(line("unknown", text));
        } else if !self.has_all_downloads() {
            let text = "the ledger began less than a day before: a replica of the version before it may have handed out \
                        files of which nothing is written";
            lines.push(line("unknown", text));
        }
        lines
    }

    fn manifests_as_text(&self) -> String {
        match (self.told, self.manifests) {
            (None, _) => String::new(),
            (Some((first, _)), 1) => instant::format(first),
            (Some((first, last)), times) => {
                format!("{times} times, from {} to {}", instant::format(first), instant::format(last))
            }
        }
    }

    fn to_json(&self) -> Value {
        let files = self.files.iter().map(|file| {
            let received = self.received(&file.id);
            json!({
                "id": file.id,
                "kind": file.kind,
                "type": file.resource_type,
                "resources": file.resources,
                "bytes": file.bytes,
                "isThere": file.is_there,
                "downloaded": received.as_str(),
                "bytesCertain": received.certainly,
                "bytesPossible": received.possibly,
                "bytesWhole": received.of,
                "lastDownload": self.last_download(&file.id),
            })
        });
        json!({
            "export": self.job,
            "issuer": self.issuer,
            "subject": self.subject,
            "clients": self.clients,
            "addresses": self.addresses,
            "kickOff": self.kick_off.as_ref().map(|event| instant::format(event.at)),
            "request": self.noted("request"),
            "requestCut": self.noted("cut"),
            "known": self.is_wholly_known(),
            "downloadsKnown": self.has_all_downloads(),
            "files": files.collect::<Vec<_>>(),
        })
    }
}

/// What this answer cannot have: exports of versions without a ledger, the time before it, and what replicas of such versions
/// handed out after it.
async fn tell_what_is_unknown(
    pool: &PgPool,
    question: &Question,
    tell: impl Fn(String) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut events = event::unrecorded(pool, question.since);
    while let Some(event) = events.try_next().await? {
        let at = instant::format(event.at);
        let is_json = question.format == Format::Json;
        match event.job {
            None if question.since.is_some_and(|since| since - event.at >= OLDER_REPLICAS) => {}
            None if is_json => tell(json!({ "ledgerBegins": at }).to_string())?,
            None => tell(format!(
                "\nThe ledger begins at {at}. Who received data before that is not known, nor what was handed out after it by \
                 replicas of the version before, until the last of them ended."
            ))?,
            Some(job) if is_json => {
                let line = json!({ "export": job, "issuer": event.issuer, "subject": event.subject, "known": false });
                tell(line.to_string())?;
            }
            Some(job) => tell(format!(
                "Export {job} of {} was accepted by an older version: whose data its files hold is not known.",
                owner_of(&event)
            ))?,
        }
    }
    Ok(())
}
