//! The server from outside: over HTTP, against the real binary and a real Postgres. One module for each behaviour.

#![expect(clippy::unwrap_used, reason = "a test says what it expects")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes,
    unreachable_pub,
    missing_docs,
    reason = "as above"
)]

mod associated;
mod support;

mod cancel;
mod chained_filter;
mod complete;
mod conditional;
mod cors;
mod dialects;
mod disclosures;
mod download;
mod downloads_at_once;
mod drain;
mod ehealth;
mod elements;
mod erase;
mod fair_turns;
mod faults;
mod file_size;
mod fuzzed_routes;
mod governor;
mod group_level;
mod history;
mod idempotency;
mod input_limits;
mod introspection;
mod kick_off;
mod limited_scopes;
mod load;
mod long_resources;
mod metadata;
mod migration;
mod notification;
mod operator;
mod organized;
mod ownership;
mod partial_manifests;
mod patient_level;
mod poll_status;
mod polling_too_often;
mod pool;
mod push_down;
mod range;
mod referenced;
mod response_headers;
mod retention;
mod roles;
mod route_table;
mod search_cross_check;
mod secrets;
mod separate_status;
mod since;
mod smart_configuration;
mod smart_scopes;
mod time_travel;
mod tls;
mod token_endpoint;
mod tokens;
mod type_filter;
mod volume;
mod waiting_poll;
mod workers;
