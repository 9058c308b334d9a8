//! What a run finds: what was done, what was had, and what broke a promise.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::export::Export;

#[derive(Default)]
pub struct Findings {
    violations: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<(Of, String), u64>>,
    longest: Mutex<BTreeMap<String, Duration>>,
    /// Exports that were downloaded in full.
    exports: Mutex<Vec<Export>>,
    /// Keys of kick-offs so far.
    keys: Mutex<u64>,
    /// Jobs that were answered 202.
    accepted: Mutex<Vec<String>>,
    /// All lines ever downloaded, each once: most exports hold the same ones.
    lines: Mutex<HashSet<Arc<str>>>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Of {
    Faults,
    Seen,
    /// Clients that were told so.
    Failed,
}

impl Findings {
    /// A promise is broken.
    pub fn violation(&self, text: String) {
        eprintln!("VIOLATION: {text}");
        self.violations.lock().unwrap().push(text);
    }

    pub fn violations(&self) -> usize {
        self.violations.lock().unwrap().len()
    }

    pub fn count(&self, of: Of, what: &str) {
        self.add(of, what, 1);
    }

    pub fn add(&self, of: Of, what: &str, count: u64) {
        *self.counts.lock().unwrap().entry((of, what.to_owned())).or_default() += count;
    }

    /// Keeps the longest time of this kind.
    pub fn took(&self, what: &str, time: Duration) {
        let mut longest = self.longest.lock().unwrap();
        let so_far = longest.entry(what.to_owned()).or_default();
        *so_far = time.max(*so_far);
    }

    pub fn accepted(&self, job: &str) {
        self.count(Of::Seen, "kick-offs accepted");
        self.accepted.lock().unwrap().push(job.to_owned());
    }

    /// A name that no kick-off had before.
    pub fn new_key(&self) -> String {
        let mut keys = self.keys.lock().unwrap();
        *keys += 1;
        format!("chaos-{keys}")
    }

    /// An export failed, and told why.
    pub fn failed(&self, reason: &str) {
        let (_, cause) = reason.split_once("at last: ").unwrap_or(("", reason));
        let cause: String = cause.chars().filter(|character| !character.is_ascii_digit()).take(70).collect();
        self.count(Of::Failed, &cause);
    }

    pub fn all_accepted(&self) -> Vec<String> {
        self.accepted.lock().unwrap().clone()
    }

    /// The same text for the same line, so that thousands of exports fit into memory.
    pub fn line(&self, text: &str) -> Arc<str> {
        let mut lines = self.lines.lock().unwrap();
        if let Some(line) = lines.get(text) {
            return Arc::clone(line);
        }
        let line: Arc<str> = text.into();
        lines.insert(Arc::clone(&line));
        line
    }

    pub fn keep(&self, export: Export) {
        self.count(Of::Seen, "exports downloaded in full");
        self.add(Of::Seen, "files checked", export.files);
        self.add(Of::Seen, "bytes of NDJSON checked", export.bytes);
        self.exports.lock().unwrap().push(export);
    }

    pub fn exports(&self) -> Vec<Export> {
        std::mem::take(&mut self.exports.lock().unwrap())
    }

    /// Says what was done and seen.
    pub fn print(&self) {
        let counts = self.counts.lock().unwrap();
        for (of, title) in
            [(Of::Faults, "faults"), (Of::Seen, "seen"), (Of::Failed, "clients told that their export failed")]
        {
            let these: Vec<_> = counts.iter().filter(|((counted, _), _)| *counted == of).collect();
            if !these.is_empty() {
                println!("  {title}:");
            }
            for ((_, what), count) in these {
                println!("    {count:>10}  {what}");
            }
        }
        for (what, time) in &*self.longest.lock().unwrap() {
            println!("    {:>8.2} s  {what}", time.as_secs_f64());
        }
    }
}
