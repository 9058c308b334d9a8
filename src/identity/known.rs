//! Grants that were reckoned before: the same scopes come with every call of a client.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::TypeGrant;

/// So many are kept; then it begins anew.
const MAX_KNOWN: usize = 256;

/// Grants by the scopes that they are made of, always in the same way. Of the scopes, which may name a person, only a digest
/// is kept.
#[derive(Default)]
pub(super) struct Known(Mutex<HashMap<[u8; 32], TypeGrant>>);

impl Known {
    /// What these scopes grant; reckoned if it is not known.
    pub(super) fn grant(&self, scopes: &str, reckoned: impl FnOnce(&str) -> TypeGrant) -> TypeGrant {
        let digest = Sha256::digest(scopes).into();
        let known = self.locked().get(&digest).cloned();
        known.unwrap_or_else(|| {
            let grant = reckoned(scopes);
            let mut known = self.locked();
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            known.insert(digest, grant.clone());
            grant
        })
    }

    /// Whoever panicked has left it as it was.
    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], TypeGrant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_not_reckoned_again_and_is_bounded() {
        let known = Known::default();
        assert_eq!(known.grant("one", |_| TypeGrant::All), TypeGrant::All);
        assert_eq!(known.grant("one", |_| unreachable!()), TypeGrant::All);
        assert_eq!(known.grant("other", |_| TypeGrant::of([])), TypeGrant::of([]));
        for n in 0..2 * MAX_KNOWN {
            known.grant(&n.to_string(), |_| TypeGrant::All);
            assert!(known.locked().len() <= MAX_KNOWN);
        }
    }
}
