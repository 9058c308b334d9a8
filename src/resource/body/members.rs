//! The members of one JSON object as they are written, in their order, each name known to occur once.

use super::Refused;
use crate::json::{Member, inside, listed};

/// The members of an object in minified JSON text.
pub(super) struct Members<'a>(Vec<Member<'a>>);

impl<'a> Members<'a> {
    pub(super) fn of_resource(text: &'a str) -> Result<Self, Refused> {
        let members = Self::split(text).ok_or(Refused::NotAnObject)?;
        members.each_once("of the resource")
    }

    pub(super) fn of_meta(text: &'a str) -> Result<Self, Refused> {
        let wrong_kind = Refused::WrongKind { member: "meta", expected: "an object" };
        Self::split(text).ok_or(wrong_kind)?.each_once("of `meta`")
    }

    /// The value of this member as written.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|member| member.name == name).map(|member| member.value)
    }

    /// The members but these, as written, separated by commas.
    pub(super) fn without(&self, names: &[&str]) -> String {
        let kept = || self.0.iter().filter(|member| !names.contains(&&*member.name));
        let mut text = String::with_capacity(kept().map(|member| member.text.len() + 1).sum());
        for member in kept() {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(member.text);
        }
        text
    }

    fn split(object: &'a str) -> Option<Self> {
        let mut members = Vec::with_capacity(16);
        members.extend(listed(inside(object)?));
        Some(Self(members))
    }

    /// Sorts the names instead of comparing each with each: an object may have a million members.
    fn each_once(self, place: &'static str) -> Result<Self, Refused> {
        let mut names: Vec<(&str, usize)> =
            self.0.iter().enumerate().map(|(index, member)| (&*member.name, index)).collect();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair[0].0 == pair[1].0);
        match twice {
            Some(pair) => Err(Refused::Duplicate { place, position: pair[1].1 + 1 }),
            None => Ok(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_and_left_out_as_written() {
        let text = r#"{"a":{"b":[1,"}"]},"\u0062":"x,y","c\"":1.00,"d":null}"#;
        let members = Members::of_resource(text).unwrap();
        assert_eq!(members.get("a"), Some(r#"{"b":[1,"}"]}"#));
        assert_eq!(members.get("b"), Some(r#""x,y""#));
        assert_eq!(members.get("c\""), Some("1.00"));
        assert_eq!(members.get("e"), None);
        assert_eq!(members.without(&["a", "d"]), r#""\u0062":"x,y","c\"":1.00"#);
        assert_eq!(members.without(&["a", "b", "c\"", "d"]), "");
    }

    #[test]
    fn an_empty_object_has_no_members_and_nothing_else_is_an_object() {
        assert_eq!(Members::of_meta("{}").unwrap().without(&[]), "");
        for text in ["[]", "1", "null", r#""{}""#] {
            assert!(Members::of_resource(text).is_err());
        }
    }
}
