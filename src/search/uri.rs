//! URIs: as they are written, or, of URLs, what is above or below in their paths.

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

impl UriOperand {
    pub(super) fn new(relation: Relation, uri: String) -> Result<Self, String> {
        if relation != Relation::Same && !uri.contains("://") {
            return Err("is no URL; only in those something is above or below".to_owned());
        }
        Ok(Self { relation, uri })
    }

    /// Compares it with a URI, or with the canonical URL of something, of any version unless one is asked for.
    pub(super) fn matches(&self, value: Value<'_>, datatype: &str) -> Result<bool, String> {
        let found = value.text().ok_or_else(|| format!("a {datatype} there cannot be read"))?;
        let unversioned = found.split_once('|').map_or(&*found, |(uri, _)| uri);
        Ok(match self.relation {
            Relation::Same => found == self.uri.as_str() || (datatype == "canonical" && unversioned == self.uri),
            Relation::Above => is_below(&self.uri, &found),
            Relation::Below => is_below(&found, &self.uri),
        })
    }
}

/// Whether the path of one URL begins with all of the other, or is the same.
fn is_below(url: &str, above: &str) -> bool {
    url.strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || above.ends_with('/') || rest.starts_with(['/', '|', '?', '#']))
}
