//! What of a file was received, by what was written of its downloads. What was handed to a connection counts as received;
//! of a download whose end was not written, all that was asked for may have been.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;

use time::OffsetDateTime;

use super::event::{Event, Kind};

/// In bytes of that representation of which there is most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) certainly: u64,
    pub(crate) possibly: u64,
    /// The whole; 0 if it was never asked for.
    pub(crate) of: u64,
}

/// Of one representation.
#[derive(Default)]
struct Pieces {
    certain: Vec<Range<u64>>,
    possible: Vec<Range<u64>>,
    of: u64,
}

impl Received {
    /// Of each file, by the events of its export, since an instant.
    pub(crate) fn by_file(events: &[Event], since: Option<OffsetDateTime>) -> HashMap<&str, Self> {
        let sent: HashMap<i64, &Event> = events
            .iter()
            .filter(|event| event.kind == Kind::Sent)
            .filter_map(|event| Some((event.download?, event)))
            .collect();
        let mut pieces: HashMap<&str, BTreeMap<&str, Pieces>> = HashMap::new();
        for download in events.iter().filter(|event| event.kind == Kind::Download) {
            let end = sent.get(&download.number);
            if end.is_some_and(|end| since.is_some_and(|since| end.at < since)) {
                continue;
            }
            let (Some(file), Some(from), Some(of)) = (&download.file, download.amount("from"), download.amount("of"))
            else {
                continue;
            };
            let representation = download.detail.get("representation").and_then(|name| name.as_str());
            let of_file = pieces.entry(file).or_default().entry(representation.unwrap_or_default()).or_default();
            of_file.of = of;
            let until = |bytes: Option<u64>| from..from.saturating_add(bytes.unwrap_or(0));
            match end {
                Some(end) => of_file.certain.push(until(end.amount("bytes"))),
                None => of_file.possible.push(until(download.amount("bytes"))),
            }
        }
        let most = |of_file: BTreeMap<&str, Pieces>| {
            let all = of_file.into_values().map(Pieces::received);
            all.max_by(|one, other| one.share().total_cmp(&other.share())).unwrap_or_default()
        };
        pieces.into_iter().map(|(file, of_file)| (file, most(of_file))).collect()
    }

    /// In a word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self { certainly, of, .. } if certainly == of && of > 0 => "whole",
            Self { certainly, possibly, .. } if possibly > certainly => "possibly",
            Self { certainly: 1.., .. } => "part",
            _ => "not",
        }
    }

    /// What is certain counts before what is possible.
    #[expect(clippy::cast_precision_loss, reason = "they are compared, no more")]
    fn share(self) -> f64 {
        let share = |bytes: u64| bytes as f64 / self.of.max(1) as f64;
        share(self.certainly) * 2.0 + share(self.possibly)
    }
}

impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { certainly, possibly, of } = self;
        match self.as_str() {
            "whole" => write!(f, "downloaded whole"),
            "possibly" => write!(f, "possibly downloaded: {possibly} of {of} bytes, {certainly} for certain"),
            "part" => write!(f, "{certainly} of {of} bytes downloaded"),
            _ => write!(f, "not downloaded"),
        }
    }
}

impl Pieces {
    fn received(mut self) -> Received {
        let certainly = length(&mut self.certain);
        self.possible.append(&mut self.certain);
        Received { certainly, possibly: length(&mut self.possible), of: self.of }
    }
}

/// How many bytes lie in any of these.
fn length(ranges: &mut [Range<u64>]) -> u64 {
    ranges.sort_by_key(|range| range.start);
    let mut end = 0;
    ranges
        .iter()
        .map(|range| {
            let new = range.end.saturating_sub(range.start.max(end));
            end = end.max(range.end);
            new
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    fn event(number: i64, kind: Kind, download: Option<i64>, detail: serde_json::Value) -> Event {
        Event {
            number,
            at: datetime!(2026-01-01 00:00 UTC) + time::Duration::seconds(number),
            kind,
            issuer: None,
            subject: None,
            client: None,
            address: None,
            job: None,
            file: Some("f".to_owned()),
            download,
            outcome: Some(200),
            detail,
        }
    }

    /// Downloads of a hundred bytes, each: representation, from, asked, sent.
    fn received(downloads: &[(&str, u64, u64, Option<u64>)]) -> Received {
        let mut events = Vec::new();
        for (number, (representation, from, bytes, sent)) in (0..).step_by(2).zip(downloads) {
            let detail = json!({ "representation": representation, "from": from, "bytes": bytes, "of": 100 });
            events.push(event(number, Kind::Download, None, detail));
            let end = sent.map(|sent| event(number + 1, Kind::Sent, Some(number), json!({ "bytes": sent })));
            events.extend(end);
        }
        Received::by_file(&events, None).remove("f").unwrap_or_default()
    }

    #[test]
    fn what_was_received_is_what_all_downloads_come_to() {
        for (downloads, word, certainly) in [
            (&[][..], "not", 0),
            (&[("gzip", 0, 100, Some(0))], "not", 0),
            (&[("gzip", 0, 100, Some(100))], "whole", 100),
            (&[("gzip", 0, 100, Some(40))], "part", 40),
            (&[("gzip", 0, 100, None)], "possibly", 0),
            // Resumed, with what came twice.
            (&[("gzip", 0, 100, Some(60)), ("gzip", 50, 50, Some(50))], "whole", 100),
            (&[("gzip", 0, 100, Some(40)), ("gzip", 50, 50, Some(50))], "part", 90),
            (&[("gzip", 0, 100, Some(40)), ("gzip", 40, 60, None)], "possibly", 40),
            // What is possible makes nothing less certain.
            (&[("gzip", 0, 100, Some(100)), ("gzip", 0, 100, None)], "whole", 100),
            // Halves of two representations make no whole.
            (&[("gzip", 0, 50, Some(50)), ("identity", 50, 50, Some(50))], "part", 50),
            (&[("gzip", 0, 50, Some(50)), ("identity", 0, 100, Some(100))], "whole", 100),
        ] {
            let received = received(downloads);
            assert_eq!((received.as_str(), received.certainly), (word, certainly), "{downloads:?}");
        }
    }
}
