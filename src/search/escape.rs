//! How the values of a parameter are written: `,` `|` and `$` part them, and stand for themselves after a `\`.

/// The parts between these separators, escapes as written.
pub(super) fn split(text: &str, separator: char) -> Vec<&str> {
    let mut is_escaped = false;
    let parts = text.split(|c| {
        let parts = c == separator && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        parts
    });
    parts.collect()
}

/// What a part says. A `\` before anything else is one.
pub(super) fn unescape(part: &str) -> String {
    let mut text = String::with_capacity(part.len());
    let mut rest = part.chars().peekable();
    while let Some(c) = rest.next() {
        match rest.peek() {
            Some(next) if c == '\\' && matches!(next, ',' | '|' | '$' | '\\') => text.extend(rest.next()),
            _ => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    // The search specification, "Escaping Search Parameters".
    #[test]
    fn separators_part_unless_they_are_escaped() {
        assert_eq!(split(r"a,b\,c,d", ','), ["a", r"b\,c", "d"]);
        assert_eq!(split(r"a\\,b", ','), [r"a\\", "b"]);
        assert_eq!(split(r"a\|b|c", '|'), [r"a\|b", "c"]);
        assert_eq!(split("", ','), [""]);
        assert_eq!(unescape(r"a\,b\|c\$d\\e"), r"a,b|c$d\e");
        assert_eq!(unescape(r"a\b\"), r"a\b\");
    }
}
