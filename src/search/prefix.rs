//! `eq`, `ge`, `ap` …: how a value is compared with what is there. Both are stretches: a date lasts as long as it is
//! precise, and so does a number.

/// How to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    Eq,
    Ne,
    Gt,
    Lt,
    Ge,
    Le,
    Sa,
    Eb,
    Ap,
}

impl Prefix {
    /// The prefix of a value, and the rest of it.
    pub(super) fn split(text: &str) -> (Self, &str) {
        let prefix = match text.get(..2) {
            Some("eq") => Self::Eq,
            Some("ne") => Self::Ne,
            Some("gt") => Self::Gt,
            Some("lt") => Self::Lt,
            Some("ge") => Self::Ge,
            Some("le") => Self::Le,
            Some("sa") => Self::Sa,
            Some("eb") => Self::Eb,
            Some("ap") => Self::Ap,
            _ => return (Self::Eq, text),
        };
        (prefix, &text[2..])
    }
}

/// How what is there lies to the value that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lies {
    /// Wholly within it.
    pub(super) within: bool,
    /// Some of it after it; some before.
    pub(super) ends_after: bool,
    pub(super) begins_before: bool,
    /// All of it after it; all before.
    pub(super) is_after: bool,
    pub(super) is_before: bool,
    /// Some of it near it.
    pub(super) is_near: bool,
}

impl Lies {
    /// As the search specification has it, "Prefixes".
    pub(super) fn matches(self, prefix: Prefix) -> bool {
        match prefix {
            Prefix::Eq => self.within,
            Prefix::Ne => !self.within,
            Prefix::Gt => self.ends_after,
            Prefix::Lt => self.begins_before,
            Prefix::Ge => self.ends_after || self.within,
            Prefix::Le => self.begins_before || self.within,
            Prefix::Sa => self.is_after,
            Prefix::Eb => self.is_before,
            Prefix::Ap => self.is_near,
        }
    }
}
