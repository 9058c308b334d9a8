//! A registered client: its keys, and what it may have at most.

use std::collections::{BTreeSet, HashMap};

use super::config::{ClientConfig, KeySource};
use super::grant::parameters;
use super::key_cache::{KeyCache, Pace};
use super::keys::KeySet;
use super::known::Known;
use super::source::Source;
use super::{Error, Extent, TypeGrant, configuration, scope};
use crate::fhir::resource_type::ResourceType;
use crate::search::Query;

pub(super) struct Client {
    pub(super) id: String,
    pub(super) keys: KeyCache,
    /// Where its keys are, if it registered a URL.
    pub(super) jwks_url: Option<String>,
    scopes: TypeGrant,
    known: Known,
}

/// All of them, by id. Reads key files, but asks nothing of the network.
pub(super) fn registered(configs: Vec<ClientConfig>) -> Result<HashMap<String, Client>, Error> {
    let mut clients = HashMap::with_capacity(configs.len());
    for config in configs {
        let client = Client::new(&config)?;
        if clients.insert(config.id.clone(), client).is_some() {
            return Err(configuration(format!("{} is registered twice", config.name())));
        }
    }
    Ok(clients)
}

impl Client {
    fn new(config: &ClientConfig) -> Result<Self, Error> {
        let source = config.check()?;
        let scopes = scope::registered(&config.scopes).map_err(|problem| config.problem("scopes", &problem))?;
        // As it was written: a client that names it repeats it so (rule I12).
        let jwks_url = matches!(source, KeySource::Jwks(_)).then(|| config.jwks.clone());
        let keys = KeyCache::new(config.name(), Source::new(source, KeySet::of_client)?, Pace::OF_CLIENTS)?;
        Ok(Self { id: config.id.clone(), keys, jwks_url, scopes, known: Known::default() })
    }

    /// What it gets of the scopes that it asks for (rule I17).
    pub(super) fn may_have(&self, asked: &str) -> TypeGrant {
        self.known.grant(asked, |asked| self.askable(scope::granted(asked)).and(&self.scopes))
    }

    /// Without queries that would tell of what it may not have: by a chain, whether an Observation is of a patient with
    /// this name.
    fn askable(&self, asked: TypeGrant) -> TypeGrant {
        let TypeGrant::Only(mut types) = asked else { return asked };
        types.retain(|resource_type, extent| match extent {
            Extent::Whole => true,
            Extent::Matching(queries) => {
                let registered: BTreeSet<_> = self.scopes.limits(*resource_type).iter().flat_map(parameters).collect();
                let may_ask = |asked: &String| registered.contains(asked) || self.sees_all_of(*resource_type, asked);
                queries.retain(|query| parameters(query).iter().all(may_ask));
                !queries.is_empty()
            }
        });
        TypeGrant::Only(types)
    }

    /// Whether it may have all that is searched for a parameter.
    fn sees_all_of(&self, resource_type: ResourceType, parameter: &str) -> bool {
        let sees_all = |query: Query| query.searches().all(|search| self.scopes.allows_all(search.resource_type()));
        Query::parse(&format!("{resource_type}?{parameter}")).is_ok_and(sees_all)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, Key};
    use super::*;

    fn config(id: &str, scopes: &[&str]) -> ClientConfig {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        ClientConfig { id: id.to_owned(), jwks: testing::jwks(&[&Key::es384("k")]), scopes }
    }

    // I17, B15: a chain is a question about another type
    #[test]
    fn what_it_may_not_have_it_may_not_ask_about() {
        let chain = "system/Observation.rs?subject:Patient.name=a";
        for (scopes, expected) in [
            (&["system/Observation.rs"][..], ""),
            (&["system/Observation.rs", "system/Patient.rs?active=true"], ""),
            (&["system/Observation.rs", "system/Patient.rs"], chain),
            (&["system/*.rs"], chain),
            (&[chain], chain),
        ] {
            let client = Client::new(&config("a", scopes)).unwrap();
            let granted = client.may_have(chain);
            assert_eq!(scope::written(&granted, chain), expected, "{scopes:?}");
            // As when the token comes back.
            assert_eq!(client.may_have(expected), granted);
        }
    }

    #[test]
    fn what_is_registered_is_checked() {
        let good = || config("a", &["system/*.rs"]);
        assert!(registered(vec![good(), ClientConfig { id: "b".into(), ..good() }]).is_ok());
        let of = |jwks: &str| ClientConfig { jwks: jwks.to_owned(), ..good() };
        let p256 = testing::jwks(&[&Key::es256("k")]);
        for (configs, problem) in [
            (vec![good(), good()], "client `a` is registered twice"),
            (vec![config("", &["system/*.rs"])], "id"),
            (vec![config("a\nb", &["system/*.rs"])], "id"),
            (vec![config("a", &[])], "client `a`: scopes"),
            (vec![config("a", &["system/Doctor.rs"])], "system/Doctor.rs: R4 has no such"),
            (vec![of("")], "client `a`: jwks: the path is empty"),
            (vec![of("{")], "client `a`: jwks: not the JSON expected"),
            (vec![of(r#"{"keys":[]}"#)], "no usable signing key"),
            (vec![of(&p256)], "no usable signing key"),
            (vec![of(r#"{"keys":[{"kty":"oct","kid":"a","k":"c2VjcmV0"}]}"#)], "private or symmetric"),
            (vec![of("/nowhere/keys.json")], "cannot be read"),
            (vec![of("http://client.example/jwks")], "must be https"),
        ] {
            let error = registered(configs).map(|_| ()).unwrap_err();
            assert!(matches!(error, Error::Configuration { .. }));
            assert!(error.to_string().contains(problem), "{problem}: {error}");
        }
    }
}
