//! Properties of the canonical bytes, over random resources written with random white space and spellings.

use proptest::prelude::*;
use time::OffsetDateTime;

use super::{Refused, Resource};
use crate::fhir::reference::{self, PatientBases};

/// A JSON value as it is written.
#[derive(Clone, Debug)]
enum Tree {
    Scalar(String),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

/// White space, taken in turn.
struct Blanks<'a> {
    pieces: &'a [String],
    used: usize,
}

impl Blanks<'_> {
    fn next(&mut self) -> &str {
        self.used += 1;
        self.pieces.get(self.used % self.pieces.len().max(1)).map_or("", String::as_str)
    }
}

impl Tree {
    fn write(&self, text: &mut String, blanks: &mut Blanks<'_>) {
        text.push_str(blanks.next());
        match self {
            Tree::Scalar(raw) => text.push_str(raw),
            Tree::Array(items) => {
                text.push('[');
                for (index, item) in items.iter().enumerate() {
                    text.push_str(if index == 0 { "" } else { "," });
                    item.write(text, blanks);
                }
                text.push_str(if items.is_empty() { blanks.next() } else { "" });
                text.push(']');
            }
            Tree::Object(members) => {
                text.push('{');
                text.push_str(&joined(members, blanks));
                text.push('}');
            }
        }
        text.push_str(blanks.next());
    }

    fn mentioned(&self, ids: &mut Vec<String>) {
        match self {
            Tree::Scalar(_) => {}
            Tree::Array(items) => items.iter().for_each(|item| item.mentioned(ids)),
            Tree::Object(members) => members.iter().for_each(|(name, value)| {
                value.mentioned(ids);
                if let Tree::Scalar(raw) = value
                    && decoded(&format!("\"{name}\"")).as_deref() == Some("reference")
                    && let Some(literal) = decoded(raw)
                    && let Some(id) = literal.strip_prefix("Patient/").filter(|id| reference::is_id(id))
                {
                    ids.push(id.to_owned());
                }
            }),
        }
    }
}

fn decoded(raw: &str) -> Option<String> {
    serde_json::from_str(raw).ok()
}

fn joined(members: &[(String, Tree)], blanks: &mut Blanks<'_>) -> String {
    let mut text = String::from(blanks.next());
    for (index, (name, value)) in members.iter().enumerate() {
        text.push_str(if index == 0 { "" } else { "," });
        text.push_str(blanks.next());
        text.push_str(&format!("\"{name}\""));
        text.push_str(blanks.next());
        text.push(':');
        value.write(&mut text, blanks);
    }
    text
}

fn minified(members: &[(String, Tree)]) -> String {
    joined(members, &mut Blanks { pieces: &[], used: 0 })
}

/// Characters of a string as JSON may spell them; half a surrogate pair among them.
fn raw_text() -> impl Strategy<Value = String> {
    let character = prop_oneof![
        4 => "[ -!#-\\[\\]-~é中😀]",
        1 => prop::sample::select(vec![
            r#"\""#, r"\\", r"\/", r"\n", r"\u00e9", r"\u00E9", r"\u0000", r"\ud83d\ude00", r"\ud800",
            "{", "}", "[", "]", ",", ":", "Patient/",
        ]).prop_map(str::to_owned),
    ];
    prop::collection::vec(character, 0..8).prop_map(|pieces| pieces.concat())
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => prop::sample::select(vec![
            "reference", r"ref\u0065rence", "subject", "contained", "meta", "id", "resourceType",
        ]).prop_map(str::to_owned),
        1 => raw_text(),
    ]
}

fn scalar() -> impl Strategy<Value = Tree> {
    prop_oneof![
        "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?",
        prop::sample::select(vec!["true", "false", "null", "1.00", "1.0e3", "-0", "1E400"]).prop_map(str::to_owned),
        raw_text().prop_map(|raw| format!("\"{raw}\"")),
        ("Patient", prop_oneof!["/", r"\\/", r"\\u002[fF]"], "[a-c]")
            .prop_map(|(name, slash, id)| format!("\"{name}{slash}{id}\"")),
    ]
    .prop_map(Tree::Scalar)
}

fn tree() -> impl Strategy<Value = Tree> {
    scalar().prop_recursive(5, 48, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Tree::Array),
            prop::collection::vec((name(), inner), 0..5).prop_map(Tree::Object),
        ]
    })
}

/// Members whose names differ from each other and from those of the head.
fn members() -> impl Strategy<Value = Vec<(String, Tree)>> {
    let member = (prop_oneof![Just("subject".to_owned()), raw_text()], tree());
    prop::collection::vec(member, 0..6).prop_map(|members| {
        let numbered = |(index, (name, value))| (format!("{index}{name}"), value);
        members.into_iter().enumerate().map(numbered).collect()
    })
}

fn blanks() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[ \t\r\n]{0,3}", 1..20)
}

/// Puts a member at some place among others.
fn insert(members: &mut Vec<(String, Tree)>, place: usize, name: &str, value: Tree) {
    members.insert(place % (members.len() + 1), (name.to_owned(), value));
}

fn text(raw: &str) -> Tree {
    Tree::Scalar(format!("\"{raw}\""))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_body_has_exactly_the_tokens_that_came(
        rest in members(),
        meta in prop::option::of(members()),
        places in prop::array::uniform5(0..9_usize),
        blanks in blanks(),
        version in 1..=i64::MAX,
        second in 0..4_000_000_000_i64,
    ) {
        let mut expected_mentions = Vec::new();
        Tree::Object(rest.clone()).mentioned(&mut expected_mentions);
        let kept_meta = meta.as_deref().map(minified).unwrap_or_default();
        let mut resource = rest.clone();
        if let Some(mut meta) = meta {
            Tree::Object(meta.clone()).mentioned(&mut expected_mentions);
            insert(&mut meta, places[0], r"version\u0049d", text("77"));
            insert(&mut meta, places[1], "lastUpdated", text("never"));
            insert(&mut resource, places[2], "meta", Tree::Object(meta));
        }
        insert(&mut resource, places[3], "resourceType", text("Observation"));
        insert(&mut resource, places[4], r"\u0069d", text(r"o\u002d1"));
        let mut input = String::new();
        Tree::Object(resource).write(&mut input, &mut Blanks { pieces: &blanks, used: 0 });
        expected_mentions.sort();
        expected_mentions.dedup();

        let bases = PatientBases::default();
        let instant = OffsetDateTime::from_unix_timestamp(second).unwrap();
        let parsed = Resource::parse(input.as_bytes(), &bases).unwrap();
        let body = parsed.body(version, instant);

        let comma = |members: &str| if members.is_empty() { "" } else { "," };
        let rest = minified(&rest);
        let head = r#"{"resourceType":"Observation","id":"o-1","meta":{"versionId":""#;
        let updated = crate::fhir::instant::format(instant);
        let meta_end = format!("{}{kept_meta}}}{}{rest}}}", comma(&kept_meta), comma(&rest));
        prop_assert_eq!(&body, &format!("{head}{version}\",\"lastUpdated\":\"{updated}\"{meta_end}"));
        prop_assert_eq!(parsed.mentions(), expected_mentions);
        let again = Resource::parse(body.as_bytes(), &bases).unwrap();
        prop_assert_eq!(again.body(version, instant), body);
        prop_assert_eq!(again, parsed);
    }

    #[test]
    fn a_name_that_occurs_twice_is_refused(mut members in members(), place in 0..9_usize) {
        insert(&mut members, 0, "resourceType", text("Basic"));
        insert(&mut members, 1, "id", text("1"));
        let (name, value) = members[place % members.len()].clone();
        members.push((name, value));
        let position = members.len();
        let input = format!("{{{}}}", minified(&members));
        let refused = Resource::parse(input.as_bytes(), &PatientBases::default());
        prop_assert_eq!(refused, Err(Refused::Duplicate { place: "of the resource", position }));
    }

    #[test]
    fn any_bytes_are_taken_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..40),
        pieces in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", "\"", ":", ",", "\\", " ", "1", "null", "\"id\"", "\"meta\"",
            "\"resourceType\"", "\"Basic\"", "{\"resourceType\":\"Basic\",\"id\":\"1\"", "é",
        ]), 0..14),
    ) {
        let bases = PatientBases::default();
        let _ = Resource::parse(&bytes, &bases);
        let _ = Resource::parse(pieces.concat().as_bytes(), &bases);
    }
}
