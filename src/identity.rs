//! Who calls, and what they may do: everything else asks the [`Principal`], never the token
//! (DESIGN.md, section 6).
//!
//! Owns authentication: `auth.mode = "none"` (one anonymous owner) and bearer tokens (RFC 6750) of
//! any number of OpenID Connect issuers (rules A27 to A35, I1 to I3). [`token`] verifies,
//! [`key_cache`] keeps the keys, [`ehealth`] and [`smart`] turn claims into rights, [`introspection`]
//! asks about tokens that say nothing by themselves.
//!
//! The server is an issuer, too ([`backend`]): [`client`]s prove who they are by an [`assertion`],
//! good once ([`replay`]), and get tokens with keys of its own ([`signing`]) for [`scope`]s.
//!
//! Neither tokens nor subjects nor claims are ever logged or shown by `Debug`; errors carry fixed
//! texts only.

mod assertion;
mod backend;
mod client;
mod config;
mod ehealth;
mod fetch;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
mod grant;
mod introspection;
mod key_cache;
mod keys;
mod known;
mod replay;
mod scope;
mod signing;
mod smart;
mod source;
#[cfg(test)]
mod testing;
mod token;
mod turns;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::PgPool;

use crate::fhir::resource_type::ResourceType;
use crate::search::Query;
use config::Profile;
use introspection::Introspection;
use key_cache::{KeyCache, Pace};
use keys::KeySet;
use known::Known;
use source::Source;
use token::{Acceptance, Unverified};

pub(crate) use backend::{AccessToken, Backend, Denied, Refusal, Wish};
pub(crate) use config::{ClientConfig, IssuerConfig};

/// The widest tolerance for clocks that differ (rule I2).
const MAX_LEEWAY: Duration = Duration::from_secs(60);

/// To whom a job and its files belong: the issuer and its name for the user, as two issuers may use
/// the same name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    pub(crate) issuer: String,
    pub(crate) subject: String,
}

impl Owner {
    /// By the first of these names that there is.
    fn named<const N: usize>(issuer: String, names: [Option<String>; N]) -> Result<Self, Error> {
        let mut names = names.into_iter().flatten().filter(|name| !name.is_empty());
        let subject = names.next().ok_or(token::invalid("it names no user"))?;
        if subject.contains(char::is_control) {
            return Err(token::invalid("the name of its user has control characters"));
        }
        Ok(Self { issuer, subject })
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// What of the store a caller may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TypeGrant {
    All,
    Only(BTreeMap<ResourceType, Extent>),
}

/// How much of a type that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    Whole,
    /// What matches one of these queries, which are of the type (rule I20).
    Matching(Vec<Query>),
}

impl TypeGrant {
    /// The whole of these types.
    pub(crate) fn of(types: impl IntoIterator<Item = ResourceType>) -> Self {
        Self::Only(types.into_iter().map(|granted| (granted, Extent::Whole)).collect())
    }

    /// Whether resources of this type may be handed to the caller, all or some.
    pub(crate) fn allows(&self, resource_type: ResourceType) -> bool {
        match self {
            Self::All => true,
            Self::Only(types) => types.contains_key(&resource_type),
        }
    }

    /// What those that may must match, one of these; nothing if all may.
    pub(crate) fn limits(&self, resource_type: ResourceType) -> &[Query] {
        match self {
            Self::Only(types) => match types.get(&resource_type) {
                Some(Extent::Matching(queries)) => queries,
                Some(Extent::Whole) | None => &[],
            },
            Self::All => &[],
        }
    }

    /// Whether all resources of this type may be handed to the caller.
    pub(crate) fn allows_all(&self, resource_type: ResourceType) -> bool {
        self.allows(resource_type) && self.limits(resource_type).is_empty()
    }

    /// Whether what came out under these limits of this type, none for the whole, may be handed to the caller (rule I5):
    /// whoever may have more now may have that, too.
    pub(crate) fn covers(&self, resource_type: ResourceType, limits: &[&Query]) -> bool {
        let now = self.limits(resource_type);
        let is_within = !limits.is_empty() && grant::are_within(limits, now);
        self.allows(resource_type) && (now.is_empty() || is_within)
    }
}

/// A caller, with the rights of the token of this very request (rule I5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    pub(crate) owner: Owner,
    /// The program that calls for the owner, if the token names it.
    pub(crate) client: Option<String>,
    pub(crate) may_export: bool,
    pub(crate) may_read_files: bool,
    pub(crate) types: TypeGrant,
}

impl Principal {
    fn anonymous() -> Self {
        Self {
            owner: Owner { issuer: String::new(), subject: "anonymous".to_owned() },
            client: None,
            may_export: true,
            may_read_files: true,
            types: TypeGrant::All,
        }
    }

    /// By scopes: whoever is granted anything may export it, and read the files. The owner is the client itself.
    fn granted(owner: Owner, types: TypeGrant) -> Self {
        let may = !types.is_nothing();
        let client = Some(owner.subject.clone());
        Self { owner, client, may_export: may, may_read_files: may, types }
    }
}

/// Why a caller is not let in. No text holds any part of a token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// 401, without an error code in the challenge (RFC 6750, section 3.1).
    #[error("a bearer token is required")]
    NoToken,
    /// 401 `invalid_token`.
    #[error("the bearer token is not accepted: {reason}")]
    InvalidToken { reason: &'static str },
    /// 401 `invalid_token`.
    #[error("the bearer token has expired")]
    Expired,
    /// 403: a good token, but of a kind of user who may not use this server.
    #[error("this kind of user may not use this server")]
    NotAllowed,
    /// 503: what tokens of an issuer are judged by cannot be had.
    #[error("{what} cannot be had")]
    Unavailable { what: String },
    /// 503
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// At start only.
    #[error("auth: {problem}")]
    Configuration { problem: String },
}

/// Turns the `Authorization` header of a request into its [`Principal`]. Built once, at start.
pub(crate) struct Authenticator(Mode);

enum Mode {
    Anonymous,
    Token(Box<Trust>),
}

/// Whose tokens are accepted.
struct Trust {
    /// By `iss`, exactly as written.
    issuers: HashMap<String, Trusted>,
    /// The server itself, if clients are registered.
    backend: Option<Backend>,
}

/// An issuer whose tokens are accepted.
struct Trusted {
    config: IssuerConfig,
    acceptance: Acceptance,
    keys: KeyCache,
    introspection: Option<Introspection>,
    known: Known,
}

impl Authenticator {
    /// `auth.mode = "none"`: every caller is the same owner and may do everything, whatever header
    /// is sent.
    pub(crate) fn anonymous() -> Self {
        Self(Mode::Anonymous)
    }

    /// `auth.mode = "token"`: bearer tokens of these issuers. Reads key files, but asks nothing of
    /// the network.
    pub(crate) fn token(issuers: Vec<IssuerConfig>, leeway: Duration) -> Result<Self, Error> {
        if leeway > MAX_LEEWAY {
            return Err(configuration("the leeway may be 60 seconds at most"));
        }
        let mut trusted = HashMap::with_capacity(issuers.len());
        for config in issuers {
            let name = config.issuer.clone();
            if config.introspection.is_some() && trusted.values().any(|other: &Trusted| other.introspection.is_some()) {
                // An opaque token does not say whose it is, and whoever is asked can use it.
                return Err(configuration("only one issuer may have introspection: an opaque token names none"));
            }
            if trusted.insert(name.clone(), Trusted::new(config, leeway)?).is_some() {
                return Err(configuration(format!("issuer `{name}` is configured twice")));
            }
        }
        Ok(Self(Mode::Token(Box::new(Trust { issuers: trusted, backend: None }))))
    }

    /// Besides, tokens that the server at this FHIR base issues to these clients itself; there may be none.
    pub(crate) fn and_clients(
        mut self,
        clients: Vec<ClientConfig>,
        base: &str,
        pool: &PgPool,
        leeway: Duration,
    ) -> Result<Self, Error> {
        let Mode::Token(trust) = &mut self.0 else { return Ok(self) };
        if clients.is_empty() {
            return Ok(self);
        }
        let backend = Backend::new(clients, base, pool.clone(), leeway)?;
        if trust.issuers.contains_key(backend.issuer()) {
            return Err(configuration(format!("issuer `{}` is the server itself", backend.issuer())));
        }
        trust.backend = Some(backend);
        Ok(self)
    }

    /// Who sent this `Authorization` header.
    pub(crate) async fn authenticate(&self, authorization: Option<&str>) -> Result<Principal, Error> {
        let Mode::Token(trust) = &self.0 else {
            return Ok(Principal::anonymous());
        };
        let raw = token::bearer(authorization)?;
        if token::is_jwt(raw) { trust.authenticate(&Unverified::read(raw)?).await } else { trust.introspect(raw).await }
    }

    /// What gives tokens to registered clients, if there are any.
    pub(crate) fn backend(&self) -> Option<&Backend> {
        match &self.0 {
            Mode::Token(trust) => trust.backend.as_ref(),
            Mode::Anonymous => None,
        }
    }

    /// Whether callers must bring a token.
    pub(crate) fn requires_token(&self) -> bool {
        matches!(self.0, Mode::Token(_))
    }
}

impl Trust {
    async fn authenticate(&self, token: &Unverified<'_>) -> Result<Principal, Error> {
        if let Some(backend) = self.backend.as_ref().filter(|backend| backend.issuer() == token.issuer) {
            return backend.authenticate(token).await;
        }
        let issuer = self.issuers.get(&token.issuer).ok_or(token::invalid("its issuer is not trusted here"))?;
        issuer.authenticate(token).await
    }

    /// Asks the issuer that can be asked (rule I23).
    async fn introspect(&self, token: &str) -> Result<Principal, Error> {
        let asked = self.issuers.values().find_map(|issuer| Some((issuer, issuer.introspection.as_ref()?)));
        let (issuer, introspection) = asked.ok_or(token::invalid("it cannot be read"))?;
        if !token::may_be_opaque(token) {
            return Err(token::invalid("it cannot be read"));
        }
        introspection.principal(token, |claims| issuer.principal_of(claims)).await
    }
}

impl Trusted {
    fn new(config: IssuerConfig, leeway: Duration) -> Result<Self, Error> {
        let source = Source::new(config.check()?, KeySet::of_issuer)?;
        let keys = KeyCache::new(config.name(), source, Pace::OF_ISSUERS)?;
        let acceptance = Acceptance::new(&config.issuer, &config.audience, &config.algorithms, leeway);
        let introspection = match &config.introspection {
            Some(settings) => {
                let url = settings.check().map_err(|problem| config.problem("introspection", problem))?;
                Some(Introspection::new(settings, url, &config, leeway)?)
            }
            None => None,
        };
        Ok(Self { acceptance, config, keys, introspection, known: Known::default() })
    }

    async fn authenticate(&self, token: &Unverified<'_>) -> Result<Principal, Error> {
        let algorithm = self.acceptance.algorithm(token)?;
        let key = self.keys.key(token.key_id.as_deref(), algorithm).await?;
        match self.config.profile {
            Profile::Ehealth => {
                let claims: ehealth::Claims = self.acceptance.verify(token, algorithm, &key)?;
                claims.into_principal(&self.config.user_types)
            }
            Profile::Smart => {
                let claims: smart::Claims = self.acceptance.verify(token, algorithm, &key)?;
                claims.into_principal(&self.known)
            }
        }
    }

    /// By what the issuer itself has said of a token, and need not say that it is the issuer.
    fn principal_of(&self, mut claims: introspection::Claims) -> Result<Principal, Error> {
        fn read<C: DeserializeOwned>(claims: introspection::Claims) -> Result<C, Error> {
            serde_json::from_value(Value::Object(claims)).map_err(|_| token::invalid("its claims cannot be read"))
        }
        claims.insert("iss".to_owned(), Value::from(self.config.issuer.as_str()));
        match self.config.profile {
            Profile::Ehealth => read::<ehealth::Claims>(claims)?.into_principal(&self.config.user_types),
            Profile::Smart => read::<smart::Claims>(claims)?.into_principal(&self.known),
        }
    }
}

/// Removes what of tokens and assertions is past its time.
pub(crate) async fn forget(pool: &PgPool) -> Result<(), sqlx::Error> {
    replay::forget(pool).await?;
    signing::forget(pool).await
}

fn configuration(problem: impl Into<String>) -> Error {
    Error::Configuration { problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::testing::{self, Key, claims};
    use super::*;

    #[tokio::test]
    async fn anonymous_ignores_any_header() {
        let authenticator = Authenticator::anonymous();
        assert!(!authenticator.requires_token());
        for header in [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Bearer x.y.z")] {
            let principal = authenticator.authenticate(header).await.unwrap();
            assert_eq!(principal.owner.issuer, "");
            assert_eq!(principal.owner.subject, "anonymous");
            assert!(principal.may_export && principal.may_read_files);
            assert!(principal.types.allows(ResourceType::PATIENT));
        }
    }

    #[tokio::test]
    async fn one_subject_at_two_issuers_is_two_owners() {
        let (first, second) = (Key::es256("one"), Key::es256("two"));
        let (first_file, second_file) = (testing::file(&[&first]), testing::file(&[&second]));
        let authenticator = Authenticator::token(
            vec![
                testing::config("https://first.example", Some(&first_file)),
                testing::config("https://second.example", Some(&second_file)),
            ],
            MAX_LEEWAY,
        )
        .unwrap();
        assert!(authenticator.requires_token());
        let mut owners = Vec::new();
        for (key, issuer) in [(&first, "https://first.example"), (&second, "https://second.example")] {
            let header = format!("bEARER {}", key.token(&claims(issuer)));
            owners.push(authenticator.authenticate(Some(&header)).await.unwrap().owner);
        }
        assert_eq!(owners[0].subject, owners[1].subject);
        assert_ne!(owners[0], owners[1]);
        // One issuer's key does not vouch for the other.
        let header = format!("Bearer {}", first.token(&claims("https://second.example")));
        assert!(matches!(authenticator.authenticate(Some(&header)).await, Err(Error::InvalidToken { .. })));
    }

    // I5, I20
    #[test]
    fn a_limited_right_covers_what_was_exported_within_it() {
        let query = |text| Query::parse(text).unwrap();
        let (final_ones, amended) = (query("Observation?status=final"), query("Observation?status=amended"));
        let final_labs = query("Observation?category=lab&status=final");
        let lab_finals = query("Observation?status=final&category=lab");
        let observation = ResourceType::parse("Observation").unwrap();
        let grant = |queries: &[&Query]| {
            let extent = Extent::Matching(queries.iter().copied().cloned().collect());
            TypeGrant::Only([(observation, extent)].into())
        };
        let whole = TypeGrant::of([observation]);
        for (granted, limits, is_covered) in [
            (&whole, vec![], true),
            (&whole, vec![&final_ones], true),
            (&TypeGrant::All, vec![], true),
            (&grant(&[&final_ones]), vec![&final_ones], true),
            (&grant(&[&final_ones]), vec![&final_labs], true),
            (&grant(&[&final_ones]), vec![&final_labs, &final_ones], true),
            (&grant(&[&lab_finals]), vec![&final_labs], true),
            (&grant(&[&final_labs]), vec![&final_ones], false),
            (&grant(&[&amended]), vec![&final_labs], false),
            (&grant(&[&final_ones, &amended]), vec![&final_ones], true),
            (&grant(&[&final_ones]), vec![&final_ones, &amended], false),
            (&grant(&[&final_ones]), vec![], false),
            (&TypeGrant::of([]), vec![&final_ones], false),
        ] {
            assert_eq!(granted.covers(observation, &limits), is_covered, "{granted:?} {limits:?}");
        }
        assert!(!whole.covers(ResourceType::PATIENT, &[]));
        assert!(whole.allows_all(observation) && !grant(&[&amended]).allows_all(observation));
    }

    #[test]
    fn debug_keeps_the_subject_secret() {
        let shown = format!("{:?}", Principal::anonymous());
        assert!(!shown.contains("anonymous"), "{shown}");
    }

    // I23: a token is shown to nobody but its issuer
    #[test]
    fn one_issuer_at_most_is_asked_about_tokens() {
        let file = testing::file(&[&Key::es256("one")]);
        let config = |issuer: &str| IssuerConfig {
            introspection: serde_json::from_value(serde_json::json!({
                "url": "https://id.example/introspect", "client_id": "bulk", "client_secret": "secret"
            }))
            .unwrap(),
            ..testing::config(issuer, Some(&file))
        };
        let first = config("https://first.example");
        let second = config("https://second.example");
        let third = IssuerConfig { introspection: None, ..config("https://third.example") };
        assert!(Authenticator::token(vec![first.clone(), third], MAX_LEEWAY).is_ok());
        let error = Authenticator::token(vec![first, second], MAX_LEEWAY).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("only one issuer may have introspection"), "{error}");
    }

    #[test]
    fn configuration_is_checked_at_start() {
        let file = testing::file(&[&Key::es256("one")]);
        let config = || testing::config("https://first.example", Some(&file));
        for (issuers, leeway) in
            [(vec![config(), config()], MAX_LEEWAY), (vec![config()], MAX_LEEWAY + Duration::from_secs(1))]
        {
            assert!(matches!(Authenticator::token(issuers, leeway), Err(Error::Configuration { .. })));
        }
    }
}
