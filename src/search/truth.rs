//! Whether something holds, as far as that is known.

use super::filter::Lookup;

/// So much is looked up at once: with what is known then, it is judged again.
const ENOUGH: usize = 65_536;

/// What a condition comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Truth {
    Yes,
    No,
    /// It depends on these.
    Depends(Vec<Lookup>),
    /// Something there cannot be read.
    Unreadable(String),
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

impl Truth {
    /// Whether one of them holds: one that does is enough, whatever cannot be told of others.
    pub(super) fn any(truths: impl Iterator<Item = Self>) -> Self {
        let mut all = Self::No;
        for truth in truths {
            all.or(truth);
            if all == Self::Yes {
                break;
            }
        }
        all
    }

    /// Whether all of them hold: one that does not is enough.
    pub(super) fn all(truths: impl Iterator<Item = Self>) -> Self {
        Self::any(truths.map(Self::not)).not()
    }

    pub(super) fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            unknown => unknown,
        }
    }

    pub(super) fn or(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Yes, _) | (_, Self::No) => {}
            // What can be looked up is looked up before anything is given up.
            (Self::Depends(lookups), Self::Depends(more)) => {
                if lookups.len() < ENOUGH {
                    lookups.extend(more);
                }
            }
            (Self::Depends(_), Self::Unreadable(_)) | (Self::Unreadable(_), Self::Unreadable(_)) => {}
            (_, other) => *self = other,
        }
    }

    /// Says by which parameter something was looked at that cannot be read.
    pub(super) fn because_of(self, parameter: &str) -> Self {
        match self {
            Self::Unreadable(reason) => Self::Unreadable(format!("{parameter}: {reason}")),
            truth => truth,
        }
    }
}
