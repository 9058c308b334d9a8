//! Dates: `birthdate=1987`, `date=ge2024-03&date=lt2024-04`.

use time::OffsetDateTime;

use super::prefix::{Lies, Prefix};
use crate::fhir::span::Span;
use crate::json::Value;

/// A date that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DateOperand {
    pub(super) prefix: Prefix,
    pub(super) span: Span,
}

impl DateOperand {
    /// A `+` that was not encoded arrives as a blank (rule L5).
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (prefix, date) = Prefix::split(text);
        let span = Span::parse(&date.trim().replace(' ', "+"));
        let wrong = || "is no date, such as 2024, 2024-03, ge2024-03-31 or lt2024-03-31T10:00:00Z".to_owned();
        Ok(Self { prefix, span: span.ok_or_else(wrong)? })
    }

    /// `at` is now, from which it depends what is near.
    pub(super) fn is(&self, there: Span, at: OffsetDateTime) -> bool {
        lies(there, self.span, at).matches(self.prefix)
    }
}

/// When a date, dateTime, instant, Period or Timing is; none if it has no limits, and so says nothing of when.
pub(super) fn read(value: Value<'_>, datatype: &str) -> Result<Option<Span>, String> {
    match datatype {
        "Period" => period(value),
        "Timing" => timing(value),
        _ => date(value).map(Some),
    }
}

fn date(value: Value<'_>) -> Result<Span, String> {
    value.text().and_then(|text| Span::parse(&text)).ok_or_else(|| "a date there cannot be read".to_owned())
}

fn period(value: Value<'_>) -> Result<Option<Span>, String> {
    if !value.is_object() {
        return Err("a Period there cannot be read".to_owned());
    }
    let end = |name| value.get(name).map(date).transpose();
    let (start, end) = (end("start")?, end("end")?);
    Ok((start.is_some() || end.is_some()).then(|| Span::between(start, end)))
}

/// Only the outer limits of a Timing matter.
fn timing(value: Value<'_>) -> Result<Option<Span>, String> {
    let mut spans = Vec::new();
    for event in value.get("event").into_iter().flat_map(Value::items) {
        spans.push(date(event)?);
    }
    if let Some(bounds) = value.get("repeat").and_then(|repeat| repeat.get("boundsPeriod")) {
        spans.extend(period(bounds)?);
    }
    Ok(spans.into_iter().reduce(|all, span| Span {
        first: all.first.zip(span.first).map(|(one, other)| one.min(other)),
        next: all.next.zip(span.next).map(|(one, other)| one.max(other)),
    }))
}

fn lies(there: Span, asked: Span, at: OffsetDateTime) -> Lies {
    // An end that is not there lies beyond any other.
    let starts_before = |limit: Option<OffsetDateTime>| match (there.first, limit) {
        (Some(first), Some(limit)) => first < limit,
        (None, limit) => limit.is_some(),
        (Some(_), None) => false,
    };
    let goes_beyond = |limit: Option<OffsetDateTime>| match (there.next, limit) {
        (Some(next), Some(limit)) => next > limit,
        (None, limit) => limit.is_some(),
        (Some(_), None) => false,
    };
    let (begins_before, ends_after) = (starts_before(asked.first), goes_beyond(asked.next));
    let near = widened(asked, at);
    Lies {
        within: !begins_before && !ends_after,
        begins_before,
        ends_after,
        is_after: there.first.zip(asked.next).is_some_and(|(first, next)| first >= next),
        is_before: there.next.zip(asked.first).is_some_and(|(next, first)| next <= first),
        is_near: near.next.is_none_or(|next| there.first.is_none_or(|first| first < next))
            && near.first.is_none_or(|first| there.next.is_none_or(|next| next > first)),
    }
}

/// With a tenth of the time between it and now on either side.
fn widened(span: Span, at: OffsetDateTime) -> Span {
    let away = |limit: OffsetDateTime| (at - limit).abs() / 10;
    Span {
        first: span.first.and_then(|first| first.checked_sub(away(first))),
        next: span.next.and_then(|next| next.checked_add(away(next))),
    }
}
