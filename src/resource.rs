//! The versioned store. Every row of `resource` is one version, valid from `last_updated` until `superseded_at`;
//! the state at an instant is a predicate over these two, whoever asks and whenever.

pub(crate) mod associated;
pub mod body;
pub(crate) mod clock;
pub(crate) mod cohort;
pub(crate) mod compartment;
pub(crate) mod erase;
pub(crate) mod group;
pub(crate) mod index;
pub mod load;
mod narrow;
pub(crate) mod prune;
pub(crate) mod read;
pub(crate) mod sample;
pub mod write;
