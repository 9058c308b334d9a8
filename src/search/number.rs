//! Numbers and quantities: `probability=gt0.8`, `value-quantity=5.4|http://unitsofmeasure.org|mg`. Decimals are compared as
//! they are written, digit by digit: none is rounded.

use std::cmp::Ordering;

use super::escape::{split, unescape};
use super::prefix::{Lies, Prefix};
use crate::json::Value;

/// A number has no more digits than this, nor is it that large or small, where it is asked for.
const MAX_DIGITS: usize = 30;
const MAX_EXPONENT: i64 = 1_000;

/// A decimal number: `digits` with the decimal point before them, times ten to the `exponent`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Decimal {
    is_negative: bool,
    /// Without zeros at the beginning and at the end; none for zero.
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    fn parse(text: &str) -> Option<Self> {
        let (is_negative, unsigned) = match text.strip_prefix('-') {
            Some(unsigned) => (true, unsigned),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, power) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, power)) => (mantissa, power.parse().ok()?),
            None => (unsigned, 0_i64),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        if all.is_empty() || !all.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let leading = all.iter().take_while(|digit| **digit == b'0').count();
        let end = all.iter().rposition(|digit| *digit != b'0').map_or(leading, |last| last + 1);
        let digits = all.get(leading..end).unwrap_or_default().to_vec();
        let places = i64::try_from(whole.len()).ok()?.checked_sub(i64::try_from(leading).ok()?)?;
        let exponent = if digits.is_empty() { 0 } else { power.checked_add(places)? };
        Some(Self { is_negative: is_negative && !digits.is_empty(), digits, exponent })
    }

    /// So many times ten to the exponent.
    fn of(number: i128, exponent: i64) -> Option<Self> {
        Self::parse(&format!("{number}e{exponent}"))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.digits.is_empty(), number.is_negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let size = || self.exponent.cmp(&other.exponent).then_with(|| self.digits.cmp(&other.digits));
        sign(self).cmp(&sign(other)).then_with(|| if self.is_negative { size().reverse() } else { size() })
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A number that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NumberOperand {
    prefix: Prefix,
    exactly: Decimal,
    /// From here up to there all numbers are the same as it, as precisely as it is written.
    from: Decimal,
    to: Decimal,
    /// From a tenth less to a tenth more.
    near: (Decimal, Decimal),
}

impl NumberOperand {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (prefix, number) = Prefix::split(text);
        Self::of(prefix, number)
            .ok_or_else(|| format!("is no number, such as 100, 5.40 or gt1e3, of {MAX_DIGITS} digits at most"))
    }

    fn of(prefix: Prefix, text: &str) -> Option<Self> {
        // A `+` that was not encoded arrives as a blank (rule L5).
        let text = text.trim();
        let (mantissa, power) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        // The specification's example: 1e2 is from 95 to 105, though 100 is from 99.5 to 100.5.
        let finer = i64::from(mantissa.len() < text.len());
        let power = power.trim().parse::<i64>().ok().filter(|power| power.abs() <= MAX_EXPONENT)?;
        let fraction = mantissa.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        let digits = mantissa.replacen('.', "", 1);
        let number = digits.parse::<i128>().ok().filter(|_| digits.len() <= MAX_DIGITS)?;
        let unit = power - i64::try_from(fraction).ok()?;
        let tenths = |number: i128| Decimal::of(number, unit - 1);
        let scale = if finer == 1 { 100 } else { 10 };
        let half = |number: i128, by: i128| Decimal::of(number * scale + by, unit - 1 - finer);
        let (less, more) = (tenths(number * 9)?, tenths(number * 11)?);
        Some(Self {
            prefix,
            exactly: Decimal::of(number, unit)?,
            from: half(number, -5)?,
            to: half(number, 5)?,
            near: if less <= more { (less, more) } else { (more, less) },
        })
    }

    /// Only `eq` and `ne` go by how precise it is.
    pub(super) fn is(&self, there: &Stretch) -> bool {
        let Stretch { low, high } = there;
        let lies = Lies {
            within: low.as_ref().is_some_and(|low| *low >= self.from)
                && high.as_ref().is_some_and(|high| *high < self.to),
            ends_after: high.as_ref().is_none_or(|high| *high > self.exactly),
            begins_before: low.as_ref().is_none_or(|low| *low < self.exactly),
            is_after: low.as_ref().is_some_and(|low| *low > self.exactly),
            is_before: high.as_ref().is_some_and(|high| *high < self.exactly),
            is_near: low.as_ref().is_none_or(|low| *low <= self.near.1)
                && high.as_ref().is_none_or(|high| *high >= self.near.0),
        };
        match self.prefix {
            Prefix::Ge => high.as_ref().is_none_or(|high| *high >= self.exactly),
            Prefix::Le => low.as_ref().is_none_or(|low| *low <= self.exactly),
            prefix => lies.matches(prefix),
        }
    }
}

/// What a number there may be; without an end, anything beyond.
pub(super) struct Stretch {
    low: Option<Decimal>,
    high: Option<Decimal>,
}

impl Stretch {
    fn of(number: Decimal) -> Self {
        Self { low: Some(number.clone()), high: Some(number) }
    }
}

/// An integer, a decimal or a Range.
pub(super) fn read(value: Value<'_>, datatype: &str) -> Result<Stretch, String> {
    if datatype == "Range" { range(value) } else { decimal(value).map(Stretch::of) }
}

fn decimal(value: Value<'_>) -> Result<Decimal, String> {
    value.number().and_then(Decimal::parse).ok_or_else(|| "a number there cannot be read".to_owned())
}

fn range(value: Value<'_>) -> Result<Stretch, String> {
    let end = |name| value.get(name).and_then(|end| end.get("value")).map(decimal).transpose();
    Ok(Stretch { low: end("low")?, high: end("high")? })
}

/// A quantity that is asked for: `[number]|[system]|[code]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QuantityOperand {
    number: NumberOperand,
    unit: Unit,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Unit {
    Any,
    /// A code, or what a person reads.
    Called(String),
    Coded {
        system: String,
        code: String,
    },
}

/// The system of the codes of currencies.
const CURRENCY: &str = "urn:iso:std:iso:4217";

impl QuantityOperand {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let parts = split(text, '|');
        let number = NumberOperand::parse(parts.first().copied().unwrap_or_default())?;
        let unit = match parts.get(1..).unwrap_or_default() {
            [] => Unit::Any,
            ["", code] if !code.is_empty() => Unit::Called(unescape(code)),
            [system, code] if !system.is_empty() && !code.is_empty() => {
                Unit::Coded { system: unescape(system), code: unescape(code) }
            }
            _ => return Err("is no quantity, such as 5.4, 5.4||mg or 5.4|http://unitsofmeasure.org|mg".to_owned()),
        };
        Ok(Self { number, unit })
    }

    pub(super) fn is(&self, there: &Amount<'_>) -> bool {
        there.units.iter().any(|quantity| self.is_in_unit(*quantity)) && self.number.is(&there.number)
    }

    fn is_in_unit(&self, quantity: Value<'_>) -> bool {
        let has = |name: &str, text: &str| quantity.get(name).and_then(Value::text).is_some_and(|found| found == text);
        match &self.unit {
            Unit::Any => true,
            Unit::Called(name) => has("code", name) || has("unit", name) || has("currency", name),
            Unit::Coded { system, code } => {
                (has("system", system) && has("code", code)) || (system == CURRENCY && has("currency", code))
            }
        }
    }
}

/// How much there is, and of what unit.
pub(super) struct Amount<'a> {
    number: Stretch,
    /// The Quantities that have it: of a Range two.
    units: Vec<Value<'a>>,
}

/// A Quantity of any kind, Money, or a Range; none if it has no value, and so says nothing of how much.
pub(super) fn read_amount<'a>(value: Value<'a>, datatype: &str) -> Result<Option<Amount<'a>>, String> {
    if !value.is_object() {
        return Err(format!("a {datatype} there cannot be read"));
    }
    if datatype == "Range" {
        let units = [value.get("low"), value.get("high")].into_iter().flatten().collect();
        return Ok(Some(Amount { number: range(value)?, units }));
    }
    let Some(number) = value.get("value").map(decimal).transpose()? else { return Ok(None) };
    let number = match value.get("comparator").and_then(Value::text).as_deref() {
        Some("<" | "<=") => Stretch { low: None, high: Some(number) },
        Some(">" | ">=") => Stretch { low: Some(number), high: None },
        _ => Stretch::of(number),
    };
    Ok(Some(Amount { number, units: vec![value] }))
}
