//! Tokens: `code=http://loinc.org|8480-6`, `gender=female`, `identifier=https://id.example|17`.

use super::element::Datatype;
use super::escape::{split, unescape};
use super::string::{StringOperand, Where};
use crate::json::Value;

/// A code, or the like, that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TokenOperand {
    system: System,
    /// None: any.
    code: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum System {
    Any,
    /// There is none (`|code`).
    None,
    Is(String),
}

impl TokenOperand {
    /// Reads `code`, `system|code`, `|code` and `system|`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "is no token, such as code, system|code, |code or system|".to_owned();
        match *split(text, '|') {
            [code] if !code.is_empty() => Ok(Self { system: System::Any, code: Some(unescape(code)) }),
            ["", code] if !code.is_empty() => Ok(Self { system: System::None, code: Some(unescape(code)) }),
            [system, code] if !system.is_empty() => Ok(Self {
                system: System::Is(unescape(system)),
                code: Some(unescape(code)).filter(|code| !code.is_empty()),
            }),
            _ => Err(wrong()),
        }
    }

    /// The code, if that is all that is asked for.
    pub(super) fn code_only(&self) -> Option<&str> {
        self.code.as_deref().filter(|_| self.system == System::Any)
    }

    /// Whether it names a system.
    pub(super) fn has_system(&self) -> bool {
        matches!(self.system, System::Is(_))
    }

    /// Whether it names this system.
    pub(super) fn is_of(&self, system: &str) -> bool {
        matches!(&self.system, System::Is(asked) if asked == system)
    }

    /// Compares it with what is there. Codes are what they are: case counts.
    pub(super) fn matches(&self, value: Value<'_>, datatype: Datatype) -> Result<bool, String> {
        match datatype.name {
            "CodeableConcept" => self.is_one_of(object(value, datatype)?.get("coding")),
            "Coding" => Ok(self.is(object(value, datatype)?, "code")),
            "Identifier" | "ContactPoint" => Ok(self.is(object(value, datatype)?, "value")),
            "boolean" => match value.0 {
                "true" | "false" => Ok(self.is_code(value.0)),
                _ => Err("a boolean there cannot be read".to_owned()),
            },
            _ => {
                let code = value.text().ok_or_else(|| format!("a {} there cannot be read", datatype.name))?;
                Ok(self.is_code(&code) && self.is_from(datatype))
            }
        }
    }

    /// Whether one of these codings is it.
    pub(super) fn is_one_of(&self, codings: Option<Value<'_>>) -> Result<bool, String> {
        Ok(codings.into_iter().flat_map(Value::items).any(|coding| self.is(coding, "code")))
    }

    /// An object with a system and a code beside it. (A ContactPoint's system is `phone` or the like.)
    pub(super) fn is(&self, value: Value<'_>, code: &str) -> bool {
        let says = |name: &str, text: &str| value.get(name).and_then(Value::text).is_some_and(|found| found == text);
        let is_from = match &self.system {
            System::Any => true,
            System::None => value.get("system").is_none(),
            System::Is(system) => says("system", system),
        };
        is_from && self.code.as_ref().is_none_or(|asked| says(code, asked))
    }

    fn is_code(&self, code: &str) -> bool {
        self.code.as_ref().is_none_or(|asked| asked == code)
    }

    /// A code without a system beside it is from those that its element is bound to.
    fn is_from(&self, datatype: Datatype) -> bool {
        match &self.system {
            System::Any | System::None => true,
            System::Is(system) => datatype.systems().any(|bound| bound == system),
        }
    }
}

/// An Identifier by what it is, too: `:of-type`, `system|code|value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OfType {
    of: TokenOperand,
    value: String,
}

impl OfType {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match *split(text, '|') {
            [system, code, value] if ![system, code, value].contains(&"") => Ok(Self {
                of: TokenOperand { system: System::Is(unescape(system)), code: Some(unescape(code)) },
                value: unescape(value),
            }),
            _ => Err("is no typed identifier: system|code|value".to_owned()),
        }
    }

    pub(super) fn matches(&self, value: Value<'_>, datatype: Datatype) -> Result<bool, String> {
        let identifier = object(value, datatype)?;
        let is_it = identifier.get("value").and_then(Value::text).is_some_and(|found| found == self.value.as_str());
        Ok(is_it && self.of.is_one_of(identifier.get("type").and_then(|of| of.get("coding")))?)
    }
}

/// What a person reads of a code (`:text`): it begins so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TokenText(StringOperand);

impl TokenText {
    /// The types of elements that have such a text.
    pub(super) const TYPES: [&str; 3] = ["CodeableConcept", "Coding", "Identifier"];

    pub(super) fn new(text: &str) -> Self {
        Self(StringOperand::new(Where::Start, text))
    }

    pub(super) fn matches(&self, value: Value<'_>, datatype: Datatype) -> Result<bool, String> {
        let value = object(value, datatype)?;
        let codings = || value.get("coding").into_iter().flat_map(Value::items);
        let texts: Vec<Value<'_>> = match datatype.name {
            "CodeableConcept" => {
                codings().filter_map(|coding| coding.get("display")).chain(value.get("text")).collect()
            }
            "Coding" => value.get("display").into_iter().collect(),
            _ => value.get("type").and_then(|of| of.get("text")).into_iter().collect(),
        };
        for text in texts {
            if self.0.is_text(text)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn object(value: Value<'_>, datatype: Datatype) -> Result<Value<'_>, String> {
    if value.is_object() { Ok(value) } else { Err(format!("a {} there cannot be read", datatype.name)) }
}
