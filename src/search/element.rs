//! The types of the elements that search looks at, from R4's definitions: `r4/element-types.json` has each by its way in
//! JSON, so a choice is there once for each of its types. A code that is bound to a value set has the systems it is from.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::fhir::resource_type::ResourceType;

static ELEMENTS: LazyLock<BTreeMap<&'static str, BTreeMap<&'static str, &'static str>>> =
    LazyLock::new(|| serde_json::from_str(include_str!("../fhir/r4/element-types.json")).unwrap_or_default());

/// What every resource has.
const RESOURCE: &str = "Resource";

/// The type of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Datatype {
    /// As the definitions name it: `CodeableConcept`, `dateTime`.
    pub(super) name: &'static str,
    /// Of a code that may only be from some systems: these, apart from each other by blanks.
    systems: &'static str,
}

impl Datatype {
    pub(super) fn of_resource(resource_type: ResourceType) -> Self {
        Self { name: resource_type.as_str(), systems: "" }
    }

    fn read(text: &'static str) -> Self {
        let (name, systems) = text.split_once(' ').unwrap_or((text, ""));
        Self { name, systems }
    }

    /// The systems of a code that has none written beside it.
    pub(super) fn systems(self) -> impl Iterator<Item = &'static str> {
        self.systems.split(' ').filter(|system| !system.is_empty())
    }
}

/// The elements of this name below those on the way, each by its name in JSON: several if it is a choice.
pub(super) fn named(resource_type: ResourceType, above: &[&str], name: &str) -> Vec<(&'static str, Datatype)> {
    let way: String = above.iter().flat_map(|member| [*member, "."]).chain([name]).collect();
    let known = |owner| ELEMENTS.get(owner).into_iter().flatten();
    let mut found = Vec::new();
    for (member, text) in known(resource_type.as_str()).chain(known(RESOURCE)) {
        let datatype = Datatype::read(text);
        let is_named = member
            .strip_prefix(&*way)
            .is_some_and(|rest| rest.is_empty() || (!rest.contains('.') && rest.eq_ignore_ascii_case(datatype.name)));
        if is_named {
            found.push((member.rsplit_once('.').map_or(*member, |(_, last)| last), datatype));
        }
    }
    found
}
