//! What a client would like: `Accept`, `Accept-Encoding`, `_format` and `Prefer`.

use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, ACCEPT_ENCODING, HeaderName};

use crate::binary::download::Representation;

pub(super) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
pub(super) const PREFER: HeaderName = HeaderName::from_static("prefer");
const FHIR_JSON: [&str; 2] = ["application/fhir+json", "application/json+fhir"];
const JSON: &str = "application/json";

/// One element of a list header: its lower-case name and its quality, 0 to 1000.
#[derive(Debug, PartialEq, Eq)]
struct Weighted {
    name: String,
    quality: u16,
}

/// All elements of a header that may be given several times (RFC 9110, 5.6.1 and 12.4.2).
fn weighted(headers: &HeaderMap, name: &HeaderName) -> Vec<Weighted> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(element)
        .collect()
}

fn element(text: &str) -> Option<Weighted> {
    let mut pieces = text.split(';').map(str::trim);
    let name = pieces.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
    let quality = pieces
        .filter_map(|piece| piece.split_once('='))
        .find(|(key, _)| key.trim().eq_ignore_ascii_case("q"))
        .map_or(Some(1000), |(_, value)| quality(value.trim()));
    Some(Weighted { name, quality: quality? })
}

/// `0.75` → 750.
fn quality(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{fraction:0<3}");
    let thousandths: u16 = digits.get(..3)?.parse().ok()?;
    Some((whole.parse::<u16>().ok()?.checked_mul(1000)?.checked_add(thousandths)?).min(1000))
}

/// The quality of the first of these names that is listed.
fn quality_of(list: &[Weighted], names: &[&str]) -> u16 {
    list.iter().filter(|item| names.contains(&item.name.as_str())).map(|item| item.quality).max().unwrap_or(0)
}

/// Whether an answer in FHIR JSON is welcome.
pub(super) fn accepts_json(headers: &HeaderMap) -> bool {
    let accept = weighted(headers, &ACCEPT);
    let names = [FHIR_JSON[0], FHIR_JSON[1], JSON, "application/*", "*/*", "application/fhir+ndjson"];
    quality_of(&accept, &names) > 0
}

/// Whether a Content-Type is JSON (rule B5; clients send both kinds).
pub(super) fn is_json(content_type: &str) -> bool {
    element(content_type).is_some_and(|item| item.name == JSON || FHIR_JSON.contains(&item.name.as_str()))
}

/// The representation of a file (rules F10-F13, L3, L4); none if it is one there is not.
pub(super) fn representation(headers: &HeaderMap, format: Option<&str>) -> Option<Representation> {
    let raw = if accepts_gzip(headers) { Representation::Gzip } else { Representation::Identity };
    if let Some(format) = format {
        return representation_of_format(format, raw);
    }
    let accept = weighted(headers, &ACCEPT);
    if accept.is_empty() {
        return Some(raw);
    }
    let fhir = quality_of(&accept, &FHIR_JSON);
    let is_raw = |item: &&Weighted| item.quality > 0 && !is_structured(&item.name);
    let raw_quality = accept.iter().filter(is_raw).map(|item| item.quality).max().unwrap_or(0);
    if fhir > 0 && fhir >= raw_quality {
        Some(Representation::FhirJson)
    } else if raw_quality > 0 {
        Some(raw)
    } else if quality_of(&accept, &[JSON]) > 0 {
        // NDJSON is not JSON, so only the resource fits.
        Some(Representation::FhirJson)
    } else {
        None
    }
}

/// JSON and XML are formats of the resource; every other name is content that a file may be taken for.
fn is_structured(name: &str) -> bool {
    name == JSON
        || name.ends_with("/xml")
        || name.contains("+xml")
        || name.contains("xml+")
        || FHIR_JSON.contains(&name)
}

/// `_format` wins over Accept (rule F11). A `+` may have arrived as a blank.
fn representation_of_format(format: &str, raw: Representation) -> Option<Representation> {
    let format = format.trim().replace(' ', "+").to_ascii_lowercase();
    match format.split(';').next().unwrap_or_default() {
        "json" | "application/json" | "text/json" | "application/fhir+json" | "application/json+fhir" => {
            Some(Representation::FhirJson)
        }
        "ndjson" | "application/ndjson" | "application/fhir+ndjson" => Some(raw),
        _ => None,
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let encodings = weighted(headers, &ACCEPT_ENCODING);
    match encodings.iter().find(|item| matches!(item.name.as_str(), "gzip" | "x-gzip")) {
        Some(gzip) => gzip.quality > 0,
        None => false,
    }
}

/// What `Prefer` says (RFC 7240; rules B8-B10, L24).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Prefer {
    pub(super) respond_async: bool,
    pub(super) lenient: bool,
    /// Whether polls are to tell of the export in a header of its own.
    pub(super) separate_export_status: bool,
    /// How long an answer may take if it is a better one then.
    pub(super) wait: Option<Duration>,
}

impl Prefer {
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let mut prefer = Self::default();
        let (mut handling, mut wait) = (None, None);
        let values = headers.get_all(PREFER);
        let preferences = values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|preference| preference.split(';').next());
        for preference in preferences {
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "respond-async" => prefer.respond_async = true,
                "separate-export-status" => prefer.separate_export_status = true,
                // The first one wins.
                "handling" => {
                    handling.get_or_insert_with(|| value.to_ascii_lowercase());
                }
                "wait" => {
                    wait.get_or_insert_with(|| delta_seconds(value));
                }
                _ => {}
            }
        }
        prefer.lenient = handling.as_deref() == Some("lenient");
        prefer.wait = wait.flatten();
        prefer
    }
}

/// A number of seconds; one too large to count is as good as the largest. Anything else is no preference.
fn delta_seconds(text: &str) -> Option<Duration> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| Duration::from_secs(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    // F10-F13, L3, L4, A16, A17
    #[test]
    fn accept_decides_between_file_and_resource() {
        use Representation::{FhirJson, Identity};
        for (accept, expected) in [
            ("application/fhir+json;q=1.0, application/json+fhir;q=0.9", Some(FhirJson)),
            ("application/fhir+json", Some(FhirJson)),
            ("Application/FHIR+JSON", Some(FhirJson)),
            ("application/json", Some(FhirJson)),
            ("application/fhir+json, */*", Some(FhirJson)),
            ("application/fhir+ndjson", Some(Identity)),
            ("application/ndjson", Some(Identity)),
            ("*/*", Some(Identity)),
            ("application/octet-stream", Some(Identity)),
            ("application/json, text/plain, */*", Some(Identity)),
            ("application/fhir+json;q=0.5, application/fhir+ndjson", Some(Identity)),
            ("application/fhir+json;q=0, */*", Some(Identity)),
            ("application/fhir+xml", None),
            ("application/fhir+ndjson;q=0", None),
        ] {
            assert_eq!(representation(&headers(&[("accept", accept)]), None), expected, "{accept}");
        }
        assert_eq!(representation(&HeaderMap::new(), None), Some(Identity));
    }

    // F3
    #[test]
    fn gzip_only_where_it_is_asked_for() {
        for (encoding, gzip) in [
            ("gzip", true),
            ("gzip, deflate, br", true),
            ("br;q=1.0, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip;q=0.0, identity", false),
            ("identity", false),
            ("*", false),
        ] {
            assert_eq!(accepts_gzip(&headers(&[("accept-encoding", encoding)])), gzip, "{encoding}");
        }
    }

    // F11, A18
    #[test]
    fn format_wins_over_accept() {
        let ndjson = headers(&[("accept", "application/fhir+ndjson")]);
        assert_eq!(representation(&ndjson, Some("json")), Some(Representation::FhirJson));
        assert_eq!(representation(&ndjson, Some("application/fhir json")), Some(Representation::FhirJson));
        assert_eq!(representation(&ndjson, Some("ndjson")), Some(Representation::Identity));
        assert_eq!(representation(&ndjson, Some("xml")), None);
    }

    // B9, L24
    #[test]
    fn preferences_come_in_many_spellings() {
        let read = |list: &[(&'static str, &str)]| Prefer::read(&headers(list));
        let both = Prefer { respond_async: true, lenient: true, ..Prefer::default() };
        assert_eq!(read(&[("prefer", "respond-async, handling=lenient")]), both);
        assert!(read(&[("prefer", "Respond-Async; wait=10"), ("prefer", "x")]).respond_async);
        assert!(!read(&[("prefer", "handling=strict, handling=lenient, respond-async")]).lenient);
        assert_eq!(read(&[("prefer", "return=minimal")]), Prefer::default());
        assert!(read(&[("prefer", "respond-async,Separate-Export-Status")]).separate_export_status);
        let mut several = HeaderMap::new();
        several.append(PREFER, "respond-async".parse().unwrap());
        several.append(PREFER, "handling = lenient".parse().unwrap());
        assert_eq!(Prefer::read(&several), both);
    }

    // RFC 7240, 2 and 4.3
    #[test]
    fn a_wait_is_a_number_of_seconds() {
        let wait = |prefer: &str| Prefer::read(&headers(&[("prefer", prefer)])).wait.map(|wait| wait.as_secs());
        for (prefer, seconds) in [
            ("wait=10", Some(10)),
            ("respond-async, Wait = \"7\"; x=1", Some(7)),
            ("wait=0", Some(0)),
            ("wait=1, wait=2", Some(1)),
            ("wait=99999999999999999999", Some(u64::MAX)),
            ("respond-async; wait=10", None),
            ("wait=ten, wait=2", None),
            ("wait", None),
            ("wait=", None),
            ("wait=-1", None),
            ("wait=+1", None),
            ("wait=1.5", None),
        ] {
            assert_eq!(wait(prefer), seconds, "{prefer}");
        }
    }
}
