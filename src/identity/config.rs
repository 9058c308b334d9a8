//! What the operator says about trusted issuers and registered clients, and the checks of it that need no network.

use std::net::IpAddr;
use std::path::PathBuf;

use jsonwebtoken::Algorithm;
use serde::Deserialize;
use url::{Host, Url};

use super::introspection::IntrospectionConfig;
use super::{Error, configuration};
use crate::secret::Secret;

/// The longest name of a client.
const MAX_NAME: usize = 255;

/// One issuer whose tokens are accepted (rule A27: there may be several).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IssuerConfig {
    /// The `iss` claim, exactly.
    pub(crate) issuer: String,
    /// Where the keys are: a file or a URL. Absent: found by OpenID Connect discovery.
    #[serde(default)]
    pub(crate) jwks: Option<String>,
    /// Names of this server; a token must be meant for one of them.
    pub(crate) audience: Vec<String>,
    /// How its claims become rights.
    #[serde(default)]
    pub(crate) profile: Profile,
    /// Where it is asked about tokens that say nothing by themselves (rule I23).
    #[serde(default)]
    pub(crate) introspection: Option<IntrospectionConfig>,
    /// The kinds of users let in (rule A34).
    #[serde(default = "default_user_types")]
    pub(crate) user_types: Vec<String>,
    /// The signature algorithms accepted.
    #[serde(default = "SigningAlgorithm::all")]
    pub(crate) algorithms: Vec<SigningAlgorithm>,
}

impl IssuerConfig {
    /// By which the issuer knows this server, if it is asked about tokens.
    pub(crate) fn client_secret(&self) -> Option<&Secret> {
        self.introspection.as_ref().map(|introspection| &introspection.client_secret)
    }
}

fn default_user_types() -> Vec<String> {
    vec!["SYSTEM".to_owned()]
}

/// A way of turning claims into rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Profile {
    /// By roles and kinds of users.
    #[default]
    Ehealth,
    /// By scopes.
    Smart,
}

/// One client that gets tokens of this server's own (SMART Backend Services).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientConfig {
    /// By which it calls itself.
    pub(crate) id: String,
    /// Its public keys: a JSON Web Key Set, or a file or URL where it is (rule I13).
    pub(crate) jwks: String,
    /// What it may have at most.
    pub(crate) scopes: Vec<String>,
}

/// The algorithms with which clients sign (rule I9).
pub(super) const OF_CLIENTS: [SigningAlgorithm; 2] = [SigningAlgorithm::RS384, SigningAlgorithm::ES384];

/// The signature algorithms there are. `none` and the symmetric ones cannot be named, so nothing
/// can ever accept them (RFC 8725, rule A29).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum SigningAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    ES256,
    ES384,
}

impl SigningAlgorithm {
    fn all() -> Vec<Self> {
        vec![Self::RS256, Self::RS384, Self::RS512, Self::PS256, Self::ES256, Self::ES384]
    }

    /// The algorithm a token or key names, if it is one of ours.
    pub(super) fn from_jwa(algorithm: Algorithm) -> Option<Self> {
        Self::all().into_iter().find(|ours| ours.jwa() == algorithm)
    }

    pub(super) fn jwa(self) -> Algorithm {
        match self {
            Self::RS256 => Algorithm::RS256,
            Self::RS384 => Algorithm::RS384,
            Self::RS512 => Algorithm::RS512,
            Self::PS256 => Algorithm::PS256,
            Self::ES256 => Algorithm::ES256,
            Self::ES384 => Algorithm::ES384,
        }
    }
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeySource {
    Inline(String),
    File(PathBuf),
    Jwks(Url),
    /// The discovery document of the issuer, which names the JWKS.
    Discovery {
        url: Url,
        issuer: String,
    },
}

impl KeySource {
    /// A JWKS by URL or file.
    fn at(place: &str) -> Result<Self, &'static str> {
        match place {
            "" => Err("the path is empty"),
            url if is_url(url) => safe_url(url).map(Self::Jwks),
            path => Ok(Self::File(PathBuf::from(path))),
        }
    }
}

impl ClientConfig {
    /// Refuses what cannot be meant, and says where the keys are.
    pub(super) fn check(&self) -> Result<KeySource, Error> {
        if self.id.is_empty() || self.id.len() > MAX_NAME || self.id.contains(char::is_control) {
            return Err(configuration(format!(
                "a client's id is 1 to {MAX_NAME} characters, none a control character"
            )));
        }
        match self.jwks.trim_start() {
            json if json.starts_with('{') => Ok(KeySource::Inline(json.to_owned())),
            _ => KeySource::at(&self.jwks).map_err(|problem| self.problem("jwks", problem)),
        }
    }

    pub(super) fn problem(&self, field: &str, problem: &str) -> Error {
        configuration(format!("{}: {field}: {problem}", self.name()))
    }

    /// For messages.
    pub(super) fn name(&self) -> String {
        format!("client `{}`", self.id)
    }
}

impl IssuerConfig {
    /// Refuses what cannot be meant, and says where the keys are.
    pub(super) fn check(&self) -> Result<KeySource, Error> {
        if self.issuer.is_empty() {
            return Err(configuration("an issuer's name is empty"));
        }
        refuse_empty(&self.audience).map_err(|p| self.problem("audience", p))?;
        refuse_empty(&self.user_types).map_err(|p| self.problem("user_types", p))?;
        if self.algorithms.is_empty() {
            return Err(self.problem("algorithms", "at least one is needed"));
        }
        match &self.jwks {
            None => Ok(KeySource::Discovery { url: self.discovery_url()?, issuer: self.issuer.clone() }),
            Some(place) => KeySource::at(place).map_err(|problem| self.problem("jwks", problem)),
        }
    }

    /// OpenID Connect Discovery 1.0, section 4: the well-known path is appended, after removing a
    /// final slash.
    fn discovery_url(&self) -> Result<Url, Error> {
        let base = safe_url(&self.issuer).map_err(|problem| self.problem("issuer", problem))?;
        if base.query().is_some() || base.fragment().is_some() {
            return Err(self.problem("issuer", "a query or fragment is not allowed"));
        }
        let base = self.issuer.strip_suffix('/').unwrap_or(&self.issuer);
        safe_url(&format!("{base}/.well-known/openid-configuration")).map_err(|problem| self.problem("issuer", problem))
    }

    pub(super) fn problem(&self, field: &str, problem: &str) -> Error {
        configuration(format!("{}: {field}: {problem}", self.name()))
    }

    /// For messages.
    pub(super) fn name(&self) -> String {
        format!("issuer `{}`", self.issuer)
    }
}

fn refuse_empty(values: &[String]) -> Result<(), &'static str> {
    if values.is_empty() {
        Err("at least one is needed")
    } else if values.iter().any(String::is_empty) {
        Err("an empty value is not allowed")
    } else {
        Ok(())
    }
}

fn is_url(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("http" | "https"))
}

/// A URL keys may be fetched from: whoever can change the answer can forge every token, so only
/// loopback goes without TLS. Credentials are refused because URLs are logged.
pub(super) fn safe_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "this is no absolute URL")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials in a URL are not allowed");
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        _ => Err("the URL must be https, unless its host is loopback"),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &str) -> Result<IssuerConfig, toml::de::Error> {
        toml::from_str(&format!("issuer = 'https://id.example/realms/a'\n{extra}"))
    }

    #[test]
    fn defaults() {
        let config = parse("audience = ['fhir']").unwrap();
        assert_eq!(config.profile, Profile::Ehealth);
        assert_eq!(config.user_types, ["SYSTEM"]);
        assert_eq!(config.algorithms, SigningAlgorithm::all());
        let url = "https://id.example/realms/a/.well-known/openid-configuration";
        let source = KeySource::Discovery { url: url.parse().unwrap(), issuer: config.issuer.clone() };
        assert_eq!(config.check().unwrap(), source);
    }

    #[test]
    fn what_cannot_be_parsed() {
        for extra in [
            "",
            "audience = 'fhir'",
            "audience = ['fhir']\nunknown = 1",
            "audience = ['fhir']\nalgorithms = ['HS256']",
            "audience = ['fhir']\nalgorithms = ['RS256', 'none']",
            "audience = ['fhir']\nprofile = 'other'",
        ] {
            assert!(parse(extra).is_err(), "{extra}");
        }
    }

    #[test]
    fn what_is_refused_at_construction() {
        for extra in [
            "audience = []",
            "audience = ['']",
            "audience = ['fhir']\nuser_types = []",
            "audience = ['fhir']\nalgorithms = []",
            "audience = ['fhir']\njwks = ''",
            "audience = ['fhir']\njwks = 'http://id.example/jwks'",
            "audience = ['fhir']\njwks = 'HTTP://id.example/jwks'",
            "audience = ['fhir']\njwks = 'http://localhost.example/jwks'",
            "audience = ['fhir']\njwks = 'https://user:secret@id.example/jwks'",
        ] {
            let error = parse(extra).unwrap().check().unwrap_err();
            assert!(matches!(error, Error::Configuration { .. }), "{extra}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        for issuer in ["", "a name", "http://id.example", "https://id.example?a=b", "ftp://a/b"] {
            let config = IssuerConfig { issuer: issuer.into(), ..parse("audience = ['a']").unwrap() };
            assert!(config.check().is_err(), "{issuer}");
        }
    }

    #[test]
    fn sources() {
        for (jwks, file) in [
            ("keys.json", true),
            ("/etc/keys.json", true),
            ("https://id.example/jwks", false),
            ("http://127.0.0.1:8080/jwks", false),
            ("http://[::1]/jwks", false),
            ("http://localhost:8080/jwks", false),
        ] {
            let config = parse(&format!("audience = ['fhir']\njwks = '{jwks}'")).unwrap();
            assert_eq!(matches!(config.check().unwrap(), KeySource::File(_)), file, "{jwks}");
        }
    }
}
