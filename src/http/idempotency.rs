//! `Idempotency-Key`: the client's name for a request, so that it may send it again when it has heard nothing
//! (draft-ietf-httpapi-idempotency-key-header).

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::error::ApiError;

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LONGEST: usize = 255;

/// The key, if there is one. It is a string in quotes (RFC 9651); many clients leave the quotes out.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match key(value) {
            Some(key) => Ok(Some(key)),
            None => Err(ApiError::invalid(format!(
                "Idempotency-Key must be 1 to {LONGEST} visible ASCII characters, in double quotes, such as \
                 \"8e03978e-40d5-43dd-bc93-6894a57f9324\"."
            ))),
        },
        (Some(_), Some(_)) => Err(ApiError::invalid("There is more than one Idempotency-Key header; send one.")),
    }
}

fn key(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?.trim();
    let key = match text.strip_prefix('"') {
        Some(rest) => unquoted(rest.strip_suffix('"')?)?,
        // A comma or semicolon would be the end of a token.
        None if text.contains(['"', '\\', ',', ';']) => return None,
        None => text.to_owned(),
    };
    let is_good = (1..=LONGEST).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    is_good.then_some(key)
}

/// What stands between the quotes: only a quote and a backslash are escaped, and they must be.
fn unquoted(text: &str) -> Option<String> {
    let mut found = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => found.push(characters.next().filter(|escaped| matches!(escaped, '"' | '\\'))?),
            '"' => return None,
            other => found.push(other),
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<Option<String>, ()> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        idempotency_key(&headers).map_err(|_| ())
    }

    #[test]
    fn a_key_is_a_string_or_a_bare_token() {
        assert_eq!(read(&[]), Ok(None));
        let longest = "k".repeat(LONGEST);
        for (value, key) in [
            (r#""abc""#, "abc"),
            ("abc", "abc"),
            (" abc ", "abc"),
            ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            ("YWJj/+==", "YWJj/+=="),
            (r#""a\"b\\c;,""#, r#"a"b\c;,"#),
            (longest.as_str(), longest.as_str()),
        ] {
            assert_eq!(read(&[value]), Ok(Some(key.to_owned())), "{value}");
        }
    }

    #[test]
    fn nothing_else_is_one() {
        let too_long = "k".repeat(LONGEST + 1);
        for value in [
            "",
            "\"\"",
            "\"",
            "\"abc",
            "abc\"",
            "\"a\"b\"",
            r#""a\b""#,
            r#""a\""#,
            "\"a b\"",
            "a b",
            "a,b",
            "\"a\",\"b\"",
            "\"a\";b=1",
            "a;b=1",
            "æ",
            "\"æ\"",
            &too_long,
        ] {
            assert_eq!(read(&[value]), Err(()), "{value}");
        }
        assert_eq!(read(&["a", "a"]), Err(()));
    }
}
