//! Reading JSON text that is known to be valid: its tokens as they are written, never as values.
//!
//! Nothing here recurses, so no depth of nesting can overflow the stack. Every cut is made next to an ASCII character,
//! hence at a character boundary.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// What the walk over a resource needs to know of a token; numbers, literals and commas are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// An object or an array begins.
    Open,
    /// An object or an array ends.
    Close,
    /// The name of a member, without quotes, escapes as written.
    Name(&'a str),
    /// A string as a value, without quotes, escapes as written.
    Text(&'a str),
}

/// The tokens of a minified JSON text, or of the members of an object without its braces.
pub(crate) struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The string whose opening quote was just read. Without white space, a colon right after it makes it a name.
    fn string(&mut self) -> Token<'a> {
        let end = string_end(self.text.as_bytes(), self.at);
        let raw = &self.text[self.at..end];
        self.at = end + 1;
        match self.text.as_bytes().get(self.at) {
            Some(b':') => Token::Name(raw),
            _ => Token::Text(raw),
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let byte = *self.text.as_bytes().get(self.at)?;
            self.at += 1;
            match byte {
                b'"' => return Some(self.string()),
                b'{' | b'[' => return Some(Token::Open),
                b'}' | b']' => return Some(Token::Close),
                _ => {}
            }
        }
    }
}

/// The text without white space between tokens; nothing if it is nested deeper than this.
pub(crate) fn minify(text: &str, max_depth: usize) -> Option<Cow<'_, str>> {
    let bytes = text.as_bytes();
    let mut minified = String::new();
    let (mut copied, mut at, mut depth) = (0, 0, 0_usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at + 1),
            b'{' | b'[' if depth == max_depth => return None,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b' ' | b'\t' | b'\n' | b'\r' => {
                if minified.capacity() == 0 {
                    minified.reserve_exact(text.len());
                }
                minified.push_str(&text[copied..at]);
                copied = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return Some(Cow::Borrowed(text));
    }
    minified.push_str(&text[copied..]);
    Some(Cow::Owned(minified))
}

/// Where the value that starts here ends, in minified text: at the comma or the bracket after it.
pub(crate) fn value_end(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (start, 0_usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at + 1),
            b'{' | b'[' => depth += 1,
            b'}' | b']' | b',' if depth == 0 => return at,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    at
}

/// The values of an array in minified text, without its brackets.
pub(crate) fn values(items: &str) -> impl Iterator<Item = &str> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let value = (start < items.len()).then(|| &items[start..value_end(items, start)])?;
        start += value.len() + 1; // The comma after it.
        Some(value)
    })
}

/// Where the closing quote is, of the string whose characters start here.
pub(crate) fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes[at] == b'"' {
            return at;
        }
        at += 2; // The escaped character may be a quote.
    }
    bytes.len()
}

/// What a string means; nothing if its escapes make no text (half a surrogate pair).
pub(crate) fn decode(raw: &str) -> Option<Cow<'_, str>> {
    if memchr(b'\\', raw.as_bytes()).is_none() {
        return Some(Cow::Borrowed(raw));
    }
    let quoted = format!("\"{raw}\"");
    serde_json::from_str(&quoted).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_white_space_between_tokens_goes() {
        let minify = |text| minify(text, 9).unwrap();
        assert_eq!(minify(" { \"a b\" :\t[ 1 ,\r\n\" \\\" \\\\\" ] } "), r#"{"a b":[1," \" \\"]}"#);
        assert!(matches!(minify(r#"{"a":" "}"#), Cow::Borrowed(_)));
        assert_eq!(minify("{\"é\": \"\u{a0}\u{2028}\"}"), "{\"é\":\"\u{a0}\u{2028}\"}");
    }

    #[test]
    fn brackets_in_strings_are_no_nesting() {
        assert!(minify(r#"[["[[["],"{{"]"#, 2).is_some());
        assert!(minify(r#"[[[]]]"#, 2).is_none());
    }

    #[test]
    fn tokens_tell_names_from_texts() {
        let tokens: Vec<_> = Tokens::of(r#""a":{"b\"":["c:",1]},"d":null"#).collect();
        use Token::{Close, Name, Open, Text};
        let expected = [Name("a"), Open, Name("b\\\""), Open, Text("c:"), Close, Close, Name("d")];
        assert_eq!(tokens, expected);
    }

    #[test]
    fn the_values_of_an_array_are_cut_at_its_commas() {
        let cut = |items| values(items).collect::<Vec<_>>();
        assert_eq!(cut(r#"{"a":[1,2]},"x,]",1.00,[]"#), [r#"{"a":[1,2]}"#, r#""x,]""#, "1.00", "[]"]);
        assert!(cut("").is_empty());
    }

    #[test]
    fn a_string_is_decoded_if_it_makes_text() {
        assert_eq!(decode("a"), Some(Cow::Borrowed("a")));
        assert_eq!(decode(r"\u0050\/\ud83d\ude00").as_deref(), Some("P/😀"));
        assert_eq!(decode(r"\ud83d"), None);
    }
}
