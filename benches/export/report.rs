//! The table: what was measured, over all runs, next to the bar it has to clear.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::Result;

#[derive(Default)]
pub struct Report {
    facts: Vec<(String, String)>,
    rows: Vec<Row>,
}

struct Row {
    section: &'static str,
    what: String,
    unit: &'static str,
    values: Vec<f64>,
    bar: Option<Bar>,
}

/// What the median has to clear.
#[derive(Clone, Copy)]
pub enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

impl Bar {
    fn is_cleared_by(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bar) => value >= bar,
            Self::AtMost(bar) => value <= bar,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bar) => format!(">= {}", number(bar)),
            Self::AtMost(bar) => format!("<= {}", number(bar)),
        }
    }
}

impl Report {
    /// Something about the run that is no measurement.
    pub fn fact(&mut self, name: &str, value: impl ToString) {
        let value = value.to_string();
        eprintln!("{name}: {value}");
        self.facts.push((name.to_owned(), value));
    }

    pub fn row(&mut self, section: &'static str, what: impl Into<String>, unit: &'static str, values: &[f64]) {
        self.push(Row { section, what: what.into(), unit, values: values.to_vec(), bar: None });
    }

    pub fn row_with_bar(
        &mut self,
        section: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        values: &[f64],
        bar: Bar,
    ) {
        self.push(Row { section, what: what.into(), unit, values: values.to_vec(), bar: Some(bar) });
    }

    fn push(&mut self, row: Row) {
        eprintln!("{}", row.text());
        self.rows.push(row);
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.facts {
            let _ = writeln!(text, "{name}: {value}");
        }
        let _ = writeln!(
            text,
            "\n{:10} {:46} {:>10} {:>10} {:>10}  {:12} {:10}",
            "", "", "median", "min", "max", "unit", "bar"
        );
        for row in &self.rows {
            let _ = writeln!(text, "{}", row.text());
        }
        text
    }

    pub fn write_json(&self, path: &Path) -> Result<()> {
        let facts: serde_json::Map<String, Value> =
            self.facts.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        std::fs::write(path, serde_json::to_string_pretty(&json!({ "run": facts, "measurements": rows }))?)?;
        Ok(())
    }
}

impl Row {
    fn text(&self) -> String {
        let (median, min, max) = (median(&self.values), percentile(&self.values, 0.0), percentile(&self.values, 1.0));
        let bar = self.bar.map_or_else(String::new, |bar| {
            format!("{:10} {}", bar.text(), if bar.is_cleared_by(median) { "ok" } else { "MISSED" })
        });
        let line = format!(
            "{:10} {:46} {:>10} {:>10} {:>10}  {:12} {bar}",
            self.section,
            self.what,
            number(median),
            number(min),
            number(max),
            self.unit
        );
        line.trim_end().to_owned()
    }

    fn json(&self) -> Value {
        json!({
            "section": self.section,
            "what": self.what,
            "unit": self.unit,
            "median": median(&self.values),
            "values": self.values,
            "bar": self.bar.map(Bar::text),
            "cleared": self.bar.map(|bar| bar.is_cleared_by(median(&self.values))),
        })
    }
}

/// Three digits that matter.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 || size == 0.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.get(sorted.len() / 2)) {
        (length, Some(upper)) if length % 2 == 0 => (sorted[length / 2 - 1] + upper) / 2.0,
        (_, upper) => upper.copied().unwrap_or(f64::NAN),
    }
}

/// The value that this share of all is at or below (nearest rank).
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}
