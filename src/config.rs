//! Configuration: `config/default.toml`, then the file given with `--config`, then `BULK_EXPORT__SECTION__KEY` and
//! `DATABASE_URL` from the environment. The only module that reads the environment.

mod layers;
mod network;
mod size;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use url::Url;

use crate::fhir::compartment;
use crate::fhir::resource_type::ResourceType;
use crate::identity::{ClientConfig, IssuerConfig};
use crate::secret::{self, Secret};
pub use network::Network;
pub use size::ByteSize;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file given with `--config` cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A layer is not TOML.
    #[error("{layer} is not valid TOML: {message}")]
    Syntax {
        /// Which layer.
        layer: String,
        /// What is wrong with it.
        message: String,
    },
    /// A key is unknown, or its value is not what it should be.
    #[error("{layer}: {path}: {message}")]
    Value {
        /// The layer the value came from.
        layer: String,
        /// The key, `section.key`.
        path: String,
        /// What is wrong with it.
        message: String,
    },
    /// Values that do not go together; all of them.
    #[error("the configuration does not hold together:\n  {}", .0.join("\n  "))]
    Invalid(Vec<String>),
}

/// The whole configuration. Every key is described in `config/default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Config {
    pub http: Http,
    pub operator: Operator,
    pub database: Database,
    pub export: Export,
    pub retention: Retention,
    pub wire: Wire,
    pub store: Store,
    pub group: Group,
    pub(crate) include: Include,
    pub(crate) auth: Auth,
    pub log: Log,
}

/// `[http]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Http {
    pub listen: SocketAddr,
    #[serde(deserialize_with = "unless_empty")]
    pub public_base_url: Option<Url>,
    pub max_connections: usize,
    pub max_downloads: usize,
    pub max_downloads_per_owner: usize,
    pub max_body: ByteSize,
    pub max_headers: ByteSize,
    pub cors_origins: Vec<String>,
    pub trusted_proxies: Vec<Network>,
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub shutdown_grace: Duration,
    pub tls: Tls,
}

/// `[http.tls]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Tls {
    #[serde(deserialize_with = "unless_empty")]
    pub certificate: Option<PathBuf>,
    #[serde(deserialize_with = "unless_empty")]
    pub key: Option<PathBuf>,
}

impl Tls {
    /// The files of the certificate and its key; none where TLS is not spoken.
    pub(crate) fn files(&self) -> Option<(&Path, &Path)> {
        self.certificate.as_deref().zip(self.key.as_deref())
    }
}

/// `[operator]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Operator {
    pub listen: SocketAddr,
}

/// `[database]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Database {
    pub url: Secret,
    pub max_connections: u32,
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    pub reserve: ByteSize,
    #[serde(deserialize_with = "unless_empty")]
    pub disk_path: Option<PathBuf>,
    #[serde(deserialize_with = "unless_empty")]
    pub disk_size: Option<ByteSize>,
}

/// `[export]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Export {
    pub workers: u16,
    #[serde(deserialize_with = "unless_empty")]
    pub pace: Option<ByteSize>,
    pub file_target: ByteSize,
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    pub attempts: u16,
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    #[serde(with = "humantime_serde")]
    pub fallback_poll: Duration,
    pub max_running_per_owner: u32,
    pub max_running: u32,
    pub max_queued: u32,
}

/// `[retention]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Retention {
    #[serde(with = "humantime_serde")]
    pub files: Duration,
    #[serde(with = "humantime_serde")]
    pub download_grace: Duration,
    #[serde(with = "humantime_serde")]
    pub history: Duration,
    #[serde(with = "humantime_serde")]
    pub sweep: Duration,
}

/// `[wire]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wire {
    dialect: Dialect,
    #[serde(deserialize_with = "unless_empty")]
    progress: Option<Progress>,
    #[serde(deserialize_with = "unless_empty")]
    delete_completed: Option<DeleteCompleted>,
}

impl Wire {
    /// How the manifest looks.
    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What `X-Progress` says.
    pub(crate) fn progress(&self) -> Progress {
        self.progress.unwrap_or(match self.dialect {
            Dialect::Stu3 | Dialect::Stu4 => Progress::Percent,
            Dialect::Ehealth => Progress::Hapi,
        })
    }

    /// What DELETE of a completed job does (rule K3).
    pub(crate) fn delete_completed(&self) -> DeleteCompleted {
        self.delete_completed.unwrap_or(match self.dialect {
            Dialect::Stu3 | Dialect::Stu4 => DeleteCompleted::Purge,
            Dialect::Ehealth => DeleteCompleted::Ehealth,
        })
    }
}

/// The variant of the protocol: the manifest (rules E), and the other defaults of `[wire]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dialect {
    /// STU2 reads it, too.
    Stu3,
    Stu4,
    Ehealth,
}

/// What `X-Progress` says while a job runs (rules C2, C3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Progress {
    Percent,
    Hapi,
}

/// What DELETE of a completed job does (rule K3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DeleteCompleted {
    Purge,
    Ehealth,
}

/// `[group]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Group {
    pub new_members_full_history: bool,
}

/// `[store]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Store {
    pub patient_bases: Vec<String>,
    pub max_resource: ByteSize,
    pub max_document: ByteSize,
}

/// `[include]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Include {
    pub(crate) referenced: BTreeSet<ResourceType>,
}

/// `[auth]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Auth {
    pub(crate) mode: AuthMode,
    pub(crate) allow_anonymous_on_any_address: bool,
    #[serde(with = "humantime_serde")]
    pub(crate) leeway: Duration,
    pub(crate) issuers: Vec<IssuerConfig>,
    pub(crate) clients: Vec<ClientConfig>,
}

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AuthMode {
    None,
    Token,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Log {
    pub filter: String,
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub enum LogFormat {
    Text,
    Json,
}

impl Config {
    /// Reads all layers and checks that they hold together.
    ///
    /// # Errors
    /// When a layer cannot be read, a key is unknown or has a bad value, or values contradict each other.
    pub fn load(file: Option<&Path>) -> Result<Self, Error> {
        let config = layers::read(file)?;
        config.validate()?;
        Ok(config)
    }

    /// The configured database, if there is one; else a private Postgres is meant.
    pub(crate) fn database_url(&self) -> Option<&str> {
        Some(self.database.url.expose()).filter(|url| !url.is_empty())
    }

    /// Files with secrets that every user of the machine can read. Not refused: a volume of Kubernetes is so by itself.
    pub(crate) fn exposed_files(&self) -> impl Iterator<Item = &Path> {
        let own = [self.database.url.file(), self.http.tls.key.as_deref()];
        let of_issuers = self.auth.issuers.iter().map(|issuer| issuer.client_secret()?.file());
        own.into_iter().chain(of_issuers).flatten().filter(|file| secret::is_readable_by_all(file))
    }

    fn validate(&self) -> Result<(), Error> {
        let mut problems = Vec::new();
        let mut refuse = |wrong: bool, message: &str| {
            if wrong {
                problems.push(message.to_owned());
            }
        };
        let (export, retention) = (&self.export, &self.retention);
        refuse(export.workers == 0, "export.workers must be at least 1");
        refuse(export.attempts == 0, "export.attempts must be at least 1");
        refuse(export.deadline < Duration::from_secs(1), "export.deadline must be at least 1s");
        refuse(export.file_target.bytes() == 0, "export.file_target must be more than 0");
        refuse(export.lease < Duration::from_secs(1), "export.lease must be at least 1s");
        refuse(export.max_running == 0, "export.max_running must be at least 1");
        refuse(export.max_running_per_owner == 0, "export.max_running_per_owner must be at least 1");
        refuse(retention.files.is_zero(), "retention.files must be more than 0");
        refuse(retention.sweep < Duration::from_millis(100), "retention.sweep must be at least 100ms");
        refuse(self.http.max_connections == 0, "http.max_connections must be at least 1");
        refuse(self.http.max_downloads == 0, "http.max_downloads must be at least 1");
        refuse(self.http.max_downloads_per_owner == 0, "http.max_downloads_per_owner must be at least 1");
        refuse(self.http.max_headers.bytes() < 1 << 10, "http.max_headers must be at least 1KiB");
        refuse(
            self.http.tls.certificate.is_some() != self.http.tls.key.is_some(),
            "http.tls.certificate and http.tls.key go together: set both, or neither",
        );
        refuse(self.database.max_connections < 2, "database.max_connections must be at least 2");
        refuse(self.auth.leeway > Duration::from_secs(60), "auth.leeway must be at most 60s");
        refuse(
            self.auth.mode == AuthMode::Token && self.auth.issuers.is_empty() && self.auth.clients.is_empty(),
            "auth.mode is \"token\", but there is neither [[auth.issuers]] nor [[auth.clients]]",
        );
        refuse(
            self.auth.mode == AuthMode::None && !(self.auth.issuers.is_empty() && self.auth.clients.is_empty()),
            "auth.mode is \"none\", so anybody could export everything, yet there are [[auth.issuers]] or \
             [[auth.clients]]: set auth.mode = \"token\"",
        );
        refuse(
            self.auth.mode == AuthMode::None
                && !self.http.trusted_proxies.is_empty()
                && !self.auth.allow_anonymous_on_any_address,
            "auth.mode is \"none\" and there are http.trusted_proxies, through which anybody could export everything: set \
             auth.mode = \"token\", or auth.allow_anonymous_on_any_address = true if that is meant",
        );
        refuse(
            self.auth.mode == AuthMode::None
                && !self.http.listen.ip().is_loopback()
                && !self.auth.allow_anonymous_on_any_address,
            "auth.mode is \"none\" and http.listen is not a loopback address, so anybody could export \
             everything: set auth.mode = \"token\", or auth.allow_anonymous_on_any_address = true if that is meant",
        );
        for origin in &self.http.cors_origins {
            refuse(
                !is_origin(origin),
                &format!("http.cors_origins: {origin:?} is no origin, which is scheme://host[:port] or \"*\""),
            );
        }
        for referenced in &self.include.referenced {
            refuse(!referenced.is_exportable(), &format!("include.referenced: {referenced} is never exported"));
            refuse(
                compartment::paths(*referenced).is_some(),
                &format!(
                    "include.referenced: {referenced} is in the Patient compartment, by which it comes; only types \
                     outside of it can be listed, such as Practitioner"
                ),
            );
        }
        if let Some(url) = &self.http.public_base_url {
            refuse(
                !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.fragment().is_some(),
                "http.public_base_url must be an http or https URL without query and fragment",
            );
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::Invalid(problems)) }
    }
}

/// Written as a browser writes it, for it is compared byte by byte.
fn is_origin(text: &str) -> bool {
    text == "*" || Url::parse(text).is_ok_and(|url| url.origin().ascii_serialization() == text)
}

/// Reads a value that may be the empty string, which stands for "not set": TOML has no null.
fn unless_empty<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let value = toml::Value::deserialize(deserializer)?;
    if value.as_str() == Some("") {
        return Ok(None);
    }
    T::deserialize(value).map(Some).map_err(|error| serde::de::Error::custom(error.message()))
}
