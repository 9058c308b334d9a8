//! The FHIR Period: whether an instant is in it. Its ends may be no more precise than a year; those without a zone are
//! taken in UTC.

use serde::Deserialize;
use time::OffsetDateTime;

use super::span::Span;

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
        let begins = |span: Span| span.first.is_none_or(|first| first <= at);
        let ends = |span: Span| span.next.is_none_or(|next| at < next);
        self.start.as_deref().is_none_or(|start| Span::parse(start).is_some_and(begins))
            && self.end.as_deref().is_none_or(|end| Span::parse(end).is_some_and(ends))
    }
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
