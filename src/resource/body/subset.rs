//! A body cut down to some of its elements (rule G5): what is kept stays as it is written and in its order, and a tag
//! says that it is not the whole, so that nobody stores it in place of the whole.

use std::collections::HashSet;

use crate::json::{Member, members, scan};

/// What every resource keeps.
const HEAD: [&str; 3] = ["resourceType", "id", "meta"];
const SYSTEM: &str = "http://terminology.hl7.org/CodeSystem/v3-ObservationValue";
const CODE: &str = "SUBSETTED";
const TAG: &str = r#"{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED"}"#;

/// The members that resources of one type keep, by their names in JSON.
#[derive(Debug)]
pub(crate) struct Subset(HashSet<&'static str>);

impl Subset {
    /// Keeps these, and what every resource keeps.
    pub(crate) fn of(members: impl Iterator<Item = &'static str>) -> Self {
        Self(members.chain(HEAD).collect())
    }

    /// The body that is left of one, in the pieces it is made of: so no resource is copied to be cut.
    pub(crate) fn cut<'a>(&self, body: &'a str) -> Vec<&'a str> {
        let mut pieces = Vec::with_capacity(32);
        let mut has_meta = false;
        pieces.push("{");
        for member in members(body).filter(|member| self.keeps(&member.name)) {
            comma(&mut pieces);
            if member.name == "meta" {
                has_meta = true;
                push_meta(&mut pieces, member.value);
            } else {
                pieces.push(member.text);
            }
        }
        if !has_meta {
            comma(&mut pieces);
            push_meta(&mut pieces, "{}");
        }
        pieces.push("}");
        pieces
    }

    /// The id and the extensions of a primitive value are in a member beside it, `_birthDate` beside `birthDate`.
    fn keeps(&self, name: &str) -> bool {
        self.0.contains(name.strip_prefix('_').unwrap_or(name))
    }
}

fn push_meta<'a>(pieces: &mut Vec<&'a str>, meta: &'a str) {
    let mut has_tags = false;
    pieces.push(r#""meta":{"#);
    for member in members(meta) {
        comma(pieces);
        if member.name == "tag" {
            has_tags = true;
            push_tags(pieces, member.value);
        } else {
            pieces.push(member.text);
        }
    }
    if !has_tags {
        comma(pieces);
        push_tags(pieces, "[]");
    }
    pieces.push("}");
}

/// The tags as they are, with ours if it is not among them. A tag that is no array, which FHIR does not know, becomes the
/// first of one.
fn push_tags<'a>(pieces: &mut Vec<&'a str>, tags: &'a str) {
    let items = tags.strip_prefix('[').and_then(|tags| tags.strip_suffix(']')).unwrap_or(tags);
    pieces.extend([r#""tag":["#, items]);
    if !scan::values(items).any(is_tag) {
        pieces.extend([if items.is_empty() { "" } else { "," }, TAG]);
    }
    pieces.push("]");
}

/// Before a member, unless it is the first of its object.
fn comma(pieces: &mut Vec<&str>) {
    if pieces.last().is_some_and(|piece| !piece.ends_with('{')) {
        pieces.push(",");
    }
}

fn is_tag(coding: &str) -> bool {
    let has = |name, text| members(coding).any(|member| member.name == name && is_text(&member, text));
    has("system", SYSTEM) && has("code", CODE)
}

fn is_text(member: &Member<'_>, text: &str) -> bool {
    let raw = member.value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    raw.and_then(scan::decode).as_deref() == Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(body: &str) -> String {
        Subset::of(["status", "birthDate"].into_iter()).cut(body).concat()
    }

    // G5, L: decimals
    #[test]
    fn what_is_kept_stays_as_it_is_written() {
        let body = r#"{"resourceType":"Basic","id":"1","meta":{"versionId":"1"},"a":{"status":1},"st\u0061tus":[1.00,"}"],"_birthDate":null,"b":"x"}"#;
        let left = format!(
            r#"{{"resourceType":"Basic","id":"1","meta":{{"versionId":"1","tag":[{TAG}]}},"st\u0061tus":[1.00,"}}"],"_birthDate":null}}"#
        );
        assert_eq!(cut(body), left);
    }

    // G5
    #[test]
    fn the_tag_is_there_once_and_others_stay() {
        let own = r#"{"code":"\u0053UBSETTED","display":"x","system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue"}"#;
        for (meta, tagged) in [
            (r#"{}"#, format!(r#"{{"tag":[{TAG}]}}"#)),
            (r#"{"tag":[]}"#, format!(r#"{{"tag":[{TAG}]}}"#)),
            (r#"{"tag":[{"code":"SUBSETTED"}],"a":1}"#, format!(r#"{{"tag":[{{"code":"SUBSETTED"}},{TAG}],"a":1}}"#)),
            (r#"{"tag":"]"}"#, format!(r#"{{"tag":["]",{TAG}]}}"#)),
            (format!(r#"{{"tag":[{{}},{own}]}}"#).as_str(), format!(r#"{{"tag":[{{}},{own}]}}"#)),
            (format!(r#"{{"tag":[{TAG}]}}"#).as_str(), format!(r#"{{"tag":[{TAG}]}}"#)),
        ] {
            assert_eq!(cut(&format!(r#"{{"meta":{meta},"x":{{}}}}"#)), format!(r#"{{"meta":{tagged}}}"#));
        }
        assert_eq!(cut("{}"), format!(r#"{{"meta":{{"tag":[{TAG}]}}}}"#), "where there is no meta, it is made");
    }
}
