//! Tokens: `code=http://loinc.org|8480-6`, `gender=female`, `identifier=https://id.example|17`.

use std::borrow::Cow;

use super::element::Datatype;
use super::escape::{split, unescape};
use super::string::Text;
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

    /// Codes are what they are: case counts, unless what is there is a mere string.
    pub(super) fn is(&self, there: &Coded<'_>) -> bool {
        let is_from = match (&self.system, &there.from) {
            (System::Any, _) | (System::None, From::Bound(_) | From::Written(None)) => true,
            (System::None, From::Written(Some(_))) => false,
            (System::Is(system), From::Written(written)) => written.as_deref() == Some(system.as_str()),
            (System::Is(system), From::Bound(datatype)) => datatype.systems().any(|bound| bound == system),
        };
        is_from && self.code.as_ref().is_none_or(|asked| there.code.as_ref().is_some_and(|code| there.is(asked, code)))
    }
}

/// A code that is there, or the like.
pub(super) struct Coded<'a> {
    from: From<'a>,
    code: Option<Cow<'a, str>>,
}

enum From<'a> {
    /// The system that is written beside it. (A ContactPoint's is `phone` or the like.)
    Written(Option<Cow<'a, str>>),
    /// There is no place for one: it is from those that its element is bound to.
    Bound(Datatype),
}

impl<'a> Coded<'a> {
    /// A code without a system beside it.
    pub(super) fn plain(code: Cow<'a, str>, datatype: Datatype) -> Self {
        Self { from: From::Bound(datatype), code: Some(code) }
    }

    fn is(&self, asked: &str, code: &str) -> bool {
        let is_string = matches!(self.from, From::Bound(datatype) if datatype.name == "string");
        asked == code || (is_string && asked.to_lowercase() == code.to_lowercase())
    }

    /// An object with a system, and the code in a member of this name.
    pub(super) fn of(value: Value<'a>, code: &str) -> Self {
        let says = |name: &str| value.get(name).and_then(Value::text);
        Self { from: From::Written(says("system")), code: says(code) }
    }
}

/// The codes of an element.
pub(super) fn read(value: Value<'_>, datatype: Datatype) -> Result<Vec<Coded<'_>>, String> {
    let codes = match datatype.name {
        "CodeableConcept" => codings(object(value, datatype)?),
        "Coding" => vec![Coded::of(object(value, datatype)?, "code")],
        "Identifier" | "ContactPoint" => vec![Coded::of(object(value, datatype)?, "value")],
        "boolean" => match value.0 {
            "true" | "false" => vec![Coded::plain(Cow::Borrowed(value.0), datatype)],
            _ => return Err("a boolean there cannot be read".to_owned()),
        },
        name => {
            let code = value.text().ok_or_else(|| format!("a {name} there cannot be read"))?;
            vec![Coded::plain(code, datatype)]
        }
    };
    Ok(codes)
}

/// The codings of a CodeableConcept.
fn codings(concept: Value<'_>) -> Vec<Coded<'_>> {
    concept.get("coding").into_iter().flat_map(Value::items).map(|coding| Coded::of(coding, "code")).collect()
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

    pub(super) fn is(&self, identifier: Value<'_>) -> bool {
        identifier.get("value").and_then(Value::text).is_some_and(|found| found == self.value.as_str())
            && identifier.get("type").map(codings).unwrap_or_default().iter().any(|coded| self.of.is(coded))
    }
}

/// The types of elements of which people read a text.
pub(super) const WITH_TEXT: [&str; 3] = ["CodeableConcept", "Coding", "Identifier"];

/// What people read of a code (`:text`).
pub(super) fn read_texts(value: Value<'_>, datatype: Datatype) -> Result<Vec<Text<'_>>, String> {
    if !WITH_TEXT.contains(&datatype.name) {
        return Ok(Vec::new());
    }
    let value = object(value, datatype)?;
    let codings = value.get("coding").into_iter().flat_map(Value::items);
    let texts: Vec<Value<'_>> = match datatype.name {
        "CodeableConcept" => codings.filter_map(|coding| coding.get("display")).chain(value.get("text")).collect(),
        "Coding" => value.get("display").into_iter().collect(),
        _ => value.get("type").and_then(|of| of.get("text")).into_iter().collect(),
    };
    texts.into_iter().map(Text::read).collect()
}

pub(super) fn object(value: Value<'_>, datatype: Datatype) -> Result<Value<'_>, String> {
    if value.is_object() { Ok(value) } else { Err(format!("a {} there cannot be read", datatype.name)) }
}
