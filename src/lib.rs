//! A FHIR store in Postgres that hands health data out in bulk: `$export`, `$export-poll-status`, `Binary/<id>`.
//!
//! One export, from left to right:
//!
//! ```text
//! kick-off ──► job row ──► plan: transactionTime + parts ──► workers: part → chunks ──► manifest ──► download ──► reaper
//! http::kick_off  export::job   export::plan, resource::clock    export::{worker,run}    export::manifest  binary::download
//! ```
//!
//! Which module may use which; a test holds the source to it:
//!
//! ```text
//! command   → server, export, erasure, binary, ledger, resource, database, telemetry, config, fhir, secret
//! server    → http, export, reaper, resource, ledger, database, identity, shutdown, config, fhir
//! http      → export, search, binary, ledger, identity, database, shutdown, config, fhir
//! reaper    → export, binary, resource, identity, config
//! erasure   → export, binary, ledger, resource, database
//! export    → resource, search, binary, ledger, identity, database, shutdown, config, fhir
//! resource  → search, database, config, fhir, json
//! search    → fhir, json
//! binary    → ledger, identity, database, fhir
//! ledger    → identity, database, fhir
//! identity  → search, fhir, secret
//! database  → config
//! telemetry → config
//! config    → identity, fhir, secret
//! fuzz      → http, export, search, resource, identity, fhir, json
//! ```
//!
//! `fhir`, `json`, `secret` and `shutdown` are leaves. The configuration has the settings of issuers and clients from `identity`, which knows nothing of it.

mod binary;
pub mod command;
pub mod config;
pub mod database;
mod erasure;
mod export;
pub mod fhir;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod http;
mod identity;
mod json;
mod ledger;
mod reaper;
pub mod resource;
mod search;
pub mod secret;
mod server;
mod shutdown;
mod telemetry;

pub use http::routes;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    /// The names of modules in `crate::name` of this file and of all below this folder.
    fn used_by(path: &Path, used: &mut BTreeSet<String>) {
        if path.is_dir() {
            for entry in path.read_dir().unwrap() {
                used_by(&entry.unwrap().path(), used);
            }
        } else if let Ok(text) = std::fs::read_to_string(path) {
            let names = text.split("crate::").skip(1);
            used.extend(
                names
                    .filter_map(|rest| rest.split(|c: char| c != '_' && !c.is_ascii_lowercase()).next())
                    .map(str::to_owned),
            );
        }
    }

    #[test]
    fn modules_use_only_those_they_may() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let table: Vec<(&str, BTreeSet<&str>)> = include_str!("lib.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! ")?.split_once('→'))
            .map(|(module, uses)| (module.trim(), uses.split(',').map(str::trim).collect()))
            // The way of an export has an arrow too.
            .filter(|(module, _): &(&str, _)| module.bytes().all(|byte| byte.is_ascii_lowercase()))
            .collect();
        let modules: Vec<String> = std::fs::read_dir(&src)
            .unwrap()
            .filter_map(|entry| entry.unwrap().path().file_stem()?.to_str().map(str::to_owned))
            .collect();
        assert!(table.len() > 10 && modules.len() > 10);
        for (module, may_use) in &table {
            assert!(modules.iter().any(|name| name == module), "there is no module {module}");
            assert!(may_use.iter().all(|used| modules.iter().any(|name| name == used)), "{module} → {may_use:?}");
        }
        for module in modules.iter().filter(|name| !matches!(name.as_str(), "lib" | "main")) {
            let mut used = BTreeSet::new();
            used_by(&src.join(format!("{module}.rs")), &mut used);
            used_by(&src.join(module), &mut used);
            let may_use =
                table.iter().find(|(name, _)| name == module).map(|(_, uses)| uses.clone()).unwrap_or_default();
            let wrong: Vec<_> = used
                .iter()
                .filter(|name| *name != module && modules.contains(name) && !may_use.contains(name.as_str()))
                .collect();
            assert!(wrong.is_empty(), "{module} uses {wrong:?}: not in the table in lib.rs");
        }
    }
}
