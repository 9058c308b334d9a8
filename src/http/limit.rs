//! How much of the server one client may use: polls of a job, downloads at once, and headers. These limits are kept by
//! each process for itself; those of exports are in the ledger (`export::admission`).

mod polls;

pub(crate) use polls::Polls;
