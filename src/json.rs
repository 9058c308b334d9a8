//! JSON text that is known to be valid and has no white space between tokens: its values as they are written. No tree is
//! made of it, and a number stays the text that it is.

pub(crate) mod scan;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};

/// One member of an object.
pub(crate) struct Member<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) value: &'a str,
    /// Name, colon and value as written.
    pub(crate) text: &'a str,
}

/// The members of an object, in their order; none of anything else.
pub(crate) fn members(object: &str) -> impl Iterator<Item = Member<'_>> {
    listed(inside(object).unwrap_or_default())
}

/// What stands between the braces of an object.
pub(crate) fn inside(object: &str) -> Option<&str> {
    object.strip_prefix('{')?.strip_suffix('}')
}

/// The members of an object without its braces.
pub(crate) fn listed(members: &str) -> impl Iterator<Item = Member<'_>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let member = (start < members.len()).then(|| Member::at(members, start))?;
        start += member.text.len() + 1; // The comma after it.
        Some(member)
    })
}

impl<'a> Member<'a> {
    /// The member whose opening quote is here.
    fn at(members: &'a str, start: usize) -> Self {
        let name_end = scan::string_end(members.as_bytes(), start + 1);
        let value_start = name_end + 2; // The quote and the colon.
        let value_end = scan::value_end(members, value_start);
        let raw_name = &members[start + 1..name_end];
        Self {
            // A name that makes no text is no name that matters; as written it is still told from others.
            name: scan::decode(raw_name).unwrap_or(Cow::Borrowed(raw_name)),
            value: &members[value_start..value_end],
            text: &members[start..value_end],
        }
    }
}

/// So many members of an object are kept: no type of FHIR has as many.
const MOST: usize = 1_000;

/// An object that is asked for many of its members: it is read once, and only as far as is needed.
pub(crate) struct Object<'a> {
    text: &'a str,
    read: RefCell<Vec<Member<'a>>>,
    /// Where between its braces the next member is.
    next: Cell<usize>,
}

impl<'a> Object<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        Self { text, read: RefCell::default(), next: Cell::default() }
    }

    /// The member of this name; none of what is no object.
    pub(crate) fn get(&self, name: &str) -> Option<Value<'a>> {
        let mut read = self.read.borrow_mut();
        if let Some(member) = read.iter().find(|member| member.name == name) {
            return Some(Value(member.value));
        }
        let members = inside(self.text).unwrap_or_default();
        while self.next.get() < members.len() {
            if read.len() == MOST {
                let mut rest = listed(members.get(self.next.get()..).unwrap_or_default());
                return rest.find(|member| member.name == name).map(|member| Value(member.value));
            }
            let member = Member::at(members, self.next.get());
            self.next.set(self.next.get() + member.text.len() + 1); // The comma after it.
            let found = (member.name == name).then_some(Value(member.value));
            read.push(member);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    pub(crate) fn value(&self) -> Value<'a> {
        Value(self.text)
    }
}

/// A value as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Value<'a>(pub(crate) &'a str);

impl<'a> Value<'a> {
    /// The member of this name; none of what is no object.
    pub(crate) fn get(self, name: &str) -> Option<Value<'a>> {
        members(self.0).find(|member| member.name == name).map(|member| Value(member.value))
    }

    /// The items of an array; else the value itself. A null is none: in FHIR it holds the place of what has no value.
    pub(crate) fn items(self) -> impl Iterator<Item = Value<'a>> {
        let items = self.0.strip_prefix('[').and_then(|items| items.strip_suffix(']'));
        let itself = items.is_none().then_some(self);
        items.map(scan::values).into_iter().flatten().map(Value).chain(itself).filter(|value| value.0 != "null")
    }

    /// What a string says; nothing of anything else.
    pub(crate) fn text(self) -> Option<Cow<'a, str>> {
        scan::decode(self.0.strip_prefix('"')?.strip_suffix('"')?)
    }

    /// A number as it is written; nothing of anything else.
    pub(crate) fn number(self) -> Option<&'a str> {
        self.0.starts_with(|c: char| c == '-' || c.is_ascii_digit()).then_some(self.0)
    }

    /// Whether it is an object.
    pub(crate) fn is_object(self) -> bool {
        self.0.starts_with('{')
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn members_are_found_as_written() {
        let text = r#"{"a":{"b":[1,"}"]},"\u0062":"x,y","c\"":1.00,"d":null}"#;
        let all: Vec<_> = members(text).map(|member| (member.name.into_owned(), member.value)).collect();
        let expected = [("a", r#"{"b":[1,"}"]}"#), ("b", r#""x,y""#), ("c\"", "1.00"), ("d", "null")];
        assert!(all.iter().map(|(name, value)| (&**name, *value)).eq(expected), "{all:?}");
        assert_eq!(members("[1]").count() + members("{}").count(), 0);
    }

    #[test]
    fn an_object_is_read_as_far_as_is_needed() {
        let object = Object::of(r#"{"a":1,"b":{"c":[2]},"a":3}"#);
        for _ in 0..2 {
            assert_eq!(object.get("b"), Some(Value(r#"{"c":[2]}"#)));
            assert_eq!(object.read.borrow().len(), 2);
        }
        for _ in 0..2 {
            assert_eq!((object.get("a"), object.get("c")), (Some(Value("1")), None));
        }
        assert_eq!(object.value().get("a"), Some(Value("1")));
        assert_eq!(Object::of("[]").get("a"), None);
        let many: Vec<String> = (0..3_000).map(|number| format!("\"m{number}\":{number}")).collect();
        let many = format!("{{{}}}", many.join(","));
        let object = Object::of(&many);
        for number in ["2999", "0", "1500", "999", "1000"] {
            assert_eq!(object.get(&format!("m{number}")), Some(Value(number)));
        }
        assert_eq!((object.get("m3000"), object.read.borrow().len()), (None, MOST));
    }

    #[test]
    fn a_value_is_read_as_what_it_is() {
        let value = Value(r#"{"a":["x",null,{"b":-1.50}],"c":"\u00e9","d":true}"#);
        let items: Vec<_> = value.get("a").unwrap().items().collect();
        assert_eq!((items.len(), items[0].text().as_deref()), (2, Some("x")));
        assert_eq!(items[1].get("b").and_then(Value::number), Some("-1.50"));
        assert_eq!(value.get("c").unwrap().text().as_deref(), Some("é"));
        assert_eq!(value.get("c").unwrap().items().count(), 1);
        assert_eq!(value.get("d").unwrap().text(), None);
        assert_eq!((value.get("d").unwrap().number(), value.get("e")), (None, None));
        assert!(value.is_object() && !items[0].is_object());
        assert_eq!(Value("[]").items().count(), 0);
    }

    fn tree() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".{0,6}".prop_map(Into::into),
            r#"["\\\[\]{},:a]{0,6}"#.prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::vec((r#"["\\a-cé]{0,3}"#, inner), 0..6)
                    .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    /// Whether a value as it is written is this one, all the way down.
    fn is(value: Value<'_>, tree: &serde_json::Value) -> bool {
        match tree {
            serde_json::Value::Null => value.0 == "null" && value.items().count() == 0,
            serde_json::Value::Bool(flag) => value.0 == flag.to_string() && value.text().is_none(),
            serde_json::Value::Number(number) => value.number() == Some(number.to_string().as_str()),
            serde_json::Value::String(text) => value.text().as_deref() == Some(text) && value.number().is_none(),
            serde_json::Value::Array(items) => {
                let items: Vec<_> = items.iter().filter(|item| !item.is_null()).collect();
                let found: Vec<_> = value.items().collect();
                found.len() == items.len() && found.into_iter().zip(items).all(|(found, item)| is(found, item))
            }
            serde_json::Value::Object(members) => {
                let object = Object::of(value.0);
                value.is_object()
                    && members.iter().all(|(name, member)| {
                        [value.get(name), object.get(name)]
                            .into_iter()
                            .all(|found| found.is_some_and(|found| is(found, member)))
                    })
                    && value.get("no such").is_none()
                    && object.get("no such").is_none()
            }
        }
    }

    proptest! {
        #[test]
        fn values_are_those_of_the_text(tree in tree()) {
            prop_assert!(is(Value(&tree.to_string()), &tree), "{tree}");
        }
    }
}
