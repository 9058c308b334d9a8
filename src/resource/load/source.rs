//! Reads files, line by line or whole, and makes batches of changes of them.
//!
//! `.ndjson` and `.jsonl` are read by line, `.json` as one document; anything else, standard input too, is read by
//! line if its first line is a whole JSON value. gzip is recognised by its first bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde::de::IgnoredAny;
use tokio::sync::mpsc::Sender;

use super::bundle::{self, Changes};
use super::{Batch, Error, Event, Rules};

const ENDINGS: [&str; 3] = [".ndjson", ".jsonl", ".json"];
const BUFFER: usize = 256 << 10;

/// Reads all paths. When the receiver is gone, loading has failed elsewhere and reading ends quietly.
pub(super) fn read_all(paths: &[PathBuf], rules: &Rules, events: &Sender<Event>) -> Result<(), Error> {
    let mut reading = Reading { rules, events, batch: Batch::default() };
    for path in paths {
        for file in files(path)? {
            let read = reading.read_file(&file);
            read.map_err(|source| Error::Unreadable { path: file.clone(), source })?;
        }
    }
    reading.flush();
    Ok(())
}

/// The file itself, or all files below a folder that hold resources by their name, sorted.
fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let mut entries = std::fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(unreadable)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if ending(&path).is_some() {
            found.push(path);
        }
    }
    Ok(found)
}

fn ending(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    ENDINGS.into_iter().find(|ending| name.ends_with(ending))
}

struct Reading<'a> {
    rules: &'a Rules,
    events: &'a Sender<Event>,
    batch: Batch,
}

impl Reading<'_> {
    fn read_file(&mut self, path: &Path) -> io::Result<()> {
        let name = path.display().to_string();
        let (input, length): (Box<dyn Read>, _) = if name == "-" {
            (Box::new(io::stdin().lock()), None)
        } else {
            let file = File::open(path)?;
            let length = file.metadata()?.len();
            (Box::new(file), Some(length))
        };
        self.send(Event::Opened(name.clone(), length));
        let mut input = BufReader::with_capacity(BUFFER, input);
        if input.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
            let mut inflated = BufReader::with_capacity(BUFFER, MultiGzDecoder::new(input));
            self.read_text(&name, ending(path), &mut inflated)
        } else {
            self.read_text(&name, ending(path), &mut input)
        }
    }

    fn read_text(&mut self, name: &str, ending: Option<&str>, input: &mut dyn BufRead) -> io::Result<()> {
        if ending == Some(".json") {
            return self.read_document(name, Vec::new(), input);
        }
        let mut line = Vec::new();
        let mut number = 0;
        loop {
            number += 1;
            let whole = read_line(input, &mut line, self.rules.max_resource)?;
            if line.is_empty() || self.events.is_closed() {
                return Ok(());
            }
            self.batch.read += line.len() as u64;
            if number == 1 && ending.is_none() && !is_json_value(&line) {
                return self.read_document(name, line, input);
            }
            let place = format!("{name}:{number}");
            if whole {
                self.take(&place, line.trim_ascii());
            } else {
                let limit = self.rules.max_resource;
                self.refuse(&place, format!("longer than store.max_resource, {limit} bytes"));
            }
        }
    }

    fn read_document(&mut self, name: &str, mut text: Vec<u8>, input: &mut dyn BufRead) -> io::Result<()> {
        let limit = self.rules.max_document;
        input.take((limit + 1).saturating_sub(text.len()) as u64).read_to_end(&mut text)?;
        self.batch.read += text.len() as u64;
        if text.len() > limit {
            self.refuse(name, format!("longer than store.max_document, {limit} bytes"));
        } else {
            self.take(name, text.trim_ascii());
        }
        Ok(())
    }

    /// Takes one JSON text: a resource, or a Bundle of changes.
    fn take(&mut self, place: &str, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        let Changes { changes, refused, atomic } = bundle::changes(text, self.rules);
        let refused_any = !refused.is_empty();
        for reason in refused {
            self.refuse(place, reason);
        }
        if atomic && refused_any {
            return;
        }
        self.batch.bytes += text.len();
        for change in changes {
            // A transaction is written together, however large; anything else may be cut.
            if !atomic && self.batch.is_full() {
                self.flush();
            }
            self.batch.changes.push(change);
        }
        if self.batch.is_full() {
            self.flush();
        }
    }

    fn refuse(&self, place: &str, reason: String) {
        self.send(Event::Refused { place: place.to_owned(), reason });
    }

    fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if !batch.changes.is_empty() {
            self.send(Event::Batch(batch));
        }
    }

    fn send(&self, event: Event) {
        // A closed channel means that the receiver has failed and says why itself.
        let _ = self.events.blocking_send(event);
    }
}

/// Reads one line into `line`, with its end; of a line longer than `limit` only the beginning, and the rest is
/// skipped. Whether it was read whole.
fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>, limit: usize) -> io::Result<bool> {
    line.clear();
    // One more for the line end, one more to see that it is too long.
    (&mut *input).take(limit as u64 + 2).read_until(b'\n', line)?;
    if line.ends_with(b"\n") || line.len() <= limit {
        return Ok(true);
    }
    loop {
        let buffer = input.fill_buf()?;
        let (length, ended) = match memchr::memchr(b'\n', buffer) {
            Some(index) => (index + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        input.consume(length);
        if ended {
            return Ok(false);
        }
    }
}

fn is_json_value(line: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(line).is_ok()
}
