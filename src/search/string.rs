//! Strings: `family=muller` finds Müller and Mullerova.

use std::borrow::Cow;

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

/// A text that is there.
pub(super) struct Text<'a> {
    written: Cow<'a, str>,
    folded: String,
}

const HUMAN_NAME: [&str; 5] = ["text", "family", "given", "prefix", "suffix"];
const ADDRESS: [&str; 7] = ["text", "line", "city", "district", "state", "postalCode", "country"];

/// A string, or the parts of a name or an address.
pub(super) fn read<'a>(value: Value<'a>, datatype: &str) -> Result<Vec<Text<'a>>, String> {
    let parts: &[&str] = match datatype {
        "HumanName" => &HUMAN_NAME,
        "Address" => &ADDRESS,
        _ => return Ok(vec![Text::read(value)?]),
    };
    if !value.is_object() {
        return Err(format!("a {datatype} there cannot be read"));
    }
    parts.iter().filter_map(|part| value.get(part)).flat_map(Value::items).map(Text::read).collect()
}

impl<'a> Text<'a> {
    pub(super) fn read(value: Value<'a>) -> Result<Self, String> {
        let written = value.text().ok_or_else(|| "a string there cannot be read".to_owned())?;
        let folded = folded(&written);
        Ok(Self { written, folded })
    }
}

impl StringOperand {
    pub(super) fn new(place: Where, text: &str) -> Result<Self, String> {
        let text = if place == Where::Whole { text.to_owned() } else { folded(text) };
        // With nothing, everything begins.
        if text.is_empty() { Err("is nothing but accents".to_owned()) } else { Ok(Self { place, text }) }
    }

    pub(super) fn is(&self, there: &Text<'_>) -> bool {
        match self.place {
            Where::Start => there.folded.starts_with(&self.text),
            Where::Anywhere => there.folded.contains(&self.text),
            Where::Whole => there.written == self.text.as_str(),
        }
    }
}

/// Without case and without accents.
pub(super) fn folded(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    text.nfd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase).collect()
}
