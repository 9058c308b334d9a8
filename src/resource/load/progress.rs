//! How far a load is: a bar on a terminal, a line now and then elsewhere. On standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Progress {
    bar: Option<ProgressBar>,
    name: String,
    changes: usize,
    last_line: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            bar: std::io::stderr().is_terminal().then(new_bar),
            name: String::new(),
            changes: 0,
            last_line: Instant::now(),
        }
    }

    /// A file of so many bytes begins; standard input has no known length.
    pub(super) fn open(&mut self, name: &str, bytes: Option<u64>) {
        self.name = printable(name);
        if let Some(bar) = &self.bar {
            bar.set_length(bar.length().unwrap_or(0) + bytes.unwrap_or(0));
            bar.set_message(self.name.clone());
        }
    }

    pub(super) fn advance(&mut self, bytes: u64, changes: usize) {
        self.changes += changes;
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
            bar.set_prefix(self.changes.to_string());
        } else if self.last_line.elapsed() >= PLAIN_EVERY {
            self.last_line = Instant::now();
            eprintln!("{} resources read, now in {}", self.changes, self.name);
        }
    }

    /// A line of its own, above the bar.
    pub(super) fn say(&self, line: &str) {
        let line = printable(line);
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A file may have any name, and a terminal does what it is told.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => printable.extend(character.escape_default()),
            false => printable.push(character),
        }
    }
    printable
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let template = "{bar:30} {bytes}/{total_bytes} {prefix} resources {elapsed} {wide_msg}";
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}
