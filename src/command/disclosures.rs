//! `disclosures`: who received whose data, by the ledger of disclosures. It tells who they are: that is what it is for.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Failure;
use crate::database::Database;
use crate::fhir::{instant, reference};
use crate::ledger::audit_event::audit_event;
use crate::ledger::event::{self, Event, Kind};
use crate::ledger::file::{Holding, holding};
use crate::ledger::received::Received;
use crate::server::tell;

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
    let until = event::settled(&pool).await?;
    match &question.patient {
        None => tell_all(&pool, &question, until).await?,
        Some(patient) => {
            let files = holding(&pool, patient, question.since).await?;
            tell_of_patient(&pool, &question, patient, files, until).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn tell_all(pool: &PgPool, question: &Question, until: i64) -> Result<(), Failure> {
    let mut events = event::list(pool, question.after, until, question.since);
    while let Some(event) = events.try_next().await? {
        match question.format {
            Format::Text => tell(&as_text(&event)),
            Format::Json => tell(&as_json(&event).to_string()),
            Format::AuditEvent => tell(&audit_event(&event, None).to_string()),
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
        owner(event),
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
fn owner(event: &Event) -> String {
    match (event.subject.as_deref(), event.issuer.as_deref()) {
        (Some(subject), Some("") | None) => subject.to_owned(),
        (Some(subject), Some(issuer)) => format!("{subject} ({issuer})"),
        (None, _) => "-".to_owned(),
    }
}

async fn tell_of_patient(
    pool: &PgPool,
    question: &Question,
    patient: &str,
    files: Vec<Holding>,
    until: i64,
) -> Result<(), Failure> {
    let mut exports: HashMap<Uuid, Vec<Holding>> = HashMap::new();
    for file in files {
        exports.entry(file.job).or_default().push(file);
    }
    let count = exports.len();
    if question.format == Format::Text {
        tell(&format!("Patient/{patient}: data of it was in the files of {count} exports."));
    }
    for (job, files) in exports {
        let events: Vec<Event> = event::of_job(pool, job).try_collect().await?;
        let export = Export { job, files, events, since: question.since };
        match question.format {
            Format::Text => export.tell(),
            Format::Json => tell(&export.to_json().to_string()),
            Format::AuditEvent => export.tell_audit_events(patient, question, until),
        }
    }
    if question.format != Format::AuditEvent {
        tell_what_is_unknown(pool, question).await?;
    }
    Ok(())
}

/// An export with files that hold data of the patient asked for.
struct Export {
    job: Uuid,
    files: Vec<Holding>,
    events: Vec<Event>,
    since: Option<OffsetDateTime>,
}

impl Export {
    fn kick_off(&self) -> Option<&Event> {
        self.events.iter().find(|event| event.kind == Kind::KickOff)
    }

    /// What was asked for.
    fn request(&self) -> Option<&Value> {
        self.kick_off()?.detail.get("request")
    }

    fn texts<'a>(&'a self, of: impl Fn(&'a Event) -> Option<&'a str>) -> BTreeSet<&'a str> {
        self.events.iter().filter_map(of).collect()
    }

    /// Whose it is; of an export that was accepted by an older version its owner is known, too.
    fn owner(&self) -> Option<&Event> {
        self.events.iter().find(|event| event.subject.is_some())
    }

    fn is_wholly_known(&self) -> bool {
        self.events.iter().all(|event| event.kind != Kind::Unrecorded)
    }

    fn last_download(&self, file: &str) -> Option<&Event> {
        let of_file = |event: &&Event| event.kind == Kind::Download && event.file.as_deref() == Some(file);
        self.events.iter().rev().find(of_file)
    }

    fn tell(&self) {
        let line = |name: &str, value: &str| tell(&format!("  {name:14}{value}"));
        let list = |texts: BTreeSet<&str>| texts.into_iter().collect::<Vec<_>>().join(", ");
        let times = |kind: Kind| -> Vec<String> {
            let events = self.events.iter().filter(|event| event.kind == kind);
            events.map(|event| instant::format(event.at)).collect()
        };
        tell("");
        tell(&format!("export {}", self.job));
        line("owner", &self.owner().map(owner).unwrap_or_default());
        line("client", &list(self.texts(|event| event.client.as_deref())));
        line("addresses", &list(self.texts(|event| event.address.as_deref())));
        line("kick-off", &times(Kind::KickOff).join(", "));
        line("manifest", &times(Kind::Manifest).join(", "));
        if let Some(request) = self.request() {
            let text = |name: &str| request.get(name).and_then(Value::as_str).unwrap_or_default();
            line("request", text("url"));
            let types = request.get("types").and_then(Value::as_array).into_iter().flatten();
            line("types", &list(types.filter_map(Value::as_str).collect()));
        }
        let received = Received::by_file(&self.events, self.since);
        for Holding { id, kind, resource_type, resources, is_there, .. } in &self.files {
            let received = received.get(id.as_str()).copied().unwrap_or_default();
            let last = self.last_download(id).map(|last| format!(", last at {}", instant::format(last.at)));
            let gone = if *is_there { "" } else { "; removed since" };
            let last = last.unwrap_or_default();
            line("file", &format!("{id} {kind} {resource_type} {resources}: {received}{last}{gone}"));
        }
        if !self.is_wholly_known() {
            line("unknown", "it was accepted by an older version: more of its files may hold data of the patient");
        }
    }

    fn to_json(&self) -> Value {
        let received = Received::by_file(&self.events, self.since);
        let files = self.files.iter().map(|file| {
            let received = received.get(file.id.as_str()).copied().unwrap_or_default();
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
                "lastDownload": self.last_download(&file.id).map(|last| instant::format(last.at)),
            })
        });
        let owner = self.owner();
        json!({
            "export": self.job,
            "issuer": owner.and_then(|event| event.issuer.as_ref()),
            "subject": owner.and_then(|event| event.subject.as_ref()),
            "clients": self.texts(|event| event.client.as_deref()),
            "addresses": self.texts(|event| event.address.as_deref()),
            "kickOff": self.kick_off().map(|event| instant::format(event.at)),
            "request": self.request(),
            "known": self.is_wholly_known(),
            "files": files.collect::<Vec<_>>(),
        })
    }

    /// Of the export as a whole, and of the files that hold data of the patient.
    fn tell_audit_events(&self, patient: &str, question: &Question, until: i64) {
        let files: HashSet<&str> = self.files.iter().map(|file| file.id.as_str()).collect();
        let is_asked_for = |event: &&Event| {
            event.number > question.after
                && event.number <= until
                && question.since.is_none_or(|since| event.at >= since)
                && event.file.as_deref().is_none_or(|file| files.contains(file))
        };
        for event in self.events.iter().filter(is_asked_for) {
            tell(&audit_event(event, Some(patient)).to_string());
        }
    }
}

/// What this answer cannot have: exports of versions without a ledger, and the time before it.
async fn tell_what_is_unknown(pool: &PgPool, question: &Question) -> Result<(), Failure> {
    let mut events = event::unrecorded(pool, question.since);
    while let Some(event) = events.try_next().await? {
        let at = instant::format(event.at);
        let is_text = question.format == Format::Text;
        match event.job {
            None if question.since.is_some_and(|since| since >= event.at) => {}
            None if is_text => {
                tell("");
                tell(&format!("The ledger begins at {at}. Who received data before that is not known."));
            }
            None => tell(&json!({ "ledgerBegins": at }).to_string()),
            Some(job) if is_text => tell(&format!(
                "Export {job} of {} was accepted by an older version: whose data its files hold is not known.",
                owner(&event)
            )),
            Some(job) => {
                let line = json!({ "export": job, "issuer": event.issuer, "subject": event.subject, "known": false });
                tell(&line.to_string());
            }
        }
    }
    Ok(())
}
