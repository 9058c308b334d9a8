//! The reasons for which a text cannot be stored as a resource (DESIGN section 9), in words for whoever sent it.

use super::MAX_DEPTH;

/// Why a text cannot be stored as a resource. No message repeats content of the resource: it is private.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The bytes are not UTF-8.
    #[error("the resource is not UTF-8; JSON must be sent as UTF-8")]
    NotUtf8,
    /// The text is not JSON: what is wrong, and where.
    #[error("the resource is not valid JSON: {0}")]
    NotJson(String),
    /// The JSON is nested deeper than the limit.
    #[error("the resource is nested too deep; at most {MAX_DEPTH} levels of objects and arrays are accepted")]
    TooDeep,
    /// The JSON is an array, a string, a number, a boolean or null.
    #[error("the resource is not a JSON object; a resource starts with `{{\"resourceType\":`")]
    NotAnObject,
    /// A member is there twice; which of the two is meant cannot be known.
    #[error("member number {position} {place} has the name of an earlier member; each name may occur once")]
    Duplicate {
        /// Where: `of the resource` or `of \`meta\``.
        place: &'static str,
        /// Which member in that place, counted from 1.
        position: usize,
    },
    /// `resourceType`, `id` or `meta` has the wrong JSON type.
    #[error("`{member}` has the wrong JSON type; it must be {expected}")]
    WrongKind {
        /// The name of the member.
        member: &'static str,
        /// The JSON type it must have.
        expected: &'static str,
    },
    /// There is no `resourceType`.
    #[error("the resource has no `resourceType`; it must name a FHIR R4 resource type, such as \"Patient\"")]
    NoType,
    /// R4 has no such type.
    #[error("`resourceType` is no FHIR R4 resource type; it must be one, such as \"Patient\" (case matters)")]
    UnknownType,
    /// Binary is never stored.
    #[error("Binary resources are not stored here; load resources of other types only")]
    Binary,
    /// There is no `id`, and none was given for it.
    #[error("the resource has no `id`; it must have one, since a loaded resource keeps its id")]
    NoId,
    /// The id breaks FHIR's rule.
    #[error("the `id` is no FHIR id; it must be 1 to 64 characters out of A-Z, a-z, 0-9, `-` and `.`")]
    BadId,
}
