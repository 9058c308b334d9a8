//! Strings: `family=muller` finds Müller and Mullerova.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use crate::json::Value;

/// Where in what is there the text has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Where {
    /// At its beginning, whatever the case and the accents.
    Start,
    /// Anywhere (`:contains`), the same.
    Anywhere,
    /// It is all of it, as it is written (`:exact`).
    Whole,
}

/// A text that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StringOperand {
    place: Where,
    text: String,
}

const HUMAN_NAME: [&str; 5] = ["text", "family", "given", "prefix", "suffix"];
const ADDRESS: [&str; 7] = ["text", "line", "city", "district", "state", "postalCode", "country"];

impl StringOperand {
    pub(super) fn new(place: Where, text: &str) -> Self {
        let text = if place == Where::Whole { text.to_owned() } else { folded(text) };
        Self { place, text }
    }

    /// Compares it with a string, or with any part of a name or an address.
    pub(super) fn matches(&self, value: Value<'_>, datatype: &str) -> Result<bool, String> {
        let parts: &[&str] = match datatype {
            "HumanName" => &HUMAN_NAME,
            "Address" => &ADDRESS,
            _ => return self.is_text(value),
        };
        if !value.is_object() {
            return Err(format!("a {datatype} there cannot be read"));
        }
        for part in parts.iter().filter_map(|part| value.get(part)).flat_map(Value::items) {
            if self.is_text(part)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Compares it with a string.
    pub(super) fn is_text(&self, value: Value<'_>) -> Result<bool, String> {
        let found = value.text().ok_or_else(|| "a string there cannot be read".to_owned())?;
        Ok(match self.place {
            Where::Start => folded(&found).starts_with(&self.text),
            Where::Anywhere => folded(&found).contains(&self.text),
            Where::Whole => found == self.text.as_str(),
        })
    }
}

/// Without case and without accents.
fn folded(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    text.nfd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase).collect()
}
