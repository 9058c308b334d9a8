//! A request as it is written down: who may start exports must not be able to fill the ledger, which never shrinks. What
//! is cut is said.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// So many characters of a text are written down.
const TEXT: usize = 1_000;
/// So many bytes of a list: a hundred UUIDs, or the names of all types.
const LIST: usize = 4_000;
/// So many bytes of all lists together.
const LISTS: usize = 16_000;

/// What is noted of a request: `request` is as it was understood, but for what is long. A text that was cut ends with how long
/// it was, and its SHA-256; `cut` says of a list how many there were, of which the first are there.
pub(crate) fn brief(mut request: Value) -> Value {
    let mut brief = Brief { left: LISTS, cut: Map::new() };
    brief.shorten("", &mut request);
    let mut detail = json!({ "request": request });
    if !brief.cut.is_empty() {
        detail["cut"] = Value::Object(brief.cut);
    }
    detail
}

struct Brief {
    /// Bytes that lists may still take.
    left: usize,
    cut: Map<String, Value>,
}

impl Brief {
    fn shorten(&mut self, path: &str, value: &mut Value) {
        match value {
            Value::String(text) => shorten_text(text),
            Value::Array(items) => self.shorten_list(path, items),
            Value::Object(members) => {
                for (name, member) in members {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    self.shorten(&path, member);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn shorten_list(&mut self, path: &str, items: &mut Vec<Value>) {
        let count = items.len();
        let mut room = LIST.min(self.left);
        let mut kept = 0;
        for item in items.iter_mut() {
            self.shorten(path, item);
            // With a comma.
            let Some(rest) = room.checked_sub(item.to_string().len() + 1) else { break };
            // A list within a list takes its place twice.
            self.left = self.left.saturating_sub(room - rest);
            room = rest;
            kept += 1;
        }
        if kept < count {
            items.truncate(kept);
            self.cut.insert(path.to_owned(), json!(count));
        }
    }
}

fn shorten_text(text: &mut String) {
    let Some((end, _)) = text.char_indices().nth(TEXT) else { return };
    let sha256: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let characters = text.chars().count();
    text.truncate(end);
    text.push_str(&format!("… ({characters} characters, SHA-256 {sha256})"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_stays_as_it_is() {
        let request = json!({ "url": "u", "types": ["Patient"], "since": null, "filters": { "queries": ["a", "b"] } });
        assert_eq!(brief(request.clone()), json!({ "request": request }));
    }

    #[test]
    fn what_is_long_is_cut_and_said_to_be() {
        let ids: Vec<String> = (0..5_000).map(|n| format!("00000000-0000-4000-8000-{n:012}")).collect();
        let long = "ä".repeat(2_000);
        let noted = brief(json!({ "patients": ids, "filters": { "queries": [long, "short"] } }));
        let kept = noted["request"]["patients"].as_array().unwrap();
        assert!((100..110).contains(&kept.len()) && kept[0] == ids[0] && kept[99] == ids[99]);
        assert_eq!(noted["cut"], json!({ "patients": 5_000 }));
        let [cut, short] = &noted["request"]["filters"]["queries"].as_array().unwrap()[..] else { panic!() };
        assert_eq!(short, "short");
        let cut = cut.as_str().unwrap();
        assert!(cut.starts_with(&"ä".repeat(1_000)) && !cut.starts_with(&"ä".repeat(1_001)));
        assert!(cut.contains("2000 characters, SHA-256 ") && cut.len() < 2_200);
    }

    #[test]
    fn whatever_is_asked_for_it_is_some_kibibytes() {
        let list = |n: usize| vec!["x".repeat(n); 400_000 / n];
        let lists: Map<String, Value> = (0..30).map(|n| (format!("l{n}"), json!(list(1 + n * 100)))).collect();
        let noted = brief(json!({ "lists": lists, "deep": [[list(10)], [list(5)]] }));
        assert!(noted.to_string().len() < 20_000, "{}", noted.to_string().len());
        assert_eq!(noted["cut"]["lists.l29"], json!(400_000 / 2_901));
    }
}
