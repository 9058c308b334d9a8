//! What of a file was received, by what was written of its downloads. What was handed to a connection counts as received;
//! of a download whose end was not written, all that was asked for may have been.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;

use time::{Duration, OffsetDateTime};

use super::event::{Event, Kind};

/// A download whose end was not written has not gone on for longer than this.
const LONGEST: Duration = Duration::DAY;

/// In bytes of that representation of which there is most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) certainly: u64,
    pub(crate) possibly: u64,
    /// The whole; 0 if it was never asked for.
    pub(crate) of: u64,
}

/// The downloads of an export, entry by entry. What it takes grows with the files, not with the downloads.
pub(crate) struct Downloads {
    /// What was received before this does not count.
    since: Option<OffsetDateTime>,
    /// Those of which no end has come yet, by number.
    under_way: HashMap<i64, Begun>,
    /// By file and representation.
    pieces: HashMap<String, BTreeMap<String, Pieces>>,
}

/// A download that has begun.
struct Begun {
    at: OffsetDateTime,
    file: String,
    representation: String,
    asked_for: Range<u64>,
    of: u64,
}

/// Of one representation.
#[derive(Default)]
struct Pieces {
    certain: Ranges,
    possible: Ranges,
    of: u64,
}

/// None touches another.
#[derive(Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Downloads {
    pub(crate) fn since(since: Option<OffsetDateTime>) -> Self {
        Self { since, under_way: HashMap::new(), pieces: HashMap::new() }
    }

    /// The next entry about the export.
    pub(crate) fn add(&mut self, event: &Event) {
        match event.kind {
            Kind::Download => self.begin(event),
            Kind::Sent => self.end(event),
            _ => {}
        }
    }

    fn begin(&mut self, event: &Event) {
        let (Some(file), Some(from), Some(of)) = (&event.file, event.amount("from"), event.amount("of")) else {
            return;
        };
        let representation = event.detail.get("representation").and_then(|name| name.as_str()).unwrap_or_default();
        let asked_for = from..from.saturating_add(event.amount("bytes").unwrap_or(0));
        let (file, representation) = (file.clone(), representation.to_owned());
        self.under_way.insert(event.number, Begun { at: event.at, file, representation, asked_for, of });
    }

    fn end(&mut self, event: &Event) {
        let Some(begun) = event.download.and_then(|number| self.under_way.remove(&number)) else { return };
        if self.since.is_none_or(|since| event.at >= since) {
            let from = begun.asked_for.start;
            let sent = from..from.saturating_add(event.amount("bytes").unwrap_or(0));
            self.pieces(&begun).certain.add(sent);
        }
    }

    fn pieces(&mut self, begun: &Begun) -> &mut Pieces {
        let of_file = self.pieces.entry(begun.file.clone()).or_default();
        let pieces = of_file.entry(begun.representation.clone()).or_default();
        pieces.of = begun.of;
        pieces
    }

    /// Of each file, when all entries have come.
    pub(crate) fn received(mut self) -> HashMap<String, Received> {
        for begun in std::mem::take(&mut self.under_way).into_values() {
            if self.since.is_none_or(|since| since - begun.at <= LONGEST) {
                self.pieces(&begun).possible.add(begun.asked_for.clone());
            }
        }
        let most = |of_file: BTreeMap<String, Pieces>| {
            let all = of_file.into_values().map(Pieces::received);
            all.max_by(|one, other| one.share().total_cmp(&other.share())).unwrap_or_default()
        };
        self.pieces.into_iter().map(|(file, of_file)| (file, most(of_file))).collect()
    }
}

impl Received {
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
        let certainly = self.certain.length();
        self.certain.0.into_iter().for_each(|(start, end)| self.possible.add(start..end));
        Received { certainly, possibly: self.possible.length(), of: self.of }
    }
}

impl Ranges {
    /// One more, in one with those that it touches.
    fn add(&mut self, mut range: Range<u64>) {
        while let Some((&start, &end)) = self.0.range(..=range.end).next_back()
            && end >= range.start
        {
            self.0.remove(&start);
            range = range.start.min(start)..range.end.max(end);
        }
        if !range.is_empty() {
            self.0.insert(range.start, range.end);
        }
    }

    fn length(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }
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
    fn received(downloads: &[(&str, u64, u64, Option<u64>)], since: Option<OffsetDateTime>) -> Received {
        let mut all = Downloads::since(since);
        for (number, (representation, from, bytes, sent)) in (0..).step_by(2).zip(downloads) {
            let detail = json!({ "representation": representation, "from": from, "bytes": bytes, "of": 100 });
            all.add(&event(number, Kind::Download, None, detail));
            if let Some(sent) = sent {
                all.add(&event(number + 1, Kind::Sent, Some(number), json!({ "bytes": sent })));
            }
        }
        all.received().remove("f").unwrap_or_default()
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
            // In whatever order, and with holes that are filled last.
            (&[("gzip", 60, 40, Some(40)), ("gzip", 0, 40, Some(40)), ("gzip", 30, 30, Some(30))], "whole", 100),
            (&[("gzip", 10, 10, Some(10)), ("gzip", 30, 10, Some(10)), ("gzip", 12, 2, Some(2))], "part", 20),
        ] {
            let received = received(downloads, None);
            assert_eq!((received.as_str(), received.certainly), (word, certainly), "{downloads:?}");
        }
    }
    #[test]
    fn a_download_without_an_end_has_not_gone_on_for_ever() {
        let cut = &[("gzip", 0, 100, None)][..];
        let after = |hours| received(cut, Some(datetime!(2026-01-01 00:00 UTC) + Duration::hours(hours))).as_str();
        assert_eq!((after(23), after(25)), ("possibly", "not"));
        let whole = &[("gzip", 0, 100, Some(100))][..];
        assert_eq!(received(whole, Some(datetime!(2026-01-01 01:00 UTC))).as_str(), "not");
    }
}
