//! Whose data is in a file: the ids of all Patients that the versions in it are about. Exact: no hashes, and nobody is
//! named who is not in it.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;

/// A file ends when it holds data of so many: else one as large as a client may ask for would take all memory. The set of these
/// takes some 45 MB; one resource about more makes it larger.
pub(crate) const MANY: usize = 500_000;

/// The ids met so far in a file under way. What it takes grows with their number: some 90 bytes for a UUID.
#[derive(Debug, Default)]
pub(crate) struct Patients {
    ids: HashSet<Box<str>>,
    /// The list that came last: the next resource is mostly about the same.
    last: String,
}

impl Patients {
    /// Adds some, with a blank between each two; no id has one.
    pub(crate) fn add(&mut self, ids: &str) {
        if ids == self.last {
            return;
        }
        for id in ids.split(' ').filter(|id| !id.is_empty()) {
            if !self.ids.contains(id) {
                self.ids.insert(id.into());
            }
        }
        self.last.clear();
        self.last.push_str(ids);
    }

    /// Whether it is time for another file.
    pub(crate) fn are_many(&self) -> bool {
        self.ids.len() >= MANY
    }

    /// How they are stored: sorted, a line each, deflated.
    pub(crate) fn encode(self) -> std::io::Result<PatientSet> {
        let mut ids: Vec<Box<str>> = self.ids.into_iter().collect();
        ids.sort_unstable();
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        for id in &ids {
            encoder.write_all(id.as_bytes())?;
            encoder.write_all(b"\n")?;
        }
        Ok(PatientSet { count: i32::try_from(ids.len()).unwrap_or(i32::MAX), encoded: encoder.finish()? })
    }
}

/// All of them, as they are stored.
#[derive(Debug)]
pub(crate) struct PatientSet {
    pub(crate) count: i32,
    pub(crate) encoded: Vec<u8>,
}

/// Whether this id is among them. They are read one after the other, never all in memory.
pub(super) fn contains(encoded: &[u8], id: &str) -> std::io::Result<bool> {
    let mut lines = BufReader::new(DeflateDecoder::new(encoded));
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        match line.trim_end_matches('\n') {
            found if found == id => return Ok(true),
            // They are sorted.
            found if found > id => return Ok(false),
            _ => line.clear(),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn decode(encoded: &[u8]) -> Vec<String> {
        let mut text = String::new();
        DeflateDecoder::new(encoded).read_to_string(&mut text).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    proptest! {
        #[test]
        fn a_set_holds_who_was_added_and_nobody_else(
            lists in proptest::collection::vec(proptest::collection::vec("[A-Za-z0-9.-]{1,3}", 0..4), 0..60),
            others in proptest::collection::vec("[A-Za-z0-9.-]{1,3}", 0..20),
        ) {
            let mut patients = Patients::default();
            lists.iter().for_each(|list| patients.add(&list.join(" ")));
            let set = patients.encode().unwrap();
            let added: BTreeSet<_> = lists.into_iter().flatten().collect();
            prop_assert_eq!(decode(&set.encoded), added.iter().cloned().collect::<Vec<_>>());
            prop_assert_eq!(set.count as usize, added.len());
            for id in added.iter().chain(&others) {
                prop_assert_eq!(contains(&set.encoded, id).unwrap(), added.contains(id));
            }
        }
    }

    #[test]
    fn of_a_set_that_is_broken_nothing_is_said() {
        let mut patients = Patients::default();
        (0..1_000).for_each(|n| patients.add(&format!("p{n}")));
        let set = patients.encode().unwrap();
        assert!(contains(&set.encoded[..set.encoded.len() / 2], "zzz").is_err());
    }
}
