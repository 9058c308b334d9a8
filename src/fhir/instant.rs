//! The FHIR `instant`: read strictly, written in UTC with exactly three digits of a second (`meta.lastUpdated`).

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

/// Length of `YYYY-MM-DDThh:mm:ss`.
const SECONDS_END: usize = 19;

/// FHIR's largest distance from UTC, in minutes.
const MAX_OFFSET: i32 = 14 * 60;

/// Reads `YYYY-MM-DDThh:mm:ss[.f+](Z|±hh:mm)` and gives the instant in UTC.
///
/// Digits beyond nanoseconds are dropped. Second 60 and hour 24 are refused, and so is an instant whose year in UTC is
/// not within 0001 to 9999, because it could not be written again.
pub(crate) fn parse(text: &str) -> Option<OffsetDateTime> {
    let (stamp, rest) = text.split_at_checked(SECONDS_END)?;
    let (nanosecond, zone) = fraction(rest)?;
    let local = PrimitiveDateTime::new(date(stamp)?, time_of_day(stamp, nanosecond)?);
    let instant = local.assume_offset(offset(zone)?).checked_to_offset(UtcOffset::UTC)?;
    (1..=9999).contains(&instant.year()).then_some(instant)
}

/// The instant as `YYYY-MM-DDThh:mm:ss.fffZ`; what is finer than a millisecond is cut off.
pub(crate) fn format(instant: OffsetDateTime) -> String {
    let mut text = String::with_capacity(SECONDS_END + 5);
    push(&mut text, instant);
    text
}

/// Appends what [`format()`] gives.
pub(crate) fn push(text: &mut String, instant: OffsetDateTime) {
    let utc = instant.checked_to_offset(UtcOffset::UTC).unwrap_or(instant);
    push_digits(text, u32::try_from(utc.year()).unwrap_or_default(), 4);
    for (before, value) in
        [('-', u8::from(utc.month())), ('-', utc.day()), ('T', utc.hour()), (':', utc.minute()), (':', utc.second())]
    {
        text.push(before);
        push_digits(text, u32::from(value), 2);
    }
    text.push('.');
    push_digits(text, u32::from(utc.millisecond()), 3);
    text.push('Z');
}

fn push_digits(text: &mut String, value: u32, width: u32) {
    for power in (0..width).rev() {
        text.extend(char::from_digit(value / 10_u32.pow(power) % 10, 10));
    }
}

fn date(stamp: &str) -> Option<Date> {
    let year = digits(stamp.get(..4)?)?;
    let month = digits(after(stamp, 4, "-")?)?;
    let day = digits(after(stamp, 7, "-")?)?;
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let year = i32::try_from(year).ok().filter(|year| *year > 0)?;
    Date::from_calendar_date(year, month, u8::try_from(day).ok()?).ok()
}

fn time_of_day(stamp: &str, nanosecond: u32) -> Option<Time> {
    let hour = digits(after(stamp, 10, "T")?)?;
    let minute = digits(after(stamp, 13, ":")?)?;
    let second = digits(after(stamp, 16, ":")?)?;
    let [hour, minute, second] = [hour, minute, second].map(|part| u8::try_from(part).ok());
    Time::from_hms_nano(hour?, minute?, second?, nanosecond).ok()
}

/// The two characters after this separator at this place.
fn after<'a>(text: &'a str, at: usize, separator: &str) -> Option<&'a str> {
    text.get(at..at + 3)?.strip_prefix(separator)
}

/// Splits `.f+` off what follows the seconds: the nanoseconds and the zone.
fn fraction(rest: &str) -> Option<(u32, &str)> {
    let Some(rest) = rest.strip_prefix('.') else {
        return Some((0, rest));
    };
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    let (fraction, zone) = rest.split_at(end);
    let kept = &fraction[..fraction.len().min(9)];
    let missing = u32::try_from(9 - kept.len()).ok()?;
    Some((digits(kept)? * 10_u32.pow(missing), zone))
}

fn offset(zone: &str) -> Option<UtcOffset> {
    if zone == "Z" {
        return Some(UtcOffset::UTC);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let hour = digits(zone.get(1..3)?)?;
    let minute = digits(zone.get(3..)?.strip_prefix(':').filter(|minute| minute.len() == 2)?)?;
    let minutes = i32::try_from(hour * 60 + minute).ok()?;
    let valid = minute < 60 && minutes <= MAX_OFFSET;
    valid.then(|| UtcOffset::from_whole_seconds(sign * minutes * 60).ok()).flatten()
}

/// The value of up to nine ASCII digits, and nothing but digits (`str::parse` would take a sign).
fn digits(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    #[test]
    fn instants_are_read() {
        for (text, expected) in [
            ("2026-01-01T00:00:00Z", datetime!(2026-01-01 00:00:00 UTC)),
            ("2026-01-01T01:30:00.5+01:30", datetime!(2026-01-01 00:00:00.5 UTC)),
            ("2025-12-31T23:00:00.123456789-01:00", datetime!(2026-01-01 00:00:00.123456789 UTC)),
            ("2024-02-29T23:59:59.1234567899999Z", datetime!(2024-02-29 23:59:59.123456789 UTC)),
            ("2026-01-01T14:00:00+14:00", datetime!(2026-01-01 00:00:00 UTC)),
            ("0001-01-01T00:00:00-00:00", datetime!(0001-01-01 00:00:00 UTC)),
            ("9999-12-31T23:59:59.999Z", datetime!(9999-12-31 23:59:59.999 UTC)),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn nothing_but_an_instant_is_read() {
        for text in [
            "",
            "2026",
            "2026-01-01",
            "2026-01-01T00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.5",
            "2026-01-01T00:00:00z",
            "2026-01-01t00:00:00Z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00ZZ",
            " 2026-01-01T00:00:00Z",
            "2026-01-01T00:00:00Z ",
            "2026-01-01T00:00:00 01:00",
            "2026-01-01T00:00:00+0100",
            "2026-01-01T00:00:00+1:00",
            "2026-01-01T00:00:00+01:000",
            "2026-01-01T00:00:00+01:60",
            "2026-01-01T00:00:00+14:01",
            "2026-01-01T00:00:00+-1:00",
            "2026-01-01T00:00:60Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "+026-01-01T00:00:00Z",
            "2026-+1-01T00:00:00Z",
            "2026-01-01T00:00:0é",
            "2026-01-01T00:00:00.5é",
            "2026-01-01T00:00:00+é0",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn written_in_utc_with_three_digits() {
        let instant = datetime!(2026-01-01 01:02:03.004999 +2);
        assert_eq!(format(instant), "2025-12-31T23:02:03.004Z");
        assert_eq!(format(datetime!(0007-10-11 12:13:14 UTC)), "0007-10-11T12:13:14.000Z");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(millis in -62_135_596_800_000_i64..253_402_300_800_000) {
            let nanos = i128::from(millis) * 1_000_000;
            let instant = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap();
            prop_assert_eq!(parse(&format(instant)), Some(instant));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9TZ:.+é-]{0,40}") {
            let _ = parse(&text);
        }
    }
}
