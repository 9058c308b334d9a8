//! What a date means: all the time from its first instant to the first one after it, as long as it is precise. Without a
//! zone it is in UTC.

use time::{Date, Duration, Month, OffsetDateTime};

use super::instant;

/// Length of `YYYY-MM-DDThh:mm`.
const MINUTE: usize = 16;

/// A stretch of time; without an end it goes on for ever on that side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first instant of it.
    pub(crate) first: Option<OffsetDateTime>,
    /// The first instant after it.
    pub(crate) next: Option<OffsetDateTime>,
}

impl Span {
    /// Reads a date, a dateTime or an instant: `2026`, `2026-03`, `2026-03-31`, `2026-03-31T23:59`, with seconds, with a
    /// fraction, with a zone.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.contains('T') { Self::of_time(text) } else { Self::of_date(text) }
    }

    /// From the first instant of one to the last of the other.
    pub(crate) fn between(start: Option<Self>, end: Option<Self>) -> Self {
        Self { first: start.and_then(|start| start.first), next: end.and_then(|end| end.next) }
    }

    fn of_time(text: &str) -> Option<Self> {
        let (minutes, rest) = text.split_at_checked(MINUTE)?;
        let has_seconds = rest.starts_with(':');
        let seconds = if has_seconds { rest } else { &format!(":00{rest}") };
        let has_zone = seconds.contains(['Z', '+', '-']);
        let first = instant::parse(&format!("{minutes}{seconds}{}", if has_zone { "" } else { "Z" }))?;
        let next = first.checked_add(if has_seconds { precision(seconds) } else { Duration::MINUTE });
        Some(Self { first: Some(first), next })
    }

    fn of_date(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let year = i32::from(number(parts.next()?, 4)?);
        let mut numbers = parts.map(|part| number(part, 2));
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
        let midnight = |date: Date| date.midnight().assume_utc();
        Some(Self { first: Some(midnight(first)), next: next.map(midnight) })
    }
}

/// How long what has these seconds lasts: FHIR's servers keep milliseconds, so a shorter fraction is as precise.
fn precision(seconds: &str) -> Duration {
    let fraction = seconds.split_once('.').map(|(_, rest)| rest.bytes().take_while(u8::is_ascii_digit).count());
    match fraction {
        None => Duration::SECOND,
        Some(..=3) => Duration::MILLISECOND,
        Some(4..=6) => Duration::MICROSECOND,
        Some(_) => Duration::NANOSECOND,
    }
}

/// So many digits and nothing else.
fn number(text: &str, length: usize) -> Option<u16> {
    let plain = text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

fn month_of(number: u16) -> Option<Month> {
    Month::try_from(u8::try_from(number).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_date_is_as_long_as_it_is_precise() {
        for (text, first, next) in [
            ("2024", datetime!(2024-01-01 0:00 UTC), datetime!(2025-01-01 0:00 UTC)),
            ("2024-02", datetime!(2024-02-01 0:00 UTC), datetime!(2024-03-01 0:00 UTC)),
            ("2024-12", datetime!(2024-12-01 0:00 UTC), datetime!(2025-01-01 0:00 UTC)),
            ("2024-02-29", datetime!(2024-02-29 0:00 UTC), datetime!(2024-03-01 0:00 UTC)),
            ("2024-02-29T23:59", datetime!(2024-02-29 23:59 UTC), datetime!(2024-03-01 0:00 UTC)),
            ("2024-02-29T23:59+01:00", datetime!(2024-02-29 22:59 UTC), datetime!(2024-02-29 23:00 UTC)),
            ("2024-02-29T23:59:58", datetime!(2024-02-29 23:59:58 UTC), datetime!(2024-02-29 23:59:59 UTC)),
            ("2024-01-01T00:00:00-02:00", datetime!(2024-01-01 2:00 UTC), datetime!(2024-01-01 2:00:01 UTC)),
            ("2024-01-01T00:00:00.5Z", datetime!(2024-01-01 0:00:00.5 UTC), datetime!(2024-01-01 0:00:00.501 UTC)),
            (
                "2024-01-01T00:00:00.5000Z",
                datetime!(2024-01-01 0:00:00.5 UTC),
                datetime!(2024-01-01 0:00:00.500001 UTC),
            ),
        ] {
            assert_eq!(Span::parse(text), Some(Span { first: Some(first), next: Some(next) }), "{text}");
        }
        assert_eq!(Span::parse("9999").unwrap().next, None);
    }

    #[test]
    fn nothing_but_a_date_is_read() {
        for text in [
            "",
            "24",
            "2024-",
            "2024-1",
            "2024-13",
            "2024-02-30",
            "2024-02-01-01",
            "2024-02-01T",
            "2024-02-01T10",
            "2024-02-01T10:0",
            "2024-02T10:00",
            "2024-02-01T10:00:0",
            "2024-02-01T25:00",
            "2024-02-01T10:00X",
            "-2024",
            "+024",
            "2024-02-01T10:00:00.Z",
            "2024-02-01T10:00é",
            "today",
        ] {
            assert_eq!(Span::parse(text), None, "{text}");
        }
    }
}
