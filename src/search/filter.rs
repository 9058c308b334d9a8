//! The filters of an export, and what one makes of a resource.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::condition::Subject;
use super::narrowed::Narrowed;
use super::query::{Query, Search};
use super::truth::Truth;
use crate::fhir::reference::PatientBases;
use crate::fhir::resource_type::ResourceType;
use crate::json::Object;

/// All queries of an export may have so many values …
const MAX_VALUES: usize = 5_000;
/// … and need so many searches.
const MAX_SEARCHES: usize = 50;

/// What an export asks of its resources, besides. A type of which nothing is asked comes whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub(crate) struct Filters {
    /// `_typeFilter`: of a type that has such, a resource must match one of them (rule G9) …
    pub(crate) queries: Vec<Query>,
    /// … and `_typePostFetchFilterUrl`: one of these, too (rule G12).
    pub(crate) post_fetch: Vec<Query>,
    /// … and what limits the caller's rights to the type: one of these, as well (rule I20).
    pub(crate) granted: Vec<Query>,
    /// Another version has stored a query that this one does not understand.
    #[serde(skip)]
    is_beyond_us: bool,
}

/// As they are stored. Whatever that is it can be read: what is wrong with the filters of one export is nothing to others.
#[derive(Deserialize)]
struct Stored {
    queries: Vec<String>,
    post_fetch: Vec<String>,
    #[serde(default)]
    granted: Vec<String>,
}

impl From<Stored> for Filters {
    fn from(stored: Stored) -> Self {
        let read = |texts: &[String]| texts.iter().map(|text| Query::parse(text)).collect::<Result<Vec<_>, _>>();
        match (read(&stored.queries), read(&stored.post_fetch), read(&stored.granted)) {
            (Ok(queries), Ok(post_fetch), Ok(granted)) => Self { queries, post_fetch, granted, is_beyond_us: false },
            _ => Self { is_beyond_us: true, ..Self::default() },
        }
    }
}

/// What is asked of the resources of one type.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    resource_type: ResourceType,
    /// Of each of these, one must match.
    groups: Vec<Vec<Query>>,
    /// And, if there are any, of these, which limit the caller's rights.
    granted: Vec<Query>,
    narrowed: Narrowed,
    /// All searches of the export: the number of one is its place.
    searches: Vec<Search>,
}

/// What the meaning of a query depends on, besides.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Now: the transaction time, so that every worker means the same.
    pub(crate) at: OffsetDateTime,
    /// Where absolute references to our resources point.
    pub(crate) bases: PatientBases,
}

/// Whether a search has found a resource.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Lookup {
    /// The number of the search.
    pub(crate) search: usize,
    pub(crate) resource_type: ResourceType,
    pub(crate) id: String,
}

/// Whose it is, is not shown.
impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/…", self.resource_type)
    }
}

/// What a filter makes of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judgement {
    Admitted,
    LeftOut,
    /// It depends on these, which are not known yet.
    Depends(Vec<Lookup>),
    /// The resource has something where the filter looks that cannot be read: which parameter, and why.
    Unreadable(String),
    /// The same, where what limits the caller's rights looks: not even that there is such a resource is for the caller.
    Untold,
}

impl Filters {
    /// Whether nothing can be said of them, and so nothing be exported.
    pub(crate) fn are_beyond_us(&self) -> bool {
        self.is_beyond_us
    }

    /// What is too much of what the client asks, if anything: for every resource all of it may be asked.
    pub(crate) fn excess(&self) -> Option<String> {
        if self.by_client().map(Query::values).sum::<usize>() > MAX_VALUES {
            return Some(format!("all queries together may have {MAX_VALUES} values at most"));
        }
        if self.by_client().flat_map(Query::searches).count() > MAX_SEARCHES {
            return Some(format!("all queries together may search {MAX_SEARCHES} types for chains and _has at most"));
        }
        None
    }

    /// The types of whose resources something is asked.
    pub(crate) fn types(&self) -> BTreeSet<ResourceType> {
        self.all().map(Query::resource_type).collect()
    }

    /// What has to be looked for before any resource can be judged, each once: the number of one is its place.
    pub(crate) fn searches(&self) -> Vec<Search> {
        let mut searches: Vec<Search> = Vec::new();
        for search in self.all().flat_map(Query::searches) {
            if !searches.contains(search) {
                searches.push(search.clone());
            }
        }
        searches
    }

    /// Where the resources of this type are that a search may match.
    pub(crate) fn searched(&self, resource_type: ResourceType) -> Narrowed {
        let of_type = self.searches().into_iter().filter(|search| search.resource_type() == resource_type);
        Narrowed::by(&of_type.map(|search| search.query).collect::<Vec<_>>())
    }

    /// What is asked of resources of this type; nothing if they come whole.
    pub(crate) fn of(&self, resource_type: ResourceType) -> Option<Filter> {
        let of = |queries: &[Query]| -> Vec<Query> {
            queries.iter().filter(|query| query.resource_type() == resource_type).cloned().collect()
        };
        let (queries, granted) = (of(&self.queries), of(&self.granted));
        let narrowed = Narrowed::by(&queries).and(Narrowed::by(&granted));
        let groups: Vec<_> = [queries, of(&self.post_fetch)].into_iter().filter(|group| !group.is_empty()).collect();
        let asks = !groups.is_empty() || !granted.is_empty();
        asks.then(|| Filter { resource_type, groups, granted, narrowed, searches: self.searches() })
    }

    /// What the client asks to know of other resources, besides.
    pub(crate) fn searched_by_client(&self) -> BTreeSet<ResourceType> {
        self.by_client().flat_map(Query::searches).map(Search::resource_type).collect()
    }

    /// Whether the client asks for it, not only what its rights are limited to.
    pub(crate) fn is_by_client(&self, search: &Search) -> bool {
        self.by_client().flat_map(Query::searches).any(|asked| asked == search)
    }

    /// What the caller's rights to this type were limited to; nothing: not limited.
    pub(crate) fn limits(&self, resource_type: ResourceType) -> Vec<&Query> {
        self.granted.iter().filter(|query| query.resource_type() == resource_type).collect()
    }

    fn by_client(&self) -> impl Iterator<Item = &Query> {
        self.queries.iter().chain(&self.post_fetch)
    }

    fn all(&self) -> impl Iterator<Item = &Query> {
        self.by_client().chain(&self.granted)
    }
}

impl Filter {
    /// Judges a resource by its body. `found` says whether a search has found a resource, if that is known.
    pub(crate) fn judge(&self, body: &str, context: &Context, found: &dyn Fn(&Lookup) -> Option<bool>) -> Judgement {
        let Self { resource_type, searches, .. } = self;
        let subject = Subject { resource_type: *resource_type, resource: &Object::of(body), context, searches, found };
        let any = |queries: &Vec<Query>| Truth::any(queries.iter().map(|query| query.holds(&subject)));
        let is_granted = if self.granted.is_empty() { Truth::Yes } else { any(&self.granted) };
        match Truth::all(self.groups.iter().map(any).chain([is_granted.clone()])) {
            Truth::Yes => Judgement::Admitted,
            Truth::No => Judgement::LeftOut,
            Truth::Depends(lookups) => Judgement::Depends(lookups),
            Truth::Unreadable(_) if is_granted != Truth::Yes => Judgement::Untold,
            Truth::Unreadable(reason) => Judgement::Unreadable(reason),
        }
    }

    /// Where the resources are that it may admit, as far as `_typeFilter` and the caller's rights tell.
    pub(crate) fn narrowed(&self) -> &Narrowed {
        &self.narrowed
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn context() -> Context {
        Context { at: datetime!(2026-01-01 0:00 UTC), bases: PatientBases::default() }
    }

    fn filters(queries: &[&str], post_fetch: &[&str]) -> Filters {
        let parse = |texts: &[&str]| texts.iter().map(|text| Query::parse(text).unwrap()).collect();
        Filters { queries: parse(queries), post_fetch: parse(post_fetch), ..Filters::default() }
    }

    fn filter(queries: &[&str], post_fetch: &[&str]) -> Filter {
        let filters = filters(queries, post_fetch);
        filters.of(*filters.types().first().unwrap()).unwrap()
    }

    // G9, G12
    #[test]
    fn one_query_of_each_kind_is_enough_and_other_types_come_whole() {
        let queries = ["Patient?gender=male", "Patient?active=true", "Encounter?status=finished"];
        let filters = filters(&queries, &["Patient?family=x"]);
        let patient = filters.of(ResourceType::PATIENT).unwrap();
        let judge = |body: &str| patient.judge(body, &context(), &|_| None);
        let named = r#""name":[{"family":"X"}]"#;
        assert_eq!(judge(&format!(r#"{{"gender":"male",{named}}}"#)), Judgement::Admitted);
        assert_eq!(judge(&format!(r#"{{"active":true,{named}}}"#)), Judgement::Admitted);
        assert_eq!(judge(&format!("{{{named}}}")), Judgement::LeftOut);
        assert_eq!(judge(r#"{"gender":"male"}"#), Judgement::LeftOut);
        assert!(filters.of(ResourceType::GROUP).is_none());
        assert_eq!(filters.types().len(), 2);
    }

    #[test]
    fn all_queries_together_are_not_too_much() {
        let values = format!("Patient?_id={}", vec!["a"; 1_000].join(","));
        assert_eq!(filters(&[values.as_str(); 5], &[]).excess(), None);
        let more = filters(&[values.as_str(); 5], &["Patient?gender=male"]).excess();
        assert!(more.is_some_and(|text| text.contains("5000 values at most")));
        let chain = "Observation?subject:Patient.gender=male";
        assert_eq!(filters(&vec![chain; 25], &vec![chain; 25]).excess(), None);
        let more = filters(&vec![chain; 25], &vec![chain; 26]).excess();
        assert!(more.is_some_and(|text| text.contains("50 types")));
    }

    #[test]
    fn what_is_stored_is_read_again_also_if_it_is_not_understood() {
        let filters = filters(&["Patient?identifier=010203-0405"], &["Patient?gender=male"]);
        let stored = serde_json::to_string(&filters).unwrap();
        assert_eq!(
            stored,
            r#"{"queries":["Patient?identifier=010203-0405"],"post_fetch":["Patient?gender=male"],"granted":[]}"#
        );
        assert_eq!(serde_json::from_str::<Filters>(&stored).unwrap(), filters);
        let newer: Filters = serde_json::from_str(r#"{"queries":["Patient?nope=1"],"post_fetch":[]}"#).unwrap();
        assert!(newer.are_beyond_us() && !filters.are_beyond_us());
    }

    #[test]
    fn what_cannot_be_read_is_told_unless_it_does_not_matter() {
        let judge = |queries: &[&str], body: &str| filter(queries, &[]).judge(body, &context(), &|_| None);
        let body = r#"{"birthDate":"long ago","gender":"male","name":[{"family":7},{"family":"X"}]}"#;
        let reason = Judgement::Unreadable("birthdate: a date there cannot be read".to_owned());
        assert_eq!(judge(&["Patient?birthdate=2020"], body), reason);
        assert_eq!(judge(&["Patient?birthdate=2020&gender=male"], body), reason);
        assert_eq!(judge(&["Patient?birthdate=2020&gender=female"], body), Judgement::LeftOut);
        assert_eq!(judge(&["Patient?birthdate=2020", "Patient?gender=male"], body), Judgement::Admitted);
        assert_eq!(judge(&["Patient?family=x"], body), Judgement::Admitted);
        assert!(matches!(judge(&["Patient?family=y"], body), Judgement::Unreadable(_)));
        for (query, member) in [
            ("Observation?code=x", r#""code":"x""#),
            ("Observation?subject=1", r#""subject":"Patient/1""#),
            ("Observation?date=2020", r#""effectivePeriod":"2020""#),
            ("Observation?date=2020", r#""effectiveTiming":{"event":["x"]}"#),
            ("Observation?value-quantity=1", r#""valueQuantity":{"value":"1"}"#),
            ("Patient?active=true", r#""active":"true""#),
            ("Patient?address=x", r#""address":["x"]"#),
            ("ValueSet?url=x", r#""url":{}"#),
        ] {
            let judgement = judge(&[query], &format!("{{{member}}}"));
            assert!(matches!(judgement, Judgement::Unreadable(_)), "{query} on {member}: {judgement:?}");
        }
    }

    // G9
    #[test]
    fn what_was_found_elsewhere_is_looked_up_only_if_it_matters() {
        let queries = ["Observation?subject:Patient.family=x&status=final"];
        let observation = filter(&queries, &[]);
        let body =
            |status: &str, subject: &str| format!(r#"{{"status":"{status}","subject":{{"reference":"{subject}"}}}}"#);
        let judge = |body: &str, known| observation.judge(body, &context(), &|_| known);
        let lookup = Lookup { search: 0, resource_type: ResourceType::PATIENT, id: "1".to_owned() };
        assert_eq!(judge(&body("final", "Patient/1"), None), Judgement::Depends(vec![lookup]));
        assert_eq!(judge(&body("final", "Patient/1"), Some(true)), Judgement::Admitted);
        assert_eq!(judge(&body("final", "Patient/1"), Some(false)), Judgement::LeftOut);
        assert_eq!(judge(&body("amended", "Patient/1"), None), Judgement::LeftOut);
        assert_eq!(judge(&body("final", "Group/1"), None), Judgement::LeftOut);

        let patients =
            filters(&["Patient?_has:Observation:patient:code=a"], &["Patient?_has:Observation:patient:code=b"]);
        let searches = patients.searches();
        assert_eq!(searches.len(), 2);
        let observation = r#"{"id":"o","code":{"coding":[{"code":"a"}]},"subject":{"reference":"Patient/7"}}"#;
        assert_eq!(searches[0].finds(observation, &context()), Ok(vec![(ResourceType::PATIENT, "7".to_owned())]));
        assert_eq!(searches[1].finds(observation, &context()), Ok(vec![]));
        let found = |lookup: &Lookup| Some(lookup.search == 0 || lookup.id == "8");
        let judge = |id: &str| {
            patients.of(ResourceType::PATIENT).unwrap().judge(&format!(r#"{{"id":"{id}"}}"#), &context(), &found)
        };
        assert_eq!((judge("7"), judge("8")), (Judgement::LeftOut, Judgement::Admitted));
    }
}
