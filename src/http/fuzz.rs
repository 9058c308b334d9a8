//! The fuzz targets of what stands in headers.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use httpdate::HttpDate;

use super::conditional::{Current, Wanted, wanted};
use super::idempotency::idempotency_key;
use super::negotiate::{Prefer, accepts_json, is_json, representation};

/// Headers in lines: the first byte of each says which one it is. Conditional ones are judged for a file of 1,000 bytes.
pub fn headers(data: &[u8]) {
    const NAMES: [&str; 12] = [
        "accept",
        "prefer",
        "accept-encoding",
        "range",
        "if-range",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "if-unmodified-since",
        "idempotency-key",
        "content-type",
        "_format",
    ];
    let mut headers = HeaderMap::new();
    let mut format = None;
    for (first, value) in data.split(|byte| *byte == b'\n').filter_map(<[u8]>::split_first) {
        let name = NAMES[usize::from(*first) % NAMES.len()];
        match HeaderValue::from_bytes(value) {
            Ok(value) if name != "_format" => {
                headers.append(HeaderName::from_static(name), value);
            }
            _ => format = std::str::from_utf8(value).ok(),
        }
    }
    let prefer = Prefer::read(&headers);
    assert!(prefer == Prefer::default() || headers.contains_key("prefer"));
    assert!(!accepts_json(&headers) || headers.contains_key("accept"));
    let found = representation(&headers, format);
    assert!(found.is_some() || format.is_some() || headers.contains_key("accept"));
    if let Some(value) = headers.get("content-type").and_then(|value| value.to_str().ok()) {
        let _ = is_json(value);
    }
    if let Ok(Some(key)) = idempotency_key(&headers) {
        assert!((1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    judge(&headers, 1_000);
}

/// The length of the file in two bytes, and a Range.
pub fn range(data: &[u8]) {
    let Some((length, value)) = data.split_first_chunk() else { return };
    let Ok(value) = HeaderValue::from_bytes(value) else { return };
    let headers = HeaderMap::from_iter([(axum::http::header::RANGE, value)]);
    judge(&headers, u64::from(u16::from_le_bytes(*length)));
}

fn judge(headers: &HeaderMap, length: u64) {
    let last_modified = HttpDate::from(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000));
    for etag in [r#""a""#, r#"W/"a""#] {
        for ranges_of in [None, Some(length)] {
            let current = Current { etag, last_modified, ranges_of };
            if let Wanted::Part(range) = wanted(&Method::GET, headers, &current) {
                assert!(ranges_of.is_some() && range.start() <= range.end() && *range.end() < length, "{range:?}");
            }
            let head = wanted(&Method::HEAD, headers, &current);
            assert!(!matches!(head, Wanted::Part(_) | Wanted::Unsatisfiable), "{head:?}");
        }
    }
}
