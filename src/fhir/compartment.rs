//! The R4 Patient compartment (rules H2 to H4): for each type, the paths whose references put a resource into it.
//!
//! The table in `r4/patient-compartment.json` is compiled once into a tree of member names per type. Its `[]` only says
//! that an element repeats; whoever follows the tree passes through arrays anyway, so the tree does not keep it.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use super::resource_type::ResourceType;

static COMPARTMENT: LazyLock<BTreeMap<ResourceType, Path>> = LazyLock::new(|| {
    let table: HashMap<&'static str, Vec<&'static str>> =
        serde_json::from_str(include_str!("r4/patient-compartment.json")).unwrap_or_default();
    let compiled = |(name, paths): (_, Vec<_>)| Some((ResourceType::parse(name)?, compile(&paths)));
    table.into_iter().filter_map(compiled).collect()
});

/// A place in a resource from which compartment paths go on, or at which one ends.
#[derive(Debug, Default)]
pub(crate) struct Path {
    members: Vec<(&'static str, Path)>,
    is_reference: bool,
}

impl Path {
    /// Where the paths go on inside this member, if one goes there.
    pub(crate) fn member(&self, name: &str) -> Option<&Self> {
        self.members.iter().find(|(member, _)| *member == name).map(|(_, path)| path)
    }

    /// Whether a path ends here: the element is a Reference that counts.
    pub(crate) fn is_reference(&self) -> bool {
        self.is_reference
    }

    fn member_or_new(&mut self, name: &'static str) -> &mut Self {
        let known = self.members.iter().position(|(member, _)| *member == name);
        let index = known.unwrap_or(self.members.len());
        if known.is_none() {
            self.members.push((name, Self::default()));
        }
        &mut self.members[index].1
    }
}

/// The paths from the root of a resource of this type; nothing if the type is not in the Patient compartment.
pub(crate) fn paths(resource_type: ResourceType) -> Option<&'static Path> {
    COMPARTMENT.get(&resource_type)
}

/// The types that are in it.
pub(crate) fn types() -> impl Iterator<Item = ResourceType> {
    COMPARTMENT.keys().copied()
}

fn compile(paths: &[&'static str]) -> Path {
    let mut root = Path::default();
    for path in paths {
        let mut place = &mut root;
        for member in path.split('.') {
            place = place.member_or_new(member.trim_end_matches("[]"));
        }
        place.is_reference = true;
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Option<&'static Path> {
        paths(ResourceType::parse(name).unwrap())
    }

    fn ends(path: &Path) -> usize {
        let below: usize = path.members.iter().map(|(_, path)| ends(path)).sum();
        below + usize::from(path.is_reference)
    }

    #[test]
    fn the_table_of_r4_is_complete() {
        assert_eq!(COMPARTMENT.len(), 66);
        // R4 lists 101, but three paths under two search parameters each.
        assert_eq!(COMPARTMENT.values().map(ends).sum::<usize>(), 98);
        assert!(of("Task").is_none() && of("Device").is_none());
    }

    #[test]
    fn paths_are_followed_by_member_name() {
        let appointment = of("Appointment").unwrap();
        let participant = appointment.member("participant").unwrap();
        assert!(participant.member("actor").unwrap().is_reference());
        assert!(!participant.is_reference());
        assert!(appointment.member("actor").is_none());
        assert!(of("CarePlan").unwrap().member("subject").unwrap().is_reference());
    }
}
