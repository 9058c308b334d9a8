//! Realistic resources, as many as wanted: the sample, copied with fresh ids.
//!
//! Every UUID of a copy goes through a permutation of the hexadecimal digits that belongs to the copy, so ids stay
//! distinct and references stay true. All else stays, sizes included. Of the larger types, nine tenths of the bytes, a
//! copy is further away than deflate can see; the others compress a little better than real data would.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::Path;

/// Writes about so many resources as NDJSON, a file for each type; gives how many.
pub fn write(sample: &Path, folder: &Path, resources: usize) -> io::Result<usize> {
    let types = read(sample)?;
    let in_sample: usize = types.iter().map(|(_, lines)| lines.len()).sum();
    let copies = resources.div_ceil(in_sample).max(1);
    fs::create_dir_all(folder)?;
    let mut written = 0;
    for (name, lines) in &types {
        // The last copy is cut, so that it is as many as wanted.
        let wanted = resources * lines.len() / in_sample;
        let mut file = BufWriter::with_capacity(1 << 20, File::create(folder.join(name))?);
        let of_all = (0..copies).flat_map(|copy| lines.iter().map(move |line| (copy, line)));
        for (copy, line) in of_all.take(wanted.max(1)) {
            line.write(&permutation(copy), &mut file)?;
            written += 1;
        }
        file.flush()?;
    }
    Ok(written)
}

/// So many resources of one small type, for the small exports.
pub fn write_small(folder: &Path, resource_type: &str, resources: usize) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut file = BufWriter::new(File::create(folder.join(format!("{resource_type}.ndjson")))?);
    for number in 0..resources {
        let text = "A small resource, of about the size of the others. ".repeat(16);
        writeln!(
            file,
            r#"{{"resourceType":"{resource_type}","id":"small-{number}","text":{{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\">{text}</div>"}}}}"#
        )?;
    }
    file.flush()
}

/// Resources of one patient in the data for the levels, the Patient among them.
pub const OF_A_PATIENT: usize = 31;

/// So many patients with 30 resources each, a Provenance of three of them among these; and Groups of so many of the
/// patients, taken from all over, by name. A patient's resources do not lie together: as in a store that has grown.
pub fn write_patients(folder: &Path, patients: usize, groups: &[(&str, usize)]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let id = |patient: usize| format!("{:08x}-{patient}", (patient as u32).wrapping_mul(2_654_435_761));
    let subject = |patient: usize| format!(r#""subject":{{"reference":"Patient/{}"}}"#, id(patient));
    let targets = |patient: usize| {
        let of = |round| format!(r#"{{"reference":"Observation/{}-{round}"}}"#, id(patient));
        format!(r#""recorded":"2026-01-01T00:00:00Z","target":[{},{},{}]"#, of(0), of(1), of(2))
    };
    let text = "A resource of about the size of others. ".repeat(12);
    for (resource_type, rounds) in [
        ("Patient", 1),
        ("Observation", 20),
        ("Encounter", 4),
        ("Condition", 3),
        ("MedicationRequest", 2),
        ("Provenance", 1),
    ] {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(folder.join(format!("{resource_type}.ndjson")))?);
        for round in 0..rounds {
            for patient in 0..patients {
                let (name, members) = match resource_type {
                    "Patient" => (id(patient), r#""gender":"female""#.to_owned()),
                    "Provenance" => (id(patient), targets(patient)),
                    _ => (format!("{}-{round}", id(patient)), subject(patient)),
                };
                writeln!(
                    file,
                    r#"{{"resourceType":"{resource_type}","id":"{name}",{members},"text":{{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\">{text}</div>"}}}}"#
                )?;
            }
        }
        file.flush()?;
    }
    let mut file = BufWriter::new(File::create(folder.join("Group.ndjson"))?);
    for (name, size) in groups {
        let member = |member: usize| {
            format!(r#"{{"entity":{{"reference":"Patient/{}"}}}}"#, id(member * (patients / size.max(&1))))
        };
        let members = (0..*size).map(member).collect::<Vec<_>>().join(",");
        writeln!(
            file,
            r#"{{"resourceType":"Group","id":"{name}","type":"person","actual":true,"member":[{members}]}}"#
        )?;
    }
    file.flush()
}

/// So many resources with an attachment of so many bytes each.
pub fn write_large(folder: &Path, resources: usize, bytes: usize) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut file = BufWriter::new(File::create(folder.join("DocumentReference.ndjson"))?);
    let mut random = 1;
    for number in 0..resources {
        write!(
            file,
            r#"{{"resourceType":"DocumentReference","id":"large-{number}","status":"current","content":[{{"attachment":{{"data":""#
        )?;
        // Base64 of noise: it does not compress to less than three quarters.
        let data: Vec<u8> = (0..bytes).map(|_| BASE64[(next(&mut random) % 64) as usize]).collect();
        file.write_all(&data)?;
        writeln!(file, r#""}}}}]}}"#)?;
    }
    file.flush()
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A line of the sample, and where its UUIDs are.
struct Line {
    text: Vec<u8>,
    uuids: Vec<Range<usize>>,
}

impl Line {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut uuids = Vec::new();
        let mut at = 0;
        while at + 36 <= bytes.len() {
            if is_uuid(&bytes[at..at + 36]) {
                uuids.push(at..at + 36);
                at += 36;
            } else {
                at += 1;
            }
        }
        Self { text: bytes.to_vec(), uuids }
    }

    fn write(&self, permutation: &[u8; 256], out: &mut impl Write) -> io::Result<()> {
        let mut text = self.text.clone();
        for byte in self.uuids.iter().cloned().flat_map(|range| range.clone()) {
            text[byte] = permutation[usize::from(text[byte])];
        }
        out.write_all(&text)?;
        out.write_all(b"\n")
    }
}

fn is_uuid(text: &[u8]) -> bool {
    text.iter().enumerate().all(|(index, byte)| match index {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    })
}

/// The lines of each type in the sample; Groups are left out, since their ids are names.
fn read(sample: &Path) -> io::Result<Vec<(String, Vec<Line>)>> {
    let mut types = Vec::new();
    for entry in fs::read_dir(sample)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".ndjson") && name != "Group.ndjson" {
            types.push((name, fs::read_to_string(&path)?.lines().map(Line::new).collect()));
        }
    }
    types.sort_by(|(a, _), (b, _): &(String, Vec<Line>)| a.cmp(b));
    Ok(types)
}

/// What becomes of each byte in the UUIDs of a copy; copy 0 is the sample itself.
fn permutation(copy: usize) -> [u8; 256] {
    let mut digits = *b"0123456789abcdef";
    let mut random = copy as u64;
    if copy > 0 {
        for last in (1..digits.len()).rev() {
            let other = next(&mut random) % (last as u64 + 1);
            digits.swap(last, other as usize);
        }
    }
    let mut table: [u8; 256] = std::array::from_fn(|byte| byte as u8);
    for (from, to) in b"0123456789abcdef".iter().zip(digits) {
        table[usize::from(*from)] = to;
    }
    table
}

/// SplitMix64: the same numbers every time.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
