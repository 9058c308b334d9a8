//! Downloads under way in this process: so many of one owner, so many in all. One counts from its answer until its
//! stream is dropped, which happens however it ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Stream, StreamExt};

use crate::config;
use crate::identity::Owner;

/// Who downloads how much at once.
pub(crate) struct Downloads {
    most_of_owner: usize,
    most: usize,
    /// No owner without a download.
    under_way: Mutex<HashMap<Owner, usize>>,
}

/// Why a download cannot begin.
#[derive(Debug, thiserror::Error)]
pub(in crate::http) enum TooMany {
    #[error("you have {0} under way, which is the limit; wait until one has ended")]
    OfOwner(usize),
    #[error("{0} are under way, which is the limit of this server; try again later")]
    InAll(usize),
}

/// A download that counts, until this is dropped.
pub(in crate::http) struct UnderWay {
    downloads: Arc<Downloads>,
    owner: Owner,
}

impl Downloads {
    pub(crate) fn new(config: &config::Http) -> Arc<Self> {
        Arc::new(Self {
            most_of_owner: config.max_downloads_per_owner,
            most: config.max_downloads,
            under_way: Mutex::default(),
        })
    }

    /// Counts one more of this owner, if there may be one more.
    pub(in crate::http) fn begin(self: &Arc<Self>, owner: &Owner) -> Result<UnderWay, TooMany> {
        // What a panic left behind is no worse than what was there.
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.get(owner).is_some_and(|of_owner| *of_owner >= self.most_of_owner) {
            return Err(TooMany::OfOwner(self.most_of_owner));
        }
        if under_way.values().sum::<usize>() >= self.most {
            return Err(TooMany::InAll(self.most));
        }
        *under_way.entry(owner.clone()).or_default() += 1;
        Ok(UnderWay { downloads: Arc::clone(self), owner: owner.clone() })
    }
}

impl UnderWay {
    /// What is downloaded: it counts for as long as this stream is there.
    pub(in crate::http) fn counting<S: Stream>(self, stream: S) -> impl Stream<Item = S::Item> {
        stream.inspect(move |_| {
            let _counts = &self;
        })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut under_way = self.downloads.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_owner) = under_way.get_mut(&self.owner) {
            *of_owner -= 1;
            if *of_owner == 0 {
                under_way.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(subject: &str) -> Owner {
        Owner { issuer: "https://issuer.example".to_owned(), subject: subject.to_owned() }
    }

    #[tokio::test]
    async fn one_counts_until_its_stream_is_gone() {
        let downloads = Arc::new(Downloads { most_of_owner: 2, most: 3, under_way: Mutex::default() });
        let first = downloads.begin(&owner("alice")).unwrap().counting(futures_util::stream::iter([1, 2]));
        let second = downloads.begin(&owner("alice")).unwrap();
        assert!(matches!(downloads.begin(&owner("alice")), Err(TooMany::OfOwner(2))));
        let third = downloads.begin(&owner("bob")).unwrap();
        assert!(matches!(downloads.begin(&owner("carol")), Err(TooMany::InAll(3))));
        assert_eq!(first.collect::<Vec<_>>().await, [1, 2]);
        drop(third);
        assert_eq!(downloads.under_way.lock().unwrap().len(), 1);
        drop(second);
        assert!(downloads.under_way.lock().unwrap().is_empty());
        downloads.begin(&owner("alice")).unwrap();
    }
}
