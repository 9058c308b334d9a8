//! Downloads under way in this process: so many of one owner, so many in all. One counts from its answer until its
//! stream is dropped, which happens however it ends. And of one file only so many in a time: each is written down for ever.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt};

use super::rate::Rate;
use crate::config;
use crate::identity::Owner;

/// Downloads of a file that its owner may begin at once: enough for one that is fetched range by range …
const AT_ONCE: u32 = 500;
/// … and one more each time so much has passed.
const EVERY: Duration = Duration::from_millis(100);

/// Who downloads how much at once.
pub(crate) struct Downloads {
    most_of_owner: usize,
    most: usize,
    /// No owner without a download.
    under_way: Mutex<HashMap<Owner, usize>>,
    /// Of each file by each owner.
    begun: Rate<(Owner, String)>,
}

/// Why a download cannot begin.
#[derive(Debug, thiserror::Error)]
pub(in crate::http) enum TooMany {
    #[error("you have {0} under way, which is the limit; wait until one has ended")]
    OfOwner(usize),
    #[error("{0} are under way, which is the limit of this server; try again later")]
    InAll(usize),
    #[error("you begin downloads of this file too often; wait as long as Retry-After says")]
    OfFile,
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
            begun: Rate::new(AT_ONCE, EVERY),
        })
    }

    /// Counts one more of this owner and this file of theirs, if there may be one more.
    pub(in crate::http) fn begin(self: &Arc<Self>, owner: &Owner, file: &str) -> Result<UnderWay, TooMany> {
        // What a panic left behind is no worse than what was there.
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.get(owner).is_some_and(|of_owner| *of_owner >= self.most_of_owner) {
            return Err(TooMany::OfOwner(self.most_of_owner));
        }
        if under_way.values().sum::<usize>() >= self.most {
            return Err(TooMany::InAll(self.most));
        }
        if !self.begun.allow((owner.clone(), file.to_owned())) {
            return Err(TooMany::OfFile);
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
        let downloads =
            Arc::new(Downloads { most_of_owner: 2, most: 3, under_way: Mutex::default(), begun: Rate::new(9, EVERY) });
        let first = downloads.begin(&owner("alice"), "f").unwrap().counting(futures_util::stream::iter([1, 2]));
        let second = downloads.begin(&owner("alice"), "f").unwrap();
        assert!(matches!(downloads.begin(&owner("alice"), "f"), Err(TooMany::OfOwner(2))));
        let third = downloads.begin(&owner("bob"), "f").unwrap();
        assert!(matches!(downloads.begin(&owner("carol"), "f"), Err(TooMany::InAll(3))));
        assert_eq!(first.collect::<Vec<_>>().await, [1, 2]);
        drop(third);
        assert_eq!(downloads.under_way.lock().unwrap().len(), 1);
        drop(second);
        assert!(downloads.under_way.lock().unwrap().is_empty());
        downloads.begin(&owner("alice"), "f").unwrap();
    }

    #[tokio::test]
    async fn of_one_file_so_many_begin_in_a_time() {
        let begun = Rate::new(3, Duration::from_secs(3_600));
        let downloads = Arc::new(Downloads { most_of_owner: 2, most: 3, under_way: Mutex::default(), begun });
        for _ in 0..3 {
            downloads.begin(&owner("alice"), "f").unwrap();
        }
        assert!(matches!(downloads.begin(&owner("alice"), "f"), Err(TooMany::OfFile)));
        downloads.begin(&owner("alice"), "g").unwrap();
        assert_eq!(downloads.under_way.lock().unwrap().len(), 0);
    }
}
