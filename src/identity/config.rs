//! What the operator says about one trusted issuer, and the checks of it that need no network.

use std::net::IpAddr;
use std::path::PathBuf;

use jsonwebtoken::Algorithm;
use serde::Deserialize;
use url::{Host, Url};

use super::{Error, configuration};

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
    /// The kinds of users let in (rule A34).
    #[serde(default = "default_user_types")]
    pub(crate) user_types: Vec<String>,
    /// The signature algorithms accepted.
    #[serde(default = "SigningAlgorithm::all")]
    pub(crate) algorithms: Vec<SigningAlgorithm>,
}

fn default_user_types() -> Vec<String> {
    vec!["SYSTEM".to_owned()]
}

/// A way of turning claims into rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Profile {
    #[default]
    Ehealth,
}

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

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeySource {
    File(PathBuf),
    Jwks(Url),
    /// The discovery document, which names the JWKS.
    Discovery(Url),
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
            None => self.discovery_url().map(KeySource::Discovery),
            Some(jwks) if is_url(jwks) => {
                safe_url(jwks).map(KeySource::Jwks).map_err(|problem| self.problem("jwks", problem))
            }
            Some(path) if path.is_empty() => Err(self.problem("jwks", "the path is empty")),
            Some(path) => Ok(KeySource::File(PathBuf::from(path))),
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

    fn problem(&self, field: &str, problem: &str) -> Error {
        configuration(format!("issuer `{}`: {field}: {problem}", self.issuer))
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
        assert_eq!(config.check().unwrap(), KeySource::Discovery(url.parse().unwrap()));
    }

    #[test]
    fn what_cannot_be_parsed() {
        for extra in [
            "",
            "audience = 'fhir'",
            "audience = ['fhir']\nunknown = 1",
            "audience = ['fhir']\nalgorithms = ['HS256']",
            "audience = ['fhir']\nalgorithms = ['RS256', 'none']",
            "audience = ['fhir']\nprofile = 'smart'",
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
