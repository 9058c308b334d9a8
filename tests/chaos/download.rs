//! Files on their way to a client that does not trust them: whatever breaks off is asked for again, and what was put
//! together is checked against what the server says of it.

use std::io::Read;
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap};
use reqwest::{Method, StatusCode};
use sha2::{Digest, Sha256};

use crate::client::{Client, Request, Unanswered, next_piece};
use crate::findings::{Findings, Of};
use crate::random::Random;

const PATIENCE: Duration = Duration::from_secs(90);

/// Why there is no file.
#[derive(Debug)]
pub enum NoFile {
    /// 404: it has gone in the meantime.
    Gone,
    Unanswered,
    /// It is not what it should be: told already.
    Wrong,
}

impl From<Unanswered> for NoFile {
    fn from(Unanswered: Unanswered) -> Self {
        Self::Unanswered
    }
}

/// Somebody who downloads.
pub struct Downloader<'a> {
    pub client: &'a Client,
    pub findings: &'a Findings,
}

/// How a file is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    pub gzip: bool,
    /// Time between two pieces of a slow reader.
    pub pause: Option<Duration>,
}

pub const PLAIN: Manner = Manner { gzip: false, pause: None };
pub const GZIP: Manner = Manner { gzip: true, pause: None };

/// A file under way: what is there of it.
struct Begun {
    bytes: Vec<u8>,
    etag: Option<String>,
    length: Option<usize>,
}

impl Downloader<'_> {
    /// A file as NDJSON three times: as it is, compressed, and put together from ranges. All are the same, and what the
    /// server says of them is true.
    pub async fn thrice(&self, path: &str, random: &mut Random) -> Result<Vec<u8>, NoFile> {
        let plain = self.whole(path, PLAIN, random).await?;
        let compressed = self.whole(path, GZIP, random).await?;
        self.expect(compressed == plain, || format!("{path}: the gzip representation holds other bytes"))?;
        let assembled = self.in_ranges(path, plain.len(), random).await?;
        self.expect(assembled == plain, || format!("{path}: put together from ranges it holds other bytes"))?;
        Ok(plain)
    }

    /// The NDJSON of a file; what breaks off is resumed or begun again.
    pub async fn whole(&self, path: &str, manner: Manner, random: &mut Random) -> Result<Vec<u8>, NoFile> {
        let mut begun = Begun { bytes: Vec::new(), etag: None, length: None };
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            if self.go_on(path, manner, &mut begun).await? {
                return self.checked(path, manner, begun);
            }
            self.findings.count(Of::Seen, "downloads that broke off");
            if random.one_in(3) {
                begun.bytes.clear();
            }
        }
        Err(NoFile::Unanswered)
    }

    /// Whether it got to the end.
    async fn go_on(&self, path: &str, manner: Manner, begun: &mut Begun) -> Result<bool, NoFile> {
        let mut request = Request::get(path);
        if manner.gzip {
            request = request.header("accept-encoding", "gzip");
        }
        if let (Some(etag), true) = (&begun.etag, !begun.bytes.is_empty()) {
            let rest = format!("bytes={}-", begun.bytes.len());
            request = request.header("range", rest).header("if-range", etag.clone());
        }
        let mut response = self.client.head(&request).await?;
        match response.status() {
            StatusCode::OK => begun.bytes.clear(),
            StatusCode::PARTIAL_CONTENT => self.findings.count(Of::Seen, "downloads resumed"),
            // All of it was there when the connection broke.
            StatusCode::RANGE_NOT_SATISFIABLE if begun.length == Some(begun.bytes.len()) => return Ok(true),
            StatusCode::NOT_FOUND => return Err(NoFile::Gone),
            status => return self.expect(false, || format!("{path}: {status}")).map(|()| false),
        }
        self.same_file(path, begun, response.headers())?;
        loop {
            match next_piece(&mut response).await {
                Ok(Some(piece)) => begun.bytes.extend_from_slice(&piece),
                Ok(None) => return Ok(true),
                Err(_) => return Ok(false),
            }
            if let Some(pause) = manner.pause {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// One file has one ETag and one length, whichever replica is asked.
    fn same_file(&self, path: &str, begun: &mut Begun, headers: &HeaderMap) -> Result<(), NoFile> {
        let etag = text(headers, ETAG.as_str());
        let known = begun.etag.is_none() || begun.etag == etag;
        self.expect(known, || format!("{path}: its ETag was {:?}, now it is {etag:?}", begun.etag))?;
        let left = text(headers, CONTENT_LENGTH.as_str()).and_then(|length| length.parse::<usize>().ok());
        let length = left.map(|left| begun.bytes.len() + left);
        let known = length.is_some() && (begun.length.is_none() || begun.length == length);
        self.expect(known, || format!("{path}: its length was {:?}, now it is {length:?}", begun.length))?;
        (begun.etag, begun.length) = (etag, length);
        Ok(())
    }

    /// The NDJSON, if length and SHA-256 are as they were told.
    fn checked(&self, path: &str, manner: Manner, begun: Begun) -> Result<Vec<u8>, NoFile> {
        let Begun { mut bytes, etag, length } = begun;
        self.expect(length == Some(bytes.len()), || {
            format!("{path}: it is {} bytes long, not {length:?}", bytes.len())
        })?;
        if manner.gzip {
            let mut inflated = Vec::new();
            let read = flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut inflated);
            self.expect(read.is_ok(), || format!("{path}: it does not inflate: {read:?}"))?;
            bytes = inflated;
        }
        let encoding = if manner.gzip { "-gzip" } else { "" };
        let found = format!("\"{}{encoding}\"", sha256(&bytes));
        self.expect(etag.as_ref() == Some(&found), || format!("{path}: its SHA-256 gives {found}, not {etag:?}"))?;
        Ok(bytes)
    }

    /// Put together from ranges that are cut anywhere, each from whichever replica answers.
    async fn in_ranges(&self, path: &str, length: usize, random: &mut Random) -> Result<Vec<u8>, NoFile> {
        let mut cuts = vec![0, random.index(length), random.index(length), length];
        cuts.sort_unstable();
        cuts.dedup();
        let mut assembled = Vec::with_capacity(length);
        for range in cuts.windows(2) {
            assembled.extend(self.range(path, range[0], range[1], length).await?);
        }
        Ok(assembled)
    }

    async fn range(&self, path: &str, from: usize, to: usize, length: usize) -> Result<Vec<u8>, NoFile> {
        let range = format!("bytes={from}-{}", to - 1);
        let answer = self.client.ask(&Request::get(path).header("range", range)).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Err(NoFile::Gone);
        }
        let expected = format!("bytes {from}-{}/{length}", to - 1);
        let found = text(&answer.headers, CONTENT_RANGE.as_str());
        self.expect(answer.status == StatusCode::PARTIAL_CONTENT && found.as_ref() == Some(&expected), || {
            format!("{path}: {} with the range {found:?} instead of {expected}", answer.status)
        })?;
        Ok(answer.body)
    }

    /// The beginning of a file, from a connection that is then left open, and the rest once `meanwhile` has happened:
    /// all, or as far as it goes. What comes is right in either case.
    pub async fn while_happens(&self, path: &str, content: &[u8], meanwhile: impl Future) -> Result<(), NoFile> {
        let mut response = self.client.head(&Request { method: Method::GET, ..Request::get(path) }).await?;
        let mut bytes = Vec::new();
        if let Ok(Some(piece)) = next_piece(&mut response).await {
            bytes.extend_from_slice(&piece);
        }
        meanwhile.await;
        while let Ok(Some(piece)) = next_piece(&mut response).await {
            bytes.extend_from_slice(&piece);
        }
        let status = response.status();
        if status == StatusCode::NOT_FOUND {
            return Err(NoFile::Gone);
        }
        let is_right = status == StatusCode::OK && content.starts_with(&bytes);
        self.expect(is_right, || format!("{path}: a download during its removal gave wrong bytes ({status})"))?;
        let end = if bytes.len() == content.len() { "came to their end" } else { "broke off" };
        self.findings.count(Of::Seen, &format!("downloads during a removal that {end}"));
        Ok(())
    }

    fn expect(&self, is_so: bool, or: impl FnOnce() -> String) -> Result<(), NoFile> {
        if is_so {
            return Ok(());
        }
        self.findings.violation(or());
        Err(NoFile::Wrong)
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
