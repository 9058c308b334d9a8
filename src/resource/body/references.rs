//! The literal references in bodies that pass by in pieces, wherever they are cut: no body is there as a whole, and
//! none is made a tree of.

use memchr::{memchr, memchr2};

use crate::json::scan::decode;

/// A longer string is no reference to a resource of a FHIR server, nor the name of a member that is one.
const LONGEST: usize = 2_048;
const REFERENCE: &str = "reference";

/// Reads minified JSON texts, one after the other.
#[derive(Debug, Default)]
pub(crate) struct References {
    place: Place,
    /// The string that the last piece ended in, as far as it has come; no more of it than shows that it is too long.
    begun: Vec<u8>,
}

/// Where in the text the next byte is.
#[derive(Debug, Default, Clone, Copy)]
enum Place {
    #[default]
    BetweenStrings,
    InString {
        /// It is the value of a member `reference`.
        is_reference: bool,
        /// The byte before began an escape.
        is_escaped: bool,
    },
    /// After the string `reference`, which is a name if a colon follows.
    AfterName,
    BeforeReference,
}

impl References {
    /// Reads the next piece; gives every value of a member `reference` that ends in it.
    pub(crate) fn read(&mut self, mut piece: &[u8], mut found: impl FnMut(&str)) {
        while let Some((first, rest)) = piece.split_first() {
            match self.place {
                Place::BetweenStrings => {
                    let Some(quote) = memchr(b'"', piece) else { return };
                    self.place = Place::InString { is_reference: false, is_escaped: false };
                    piece = piece.get(quote + 1..).unwrap_or_default();
                }
                Place::InString { is_reference, is_escaped } => {
                    let end = string_end(piece, usize::from(is_escaped));
                    let (string, after) = piece.split_at(end.min(piece.len()));
                    let Some((_, after)) = after.split_first() else {
                        self.keep(string);
                        self.place = Place::InString { is_reference, is_escaped: end > piece.len() };
                        return;
                    };
                    self.place = self.end_string(string, is_reference, &mut found);
                    piece = after;
                }
                Place::AfterName if *first == b':' => (self.place, piece) = (Place::BeforeReference, rest),
                Place::BeforeReference if *first == b'"' => {
                    (self.place, piece) = (Place::InString { is_reference: true, is_escaped: false }, rest);
                }
                Place::AfterName | Place::BeforeReference => self.place = Place::BetweenStrings,
            }
        }
    }

    fn end_string(&mut self, end: &[u8], is_reference: bool, found: &mut impl FnMut(&str)) -> Place {
        let is_cut = !self.begun.is_empty();
        if is_cut {
            self.keep(end);
        }
        let whole = if is_cut { self.begun.as_slice() } else { end };
        let text = if whole.len() > LONGEST { None } else { str::from_utf8(whole).ok().and_then(decode) };
        let is_name = !is_reference && text.as_deref() == Some(REFERENCE);
        if is_reference && let Some(text) = text {
            found(&text);
        }
        self.begun.clear();
        if is_name { Place::AfterName } else { Place::BetweenStrings }
    }

    fn keep(&mut self, part: &[u8]) {
        let room = (LONGEST + 1).saturating_sub(self.begun.len());
        self.begun.extend(part.iter().take(room));
    }
}

/// Where the closing quote is; at the end of the piece if it is in a later one, and past it if the last byte begins an
/// escape.
fn string_end(piece: &[u8], start: usize) -> usize {
    let mut at = start;
    while let Some(found) = piece.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if piece.get(at) == Some(&b'"') {
            return at;
        }
        at += 2; // The escaped character may be a quote.
    }
    at.max(piece.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(pieces: &[&[u8]]) -> Vec<String> {
        let mut references = References::default();
        let mut found = Vec::new();
        for piece in pieces {
            references.read(piece, |reference| found.push(reference.to_owned()));
        }
        found
    }

    const BODY: &str = concat!(
        r#"{"resourceType":"Basic","id":"reference","a":{"reference":"A/1"},"b":[{"reference":"B/2"},"reference"],"#,
        r#""c":"\"reference\":\"C/no\"","reference":["D/no"],"d":{"reference":{"reference":"E/3","x":"\\"}},"#,
        r##""e":{"ref\u0065rence":"F\/4"},"é":{"reference":"#x","f":{"reference":null,"g":"G/no"}},"##,
        r#""x\"reference":"H/no","g":["reference",{"reference":"I/5"}]}"#,
    );
    const THERE: [&str; 6] = ["A/1", "B/2", "E/3", "F/4", "#x", "I/5"];

    #[test]
    fn only_values_of_members_of_that_name_are_references() {
        assert_eq!(found(&[BODY.as_bytes()]), THERE);
        assert_eq!(found(&[BODY.as_bytes(), BODY.as_bytes()]), [THERE, THERE].concat());
    }

    #[test]
    fn what_is_too_long_is_passed_over() {
        let long = "x".repeat(LONGEST);
        let text = format!(r#"{{"a":"{long}y","reference":"{long}y","b{long}":1,"c":{{"reference":"{long}"}}}}"#);
        for size in [700, text.len()] {
            assert_eq!(found(&text.as_bytes().chunks(size).collect::<Vec<_>>()), [long.as_str()]);
        }
    }

    proptest! {
        #[test]
        fn wherever_it_is_cut_the_same_is_found(mut cuts in prop::collection::vec(0..=BODY.len(), 0..12)) {
            cuts.extend([0, BODY.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &BODY.as_bytes()[cut[0]..cut[1]]).collect();
            prop_assert_eq!(found(&pieces), THERE);
        }
    }

    #[test]
    fn cut_at_every_byte_the_same_is_found() {
        assert_eq!(found(&BODY.as_bytes().chunks(1).collect::<Vec<_>>()), THERE);
    }
}
