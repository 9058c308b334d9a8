//! Parts of files: Range and If-Range (RFC 9110, 13.1.5 and 14; DESIGN 4).

use std::io::Read;

use flate2::read::GzDecoder;
use reqwest::Method;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::answer::{Answer, get, send};
use crate::support::secured::{ROLES, set_up};
use crate::support::{Caller, Database, with_a_large_file, with_a_small_file};

/// The representations that have ranges, as Accept-Encoding.
const BOTH: [&str; 2] = ["identity", "gzip"];
/// Of the gzip representation.
const HEADER: u64 = 10;
const TRAILER: u64 = 10;

/// Where the chunks begin, in order, in the representation of this encoding.
async fn borders(database: &Database, encoding: &str) -> Vec<u64> {
    let (column, before) = if encoding == "gzip" { ("offset_deflated", HEADER) } else { ("offset_bytes", 0) };
    let query = format!("select {column} from binary_chunk order by ordinal");
    let offsets: Vec<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_all(&database.pool).await.unwrap();
    offsets.into_iter().map(|offset| before + u64::try_from(offset).unwrap()).collect()
}

/// Asks for this range and expects these bytes, with all headers of the whole but the length.
async fn expect_part(caller: &Caller, url: &str, encoding: &str, whole: &Answer, range: &str, first: u64, last: u64) {
    let part = get(caller, url, &[("accept-encoding", encoding), ("range", &format!("bytes={range}"))]).await;
    assert_eq!(part.status, 206, "{encoding} {range}");
    let length = whole.body.len();
    assert_eq!(part.header("content-range"), Some(format!("bytes {first}-{last}/{length}").as_str()), "{range}");
    assert_eq!(part.header("content-length"), Some((last - first + 1).to_string().as_str()), "{encoding} {range}");
    for name in
        ["etag", "content-type", "content-encoding", "content-location", "last-modified", "vary", "cache-control"]
    {
        assert_eq!(part.header(name), whole.header(name), "{name}");
    }
    assert_eq!(part.header("accept-ranges"), Some("bytes"));
    let wanted = usize::try_from(first).unwrap()..=usize::try_from(last).unwrap();
    assert!(part.body == whole.body[wanted], "{encoding} {range} has other bytes");
}

#[tokio::test]
async fn a_range_is_first_to_last_open_or_a_suffix() {
    let database = Database::create().await;
    let (server, url) = with_a_small_file(&database).await;
    let anybody = server.anybody();
    for encoding in BOTH {
        let whole = get(&anybody, &url, &[("accept-encoding", encoding)]).await;
        assert_eq!((whole.status, whole.header("accept-ranges")), (200, Some("bytes")));
        let length = whole.body.len() as u64;
        let end = length - 1;
        for (range, first, last) in [
            ("0-0".to_owned(), 0, 0),
            ("7-20".to_owned(), 7, 20),
            ("0-".to_owned(), 0, end),
            (format!("0-{end}"), 0, end),
            (format!("5-{}", length + 7), 5, end),
            (format!("{end}-"), end, end),
            ("-1".to_owned(), end, end),
            (format!("-{length}"), 0, end),
            (format!("-{}", length * 2), 0, end),
        ] {
            expect_part(&anybody, &url, encoding, &whole, &range, first, last).await;
        }
        let version = format!("{url}/_history/1");
        expect_part(&anybody, &version, encoding, &whole, "1-2", 1, 2).await;
    }
}

#[tokio::test]
async fn a_range_may_begin_and_end_anywhere() {
    let database = Database::create().await;
    let (server, url) = with_a_large_file(&database).await;
    let anybody = server.anybody();
    for encoding in BOTH {
        let whole = get(&anybody, &url, &[("accept-encoding", encoding)]).await;
        let length = whole.body.len() as u64;
        let borders = borders(&database, encoding).await;
        assert!(borders.len() > 3, "the file has several chunks");
        let (second, third) = (borders[1], borders[2]);
        let mut parts = vec![
            (second, third - 1),
            (second + 100, third - 100),
            (second - 100, third + 100),
            (0, second),
            (borders[borders.len() - 1] - 1, length - 1),
        ];
        // Within the header and the trailer of gzip, and across their borders.
        for at in [3, HEADER - 1, HEADER, length - TRAILER - 1, length - TRAILER, length - 4] {
            parts.push((at, at + 2));
        }
        for at in borders.into_iter().filter(|at| *at > 0) {
            parts.extend([(at - 1, at - 1), (at - 1, at), (at, at)]);
        }
        for (first, last) in parts {
            expect_part(&anybody, &url, encoding, &whole, &format!("{first}-{last}"), first, last).await;
        }
    }
}

#[tokio::test]
async fn a_file_put_together_from_ranges_is_the_file() {
    let database = Database::create().await;
    let (server, url) = with_a_large_file(&database).await;
    let anybody = server.anybody();
    let mut chance: u64 = 20_261_124;
    for encoding in BOTH {
        let head = send(anybody.request(Method::HEAD, &url).header("accept-encoding", encoding)).await;
        let length: u64 = head.header("content-length").unwrap().parse().unwrap();
        let etag = head.header("etag").unwrap();
        let mut file = Vec::new();
        while (file.len() as u64) < length {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let first = file.len() as u64;
            let last = first + (chance >> 33) % (length / 8);
            let range = format!("bytes={first}-{last}");
            let part =
                get(&anybody, &url, &[("accept-encoding", encoding), ("range", &range), ("if-range", etag)]).await;
            assert_eq!(part.status, 206);
            file.extend(part.body);
        }
        assert_eq!(file.len() as u64, length);
        let mut content = Vec::new();
        match encoding {
            "gzip" => GzDecoder::new(&file[..]).read_to_end(&mut content).unwrap(),
            _ => file.as_slice().read_to_end(&mut content).unwrap(),
        };
        let sha256: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(etag.starts_with(&format!("\"{sha256}")), "{encoding}");
    }
}

#[tokio::test]
async fn a_range_reads_only_the_chunks_it_falls_in() {
    let database = Database::create().await;
    let (server, url) = with_a_large_file(&database).await;
    let anybody = server.anybody();
    let mut wholes = Vec::new();
    for encoding in BOTH {
        wholes.push((encoding, get(&anybody, &url, &[("accept-encoding", encoding)]).await));
    }
    // Of no other chunk anything is left to be read.
    database.execute("update binary_chunk set data = '' where ordinal not in (1, 2)").await;
    for (encoding, whole) in &wholes {
        let length = whole.body.len() as u64;
        let borders = borders(&database, encoding).await;
        let (first, last) = (borders[1], borders[3] - 1);
        for (first, last) in [(first, last), (first + 5, first + 6), (borders[2] - 3, borders[2] + 3), (last, last)] {
            expect_part(&anybody, &url, encoding, whole, &format!("{first}-{last}"), first, last).await;
        }
        if *encoding == "gzip" {
            expect_part(&anybody, &url, encoding, whole, "0-9", 0, 9).await;
            expect_part(&anybody, &url, encoding, whole, "-10", length - 10, length - 1).await;
        }
        // So the test would see it; and a file that is damaged does not look whole.
        // It may break off before its head is sent.
        let damaged = anybody.get(&url).header("accept-encoding", *encoding).send().await;
        assert!(damaged.is_err() || damaged.unwrap().bytes().await.is_err());
    }
}

#[tokio::test]
async fn a_range_behind_the_end_is_refused_and_the_length_is_told() {
    let database = Database::create().await;
    let (server, url) = with_a_small_file(&database).await;
    let anybody = server.anybody();
    for encoding in BOTH {
        let length = get(&anybody, &url, &[("accept-encoding", encoding)]).await.body.len();
        for range in [format!("bytes={length}-"), format!("bytes={length}-{}", length + 9), "bytes=-0".to_owned()] {
            let headers = [("accept-encoding", encoding), ("range", range.as_str())];
            let answer = get(&anybody, &url, &headers).await;
            assert_eq!(answer.status, 416, "{range}");
            assert_eq!(answer.header("content-range"), Some(format!("bytes */{length}").as_str()));
            assert_eq!(answer.header("accept-ranges"), Some("bytes"));
            assert_eq!(answer.header("content-encoding"), None);
            let request = anybody.get(&url).header("accept-encoding", encoding).header("range", &range);
            assert!(anybody.refused(request, 416).await.contains(&format!("{length} bytes")));
        }
    }
}

#[tokio::test]
async fn what_is_not_one_byte_range_is_ignored() {
    let database = Database::create().await;
    let (server, url) = with_a_small_file(&database).await;
    let anybody = server.anybody();
    let whole = get(&anybody, &url, &[]).await;
    for range in ["bytes=0-0,2-3", "bytes=5-4", "bytes=x-", "bytes=", "bytes 0-1", "lines=0-1", "0-1", ""] {
        let answer = get(&anybody, &url, &[("range", range)]).await;
        assert_eq!((answer.status, answer.header("content-range")), (200, None), "{range}");
        assert!(answer.body == whole.body, "{range}");
    }
}

#[tokio::test]
async fn a_download_is_resumed_only_if_the_file_is_the_same() {
    let database = Database::create().await;
    let (server, url) = with_a_small_file(&database).await;
    let anybody = server.anybody();
    let whole = get(&anybody, &url, &[]).await;
    let (etag, date) = (whole.header("etag").unwrap(), whole.header("last-modified").unwrap());
    let weak = format!("W/{etag}");
    let of_gzip = get(&anybody, &url, &[("accept-encoding", "gzip")]).await;
    for (validator, status) in [
        (etag, 206),
        // The other encoding has the same.
        (date, 200),
        (&weak, 200),
        (of_gzip.header("etag").unwrap(), 200),
        ("\"x\"", 200),
        ("Thu, 01 Jan 2099 00:00:00 GMT", 200),
        ("Thu, 01 Jan 1998 00:00:00 GMT", 200),
    ] {
        let answer = get(&anybody, &url, &[("range", "bytes=7-"), ("if-range", validator)]).await;
        assert_eq!(answer.status, status, "{validator}");
        let expected = if status == 206 { &whole.body[7..] } else { &whole.body };
        assert!(answer.body == expected, "{validator}");
    }
}

#[tokio::test]
async fn head_and_the_resource_have_no_ranges() {
    let database = Database::create().await;
    let (server, url) = with_a_small_file(&database).await;
    let anybody = server.anybody();
    let whole = get(&anybody, &url, &[]).await;
    for range in ["bytes=0-1", "bytes=999999-"] {
        let head = send(anybody.request(Method::HEAD, &url).header("range", range)).await;
        assert_eq!((head.status, head.header("content-range")), (200, None));
        assert_eq!(head.header("accept-ranges"), Some("bytes"));
        assert_eq!(head.header("content-length"), Some(whole.body.len().to_string().as_str()));

        let resource = get(&anybody, &url, &[("accept", "application/fhir+json"), ("range", range)]).await;
        assert_eq!((resource.status, resource.header("content-range")), (200, None));
        assert_eq!(resource.header("accept-ranges"), Some("none"));
        let resource: Value = serde_json::from_slice(&resource.body).unwrap();
        assert_eq!(resource["resourceType"], "Binary");
    }
}

// F15, I5: nothing is said of a file to those who may not have it
#[tokio::test]
async fn access_is_checked_before_anything_else_is_asked() {
    let (_database, issuer, server) = set_up().await;
    let alice = server.with_token(&issuer.ehealth_token("alice", &ROLES));
    let file = alice.kick_off("?_type=Patient").await.completed().await.urls("output").remove(0);
    let etag = get(&alice, &file, &[]).await.header("etag").unwrap().to_owned();
    let bob = server.with_token(&issuer.ehealth_token("bob", &ROLES));
    let less = server.with_token(&issuer.ehealth_token("alice", &["Binary.read", "Task.*"]));
    let plain = bob.refused(bob.get(&file), 404).await;
    for (name, value) in [
        ("range", "bytes=0-0"),
        ("range", "bytes=99999999-"),
        ("if-none-match", "*"),
        ("if-none-match", &etag),
        ("if-match", "\"x\""),
        ("if-modified-since", "Thu, 01 Jan 2099 00:00:00 GMT"),
        ("if-unmodified-since", "Thu, 01 Jan 1998 00:00:00 GMT"),
    ] {
        assert_eq!(bob.refused(bob.get(&file).header(name, value), 404).await, plain, "{name}");
        less.refused(less.get(&file).header(name, value), 403).await;
    }
}
