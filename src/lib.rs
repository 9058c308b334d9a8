//! A FHIR store in Postgres that hands health data out in bulk: `$export`, `$export-poll-status`, `Binary/<id>`.
//!
//! One export, from left to right:
//!
//! ```text
//! kick-off ──► job row ──► plan: transactionTime + parts ──► workers: part → chunks ──► manifest ──► download ──► reaper
//! http::kick_off  export::job   export::plan, resource::clock    export::{worker,run}    export::manifest  binary::download
//! ```
//!
//! Which module may use which:
//!
//! ```text
//! main → command → server → { http, export::worker, reaper, database, telemetry, shutdown }
//! http     → export, binary, identity, fhir
//! export   → resource, binary, identity, fhir
//! resource → fhir, database
//! binary   → identity (whose a file is)
//! identity → fhir
//! config, fhir, shutdown are leaves; every module may read its own section of the configuration
//! ```

mod binary;
pub mod command;
pub mod config;
pub mod database;
mod export;
pub mod fhir;
mod http;
mod identity;
mod reaper;
pub mod resource;
mod server;
mod shutdown;
mod telemetry;
