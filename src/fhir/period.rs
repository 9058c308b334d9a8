//! The FHIR Period: whether an instant is in it. Its ends may be no more precise than a year; those without a zone are
//! taken in UTC.

use serde::Deserialize;
use time::{Date, Duration, Month, OffsetDateTime};

use super::instant;

/// A Period; without ends it is always.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Period {
    start: Option<String>,
    end: Option<String>,
}

impl Period {
    /// Whether the instant is in it. Both ends belong to it: 2026-03 is the first moment of March as a start, the last
    /// one as an end. An end that cannot be read lets nothing in.
    pub(crate) fn contains(&self, at: OffsetDateTime) -> bool {
        self.start.as_deref().is_none_or(|start| span(start).is_some_and(|(first, _)| first <= at))
            && self
                .end
                .as_deref()
                .is_none_or(|end| span(end).is_some_and(|(_, next)| next.is_none_or(|next| at < next)))
    }
}

/// The first instant of a dateTime, and the first one after it, unless that is past the end of the calendar.
fn span(text: &str) -> Option<(OffsetDateTime, Option<OffsetDateTime>)> {
    if text.contains('T') {
        let first = instant::parse(text)?;
        let precision = if text.contains('.') { Duration::MILLISECOND } else { Duration::SECOND };
        return Some((first, first.checked_add(precision)));
    }
    let mut numbers = text.split('-').map(|digits| digits.parse::<u16>().ok());
    let year = i32::from(numbers.next()??);
    let month = numbers.next().map(|month| month.and_then(month_of));
    let day = numbers.next().map(|day| day.and_then(|day| u8::try_from(day).ok()));
    // What is there must be readable, and nothing may follow.
    if month == Some(None) || day == Some(None) || numbers.next().is_some() {
        return None;
    }
    let (month, day) = (month.flatten(), day.flatten());
    let first = Date::from_calendar_date(year, month.unwrap_or(Month::January), day.unwrap_or(1)).ok()?;
    let next = match (month, day) {
        (None, _) => first.replace_year(year + 1).ok(),
        (Some(Month::December), None) => Date::from_calendar_date(year + 1, Month::January, 1).ok(),
        (Some(month), None) => first.replace_month(month.next()).ok(),
        _ => first.next_day(),
    };
    Some((first.midnight().assume_utc(), next.map(|next| next.midnight().assume_utc())))
}

fn month_of(number: u16) -> Option<Month> {
    Month::try_from(u8::try_from(number).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn contains(start: &str, end: &str, at: OffsetDateTime) -> bool {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Period { start: given(start), end: given(end) }.contains(at)
    }

    // H7
    #[test]
    fn both_ends_belong_to_it_as_precise_as_they_are() {
        let at = datetime!(2026-03-31 23:59:59.5 UTC);
        for (start, end) in [
            ("", ""),
            ("2026", "2026"),
            ("2026-03", "2026-03"),
            ("2026-03", "9999-12-31"),
            ("2026-03-31", "2026-03-31"),
            ("2026-03-31T23:59:59Z", "2026-03-31T23:59:59Z"),
            ("2026-04-01T01:59:59.5+02:00", "2026-12"),
        ] {
            assert!(contains(start, end, at), "{start} to {end}");
        }
        for (start, end) in [
            ("2027", ""),
            ("2026-04", ""),
            ("2026-03-31T23:59:59.6Z", ""),
            ("", "2025"),
            ("", "2025-12"),
            ("", "2026-03-30"),
            ("", "2026-03-31T23:59:59.4Z"),
            ("", "soon"),
            ("2026-13", ""),
            ("2026-01-01-01", ""),
        ] {
            assert!(!contains(start, end, at), "{start} to {end}");
        }
    }
}
