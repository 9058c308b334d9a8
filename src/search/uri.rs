//! URIs: as they are written, or, of URLs, what is above or below in their paths.

use std::borrow::Cow;

use crate::json::Value;

/// Which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Same,
    /// What is there is a part of its path (`:above`).
    Above,
    /// It is a part of the path of what is there (`:below`).
    Below,
}

/// A URI that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UriOperand {
    relation: Relation,
    uri: String,
}

/// A URI that is there.
pub(super) struct Uri<'a> {
    pub(super) written: Cow<'a, str>,
    /// It may have a version, and is meant whatever that is unless one is asked for.
    is_canonical: bool,
}

impl<'a> Uri<'a> {
    pub(super) fn read(value: Value<'a>, datatype: &str) -> Result<Self, String> {
        let written = value.text().ok_or_else(|| format!("a {datatype} there cannot be read"))?;
        Ok(Self { written, is_canonical: datatype == "canonical" })
    }
}

impl UriOperand {
    pub(super) fn new(relation: Relation, uri: String) -> Result<Self, String> {
        if relation != Relation::Same && !uri.contains("://") {
            return Err("is no URL; only in those something is above or below".to_owned());
        }
        Ok(Self { relation, uri })
    }

    pub(super) fn is(&self, there: &Uri<'_>) -> bool {
        let Uri { written, is_canonical } = there;
        match self.relation {
            Relation::Same => written == self.uri.as_str() || (*is_canonical && unversioned(written) == self.uri),
            Relation::Above => is_below(&self.uri, written),
            Relation::Below => is_below(written, &self.uri),
        }
    }
}

/// The canonical URL of something, of whatever version.
pub(super) fn unversioned(url: &str) -> &str {
    url.split_once('|').map_or(url, |(url, _)| url)
}

/// Whether the path of one URL begins with all of the other, or is the same.
fn is_below(url: &str, above: &str) -> bool {
    url.strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || above.ends_with('/') || rest.starts_with(['/', '|', '?', '#']))
}
