//! What of a representation a request wants, given what the client has already: preconditions and byte ranges
//! (RFC 9110, 13 and 14). Nothing here reads or sends anything.

use std::ops::RangeInclusive;

use axum::http::header::{
    HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};
use axum::http::{HeaderMap, Method};
use http_range_header::parse_range_header;
use httpdate::HttpDate;

/// The representation that a GET would give now.
pub(super) struct Current<'a> {
    /// As the header has it, with quotes and perhaps `W/`.
    pub(super) etag: &'a str,
    /// To the second, which is all that clients know of it.
    pub(super) last_modified: HttpDate,
    /// Its length, if it is served in ranges.
    pub(super) ranges_of: Option<u64>,
}

/// What the request comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Whole,
    Part(RangeInclusive<u64>),
    NotModified,
    PreconditionFailed,
    Unsatisfiable,
}

/// In the order of RFC 9110, 13.2.2; for GET and HEAD of something that exists and that the caller may read. A date
/// that cannot be read is as if it were not there.
pub(super) fn wanted(method: &Method, headers: &HeaderMap, current: &Current<'_>) -> Wanted {
    let is_later_than = |name| date(headers, name).map(|date| current.last_modified > date);
    if headers.contains_key(IF_MATCH) {
        if !lists(headers, IF_MATCH, |tag| is_same(tag, current.etag)) {
            return Wanted::PreconditionFailed;
        }
    } else if is_later_than(IF_UNMODIFIED_SINCE) == Some(true) {
        return Wanted::PreconditionFailed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if lists(headers, IF_NONE_MATCH, |tag| without_weakness(tag) == without_weakness(current.etag.as_bytes())) {
            return Wanted::NotModified;
        }
    } else if is_later_than(IF_MODIFIED_SINCE) == Some(false) {
        return Wanted::NotModified;
    }
    // HEAD is answered like a GET without Range: that is the only method it is defined for (14.2).
    match current.ranges_of {
        Some(length) if method == Method::GET && may_be_part(headers, current) => part(headers, length),
        _ => Wanted::Whole,
    }
}

/// One range, as far as there is something there. Whatever else is asked for is ignored, as 14.2 allows: what cannot be
/// read, other units, and several ranges, which no client of a bulk export needs and which multiply the work.
fn part(headers: &HeaderMap, length: u64) -> Wanted {
    let Some(Ok(asked)) = only(headers, RANGE).map(parse_range_header) else { return Wanted::Whole };
    if asked.len() > 1 {
        return Wanted::Whole;
    }
    match asked.validate(length).ok().and_then(|ranges| ranges.into_iter().next()) {
        Some(range) => Wanted::Part(range),
        None => Wanted::Unsatisfiable,
    }
}

/// Whether what the client has a part of is still what there is. Only a tag says so: both encodings of a file have the
/// same date, and to go on in the other one would be wrong. With a date the whole is sent, as 13.1.5 allows.
fn may_be_part(headers: &HeaderMap, current: &Current<'_>) -> bool {
    if !headers.contains_key(IF_RANGE) {
        return true;
    }
    only(headers, IF_RANGE).is_some_and(|tag| is_same(tag.as_bytes(), current.etag))
}

/// Whether a list of tags, or `*`, names one like that. Our tags have no commas, so a tag of others that is cut apart at
/// its comma cannot be taken for one of ours.
fn lists(headers: &HeaderMap, name: HeaderName, is_it: impl Fn(&[u8]) -> bool) -> bool {
    let all = headers.get_all(name);
    let mut tags = all.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    tags.any(|tag| tag == b"*" || is_it(tag))
}

/// The strong comparison (8.8.3.2): a weak tag is the same as none, not even as itself.
fn is_same(tag: &[u8], current: &str) -> bool {
    !current.starts_with("W/") && tag == current.as_bytes()
}

fn without_weakness(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// A header that may stand there only once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_none() { value.to_str().ok() } else { None }
}

fn date(headers: &HeaderMap, name: HeaderName) -> Option<HttpDate> {
    only(headers, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const BEFORE: &str = "Sat, 07 Nov 2026 08:48:36 GMT";
    const THEN: &str = "Sat, 07 Nov 2026 08:48:37 GMT";
    const AFTER: &str = "Sat, 07 Nov 2026 08:48:38 GMT";

    fn ask(method: &Method, etag: &str, ranges_of: Option<u64>, headers: &[(HeaderName, &str)]) -> Wanted {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        wanted(method, &map, &Current { etag, last_modified: THEN.parse().unwrap(), ranges_of })
    }

    /// A GET of a file of 100 bytes with the tag `"a"`.
    fn get(headers: &[(HeaderName, &str)]) -> Wanted {
        ask(&Method::GET, r#""a""#, Some(100), headers)
    }

    #[test]
    fn a_range_is_first_last_open_or_a_suffix() {
        for (range, expected) in [
            ("bytes=0-0", Wanted::Part(0..=0)),
            ("bytes=10-19", Wanted::Part(10..=19)),
            ("BYTES=10-19", Wanted::Part(10..=19)),
            ("bytes=90-", Wanted::Part(90..=99)),
            ("bytes=90-100", Wanted::Part(90..=99)),
            ("bytes=90-99999999999999999999999", Wanted::Part(90..=99)),
            ("bytes=-1", Wanted::Part(99..=99)),
            ("bytes=-100", Wanted::Part(0..=99)),
            ("bytes=-1000", Wanted::Part(0..=99)),
            ("bytes=100-", Wanted::Unsatisfiable),
            ("bytes=100-200", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=0-0,5-6", Wanted::Whole),
            ("bytes=200-300,5-6", Wanted::Whole),
            ("bytes=5-4", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes 1-2", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
            ("", Wanted::Whole),
        ] {
            assert_eq!(get(&[(RANGE, range)]), expected, "{range}");
        }
        assert_eq!(get(&[(RANGE, "bytes=0-0"), (RANGE, "bytes=1-1")]), Wanted::Whole);
    }

    #[test]
    fn a_range_is_for_get_of_what_has_ranges() {
        let range = [(RANGE, "bytes=1-2")];
        assert_eq!(ask(&Method::HEAD, r#""a""#, Some(100), &range), Wanted::Whole);
        assert_eq!(ask(&Method::GET, r#"W/"1""#, None, &range), Wanted::Whole);
        assert_eq!(ask(&Method::GET, r#""a""#, Some(0), &range), Wanted::Unsatisfiable);
    }

    #[test]
    fn if_range_wants_the_very_same() {
        let part = Wanted::Part(1..=2);
        for (validator, is_part) in [
            (r#""a""#, true),
            (r#""b""#, false),
            (r#"W/"a""#, false),
            (r#""a", "b""#, false),
            ("*", false),
            ("a", false),
            (THEN, false),
            (BEFORE, false),
            ("yesterday", false),
        ] {
            let found = get(&[(RANGE, "bytes=1-2"), (IF_RANGE, validator)]);
            assert_eq!(found == part, is_part, "{validator}");
            assert!(found == part || found == Wanted::Whole, "{validator}");
        }
        // Of something else the range would be out of bounds; so it is not asked for.
        assert_eq!(get(&[(RANGE, "bytes=100-"), (IF_RANGE, r#""b""#)]), Wanted::Whole);
        assert_eq!(get(&[(RANGE, "bytes=100-"), (IF_RANGE, r#""a""#)]), Wanted::Unsatisfiable);
    }

    #[test]
    fn tags_are_compared_weakly_for_none_match_and_strongly_for_match() {
        for (tags, etag, none_match_hits, match_hits) in [
            (r#""a""#, r#""a""#, true, true),
            (r#"W/"a""#, r#""a""#, true, false),
            (r#""a""#, r#"W/"a""#, true, false),
            (r#"W/"a""#, r#"W/"a""#, true, false),
            (r#""b""#, r#""a""#, false, false),
            (r#""b" , W/"c","a""#, r#""a""#, true, true),
            (r#""b,c", "d""#, r#""a""#, false, false),
            (r#"w/"a""#, r#""a""#, false, false),
            ("a", r#""a""#, false, false),
            ("", r#""a""#, false, false),
            ("*", r#""a""#, true, true),
            ("*", r#"W/"a""#, true, true),
        ] {
            for method in [Method::GET, Method::HEAD] {
                let found = ask(&method, etag, None, &[(IF_NONE_MATCH, tags)]);
                assert_eq!(found == Wanted::NotModified, none_match_hits, "{tags} {etag}");
                let found = ask(&method, etag, None, &[(IF_MATCH, tags)]);
                assert_eq!(found != Wanted::PreconditionFailed, match_hits, "{tags} {etag}");
            }
        }
        let in_two_headers = [(IF_NONE_MATCH, r#""b""#), (IF_NONE_MATCH, r#""a""#)];
        assert_eq!(get(&in_two_headers), Wanted::NotModified);
    }

    #[test]
    fn dates_are_compared_to_the_second() {
        for (name, date, expected) in [
            (IF_MODIFIED_SINCE, BEFORE, Wanted::Whole),
            (IF_MODIFIED_SINCE, THEN, Wanted::NotModified),
            (IF_MODIFIED_SINCE, AFTER, Wanted::NotModified),
            (IF_MODIFIED_SINCE, "yesterday", Wanted::Whole),
            (IF_UNMODIFIED_SINCE, BEFORE, Wanted::PreconditionFailed),
            (IF_UNMODIFIED_SINCE, THEN, Wanted::Whole),
            (IF_UNMODIFIED_SINCE, AFTER, Wanted::Whole),
            (IF_UNMODIFIED_SINCE, "yesterday", Wanted::Whole),
        ] {
            assert_eq!(get(&[(name.clone(), date)]), expected, "{name} {date}");
        }
    }

    // 13.2.2
    #[test]
    fn preconditions_come_in_their_order() {
        let (hit, miss) = (r#""a""#, r#""b""#);
        for (headers, expected) in [
            (vec![(IF_MATCH, hit), (IF_UNMODIFIED_SINCE, BEFORE)], Wanted::Whole),
            (vec![(IF_MATCH, miss), (IF_NONE_MATCH, hit)], Wanted::PreconditionFailed),
            (vec![(IF_UNMODIFIED_SINCE, BEFORE), (IF_NONE_MATCH, hit)], Wanted::PreconditionFailed),
            (vec![(IF_MATCH, hit), (IF_NONE_MATCH, hit)], Wanted::NotModified),
            (vec![(IF_NONE_MATCH, miss), (IF_MODIFIED_SINCE, AFTER)], Wanted::Whole),
            (vec![(IF_NONE_MATCH, hit), (IF_MODIFIED_SINCE, BEFORE)], Wanted::NotModified),
            (vec![(IF_NONE_MATCH, hit), (RANGE, "bytes=100-")], Wanted::NotModified),
            (vec![(IF_MATCH, miss), (RANGE, "bytes=0-0")], Wanted::PreconditionFailed),
            (vec![(IF_MATCH, hit), (IF_NONE_MATCH, miss), (RANGE, "bytes=0-0")], Wanted::Part(0..=0)),
        ] {
            assert_eq!(get(&headers), expected, "{headers:?}");
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_file_and_is_what_was_asked_for(
            length in 1u64..1_000,
            first in 0u64..1_200,
            more in 0u64..1_200,
        ) {
            let ask = |range: String| ask(&Method::GET, r#""a""#, Some(length), &[(RANGE, &range)]);
            let from_first = |last: u64| if first < length { Wanted::Part(first..=last) } else { Wanted::Unsatisfiable };
            prop_assert_eq!(ask(format!("bytes={first}-{}", first + more)), from_first((first + more).min(length - 1)));
            prop_assert_eq!(ask(format!("bytes={first}-")), from_first(length - 1));
            let suffix = if more > 0 { Wanted::Part(length.saturating_sub(more)..=length - 1) } else { Wanted::Unsatisfiable };
            prop_assert_eq!(ask(format!("bytes=-{more}")), suffix);
        }

        #[test]
        fn nothing_that_stands_in_a_header_does_harm(value in "[ -~]{0,40}", name in 0usize..6) {
            let names = [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE, RANGE];
            let found = get(&[(RANGE, "bytes=5-"), (names[name].clone(), &value)]);
            if let Wanted::Part(range) = found {
                prop_assert!(range.start() <= range.end() && *range.end() < 100);
            }
        }
    }
}
