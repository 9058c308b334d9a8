//! What a client asked for: a kick-off that can be carried out as it stands. How its parameters are read is in `reader`.

mod reader;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use self::reader::Reader;
use super::elements::ElementList;
use super::level::Level;
use super::referenced::Wanted;
use crate::binary::ndjson::FileSize;
use crate::config::ByteSize;
use crate::fhir::outcome::Issue;
use crate::fhir::parameters::Parameter;
use crate::fhir::reference::PatientBases;
use crate::fhir::resource_type::ResourceType;
use crate::identity::TypeGrant;
use crate::resource::associated::{About, Associated, Filtered};
use crate::resource::cohort::Cohort;
use crate::resource::read::Window;
use crate::search::{Filters, Search};

/// A part is done by one worker, at once or not at all: no client may make it larger than for files of this size.
const LARGEST_MINIMUM: u64 = 1 << 30;

/// What a replica must be able to do that works on an export ([`crate::database::ABLE`]): to keep within what the caller
/// may have, and to record whose data is in each file. Older versions do neither.
pub(crate) const REQUIRES: i16 = 3;

/// A request that can be carried out as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExportRequest {
    /// The kick-off's URL, for the manifest (rule E2).
    pub(crate) url: String,
    /// Where it was called; a request stored by a version without levels is of the system.
    #[serde(default)]
    pub(crate) level: Level,
    /// The Patients to which `patient` limits it, by id; none: no limit (rule G6).
    #[serde(default)]
    pub(crate) patients: BTreeSet<String>,
    /// Whether those who have joined the Group after `_since` come with their whole history (rule H9).
    #[serde(default)]
    pub(crate) new_members_full_history: bool,
    /// The types to export: those asked for, else all the caller may have.
    pub(crate) types: BTreeSet<ResourceType>,
    /// The types outside the compartment of which those resources come that others refer to (rules G4, H8).
    #[serde(default)]
    pub(crate) referenced: BTreeSet<ResourceType>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) since: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) until: Option<OffsetDateTime>,
    /// The client's own name for the export (rule G14).
    pub(crate) export_id: Option<String>,
    /// How small and how large files should be, in bytes of NDJSON (rule G13).
    pub(crate) min_file_size: Option<u64>,
    pub(crate) max_file_size: Option<u64>,
    /// Whether polls tell of the export in a header of its own (rule B10).
    #[serde(default)]
    pub(crate) separate_status: bool,
    /// Which elements resources have (rule G5).
    #[serde(default)]
    pub(crate) elements: ElementList,
    /// What resources must match (rules G9, G12).
    #[serde(default)]
    pub(crate) filters: Filters,
    /// Which Provenances come, if not all (rule G7).
    #[serde(default)]
    pub(crate) associated: Option<Associated>,
    /// Whether the client wants to know which files are ready before all are (rule G11).
    #[serde(default)]
    pub(crate) partial_manifests: bool,
    /// Whether all versions are wanted (rule G15).
    #[serde(default)]
    pub(crate) history: bool,
    /// Files hold patient after patient, rather than one type each (rule G10).
    #[serde(default)]
    pub(crate) by_patient: bool,
    /// What was left out under `handling=lenient`: for the outcome file (rule B17).
    pub(crate) remarks: Vec<String>,
}

/// Why a request is refused: all problems at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Something in it is wrong.
    Invalid(Vec<Issue>),
    /// The caller may not have these types (rule A33).
    Forbidden(Vec<ResourceType>),
}

/// On what terms a request is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    /// What cannot be done is left out rather than refused (rule B17).
    pub(crate) lenient: bool,
    /// The types the caller may have.
    pub(crate) granted: &'a TypeGrant,
    /// The types outside the compartment that come where others refer to them.
    pub(crate) referenced: &'a BTreeSet<ResourceType>,
    /// Where absolute references to our Patients point.
    pub(crate) bases: &'a PatientBases,
}

impl ExportRequest {
    /// Checks the parameters of a kick-off.
    pub(crate) fn read(url: String, level: Level, parameters: &[Parameter], terms: Terms<'_>) -> Result<Self, Refused> {
        let mut reader = Reader::new(url, level, terms);
        for parameter in parameters {
            reader.read(parameter);
        }
        reader.finish()
    }

    /// Whose resources the job of this request reads.
    pub(crate) fn cohort(&self, job: Uuid) -> Cohort {
        match self.level {
            Level::System => Cohort::Everything,
            Level::Patients if self.patients.is_empty() => Cohort::AnyPatient,
            Level::Patients | Level::Patient(_) | Level::Group(_) => Cohort::Frozen(job),
        }
    }

    /// Whether the patients it is limited to are kept with it when it is planned.
    pub(crate) fn is_frozen(&self) -> bool {
        matches!(self.cohort(Uuid::nil()), Cohort::Frozen(_))
    }

    /// What of the store is exported, as of a transaction time, and of all versions after a floor.
    pub(crate) fn window(&self, at: OffsetDateTime, history: Option<OffsetDateTime>) -> Window {
        Window { at, since: self.since, until: self.until, history }
    }

    /// The same of what that refers to: its state, whether or not it changed after `_since` (rule B18).
    pub(crate) fn context_window(&self, at: OffsetDateTime) -> Window {
        Window { at, since: None, until: self.until, history: None }
    }

    /// The types of which the right to a part is not enough. Whoever gets what belongs to the members of a Group learns who
    /// they are (rule B15); whoever names Patients learns whether they are there; and a chain tells of what it leads through.
    pub(super) fn needs_all_of(&self) -> BTreeSet<ResourceType> {
        let mut types = self.filters.searched_by_client();
        types.extend(match self.level {
            Level::Group(_) => Some(ResourceType::GROUP),
            Level::Patient(_) => Some(ResourceType::PATIENT),
            Level::System | Level::Patients => None,
        });
        types.extend((!self.patients.is_empty()).then_some(ResourceType::PATIENT));
        types
    }

    /// A type to which the caller has no right any more, or less than the export took (rule I5).
    pub(crate) fn not_covered_by(&self, granted: &TypeGrant) -> Option<ResourceType> {
        self.not_covered(self.types.iter().chain(&self.referenced).copied(), granted)
    }

    /// The same of one of its files, which holds resources of this type. Deletions of all types share their files, and so do
    /// the resources of a patient; what the server has to say may tell of any.
    pub(crate) fn file_not_covered_by(
        &self,
        is_of_one_type: bool,
        resource_type: &str,
        granted: &TypeGrant,
    ) -> Option<ResourceType> {
        match ResourceType::parse(resource_type).filter(|_| is_of_one_type && !self.by_patient) {
            Some(of) => self.not_covered([of].into_iter(), granted),
            None => self.not_covered_by(granted),
        }
    }

    fn not_covered(
        &self,
        mut exported: impl Iterator<Item = ResourceType>,
        granted: &TypeGrant,
    ) -> Option<ResourceType> {
        // Of limits that this version does not understand it cannot say that they are kept.
        let limits = |of| if self.filters.are_beyond_us() { Vec::new() } else { self.filters.limits(of) };
        let less = exported.find(|of| !granted.covers(*of, &limits(*of)));
        less.or_else(|| self.needs_all_of().into_iter().find(|of| !granted.allows_all(*of)))
    }

    /// Whether an export of it may hold anything of a patient, of whom there are resources of these types, all about them
    /// alone.
    pub(crate) fn may_hold(&self, patient: &str, types: &BTreeSet<ResourceType>) -> bool {
        let is_of_them = match &self.level {
            Level::Patient(id) => id == patient,
            Level::System | Level::Patients | Level::Group(_) => true,
        };
        is_of_them && (self.patients.is_empty() || self.patients.contains(patient)) && self.reads_any(types)
    }

    /// Whether it reads resources of any of these types whosever they are: what others refer to, or are found by.
    pub(crate) fn reads_of_anybody(&self, types: &BTreeSet<ResourceType>) -> bool {
        !self.referenced.is_disjoint(types) || !self.searched().is_disjoint(types)
    }

    /// Whether it reads resources of any of these types, also to find others by them.
    pub(crate) fn reads_any(&self, types: &BTreeSet<ResourceType>) -> bool {
        [&self.types, &self.referenced, &self.searched()].into_iter().any(|read| !read.is_disjoint(types))
    }

    /// Whether the caller's rights to some type are limited by a query.
    pub(crate) fn is_limited(&self) -> bool {
        !self.filters.granted.is_empty()
    }

    /// The types of which deletions are told: of what is deleted nothing is left that limits could be compared with.
    pub(super) fn is_told_of_deletions(&self, resource_type: ResourceType) -> bool {
        self.filters.limits(resource_type).is_empty()
    }

    /// The references that are followed; none, if none are.
    pub(super) fn wanted_references(&self) -> Option<Wanted> {
        // Of the kick-off's URL, so that all replicas take the same URLs for theirs.
        let base = self.url.split_once(&format!("/{}", self.level.path())).map_or("", |(base, _)| base);
        (!self.referenced.is_empty()).then(|| Wanted { types: self.referenced.clone(), base: base.to_owned() })
    }

    /// The types of which all is read first, for the sake of the filters.
    pub(super) fn searched(&self) -> BTreeSet<ResourceType> {
        self.filters.searches().iter().map(Search::resource_type).collect()
    }

    /// What Provenances have to be about, if not all come.
    pub(super) fn about(&self, job: Uuid) -> Option<About> {
        let filtered = Filtered { job, types: self.noted().into_iter().collect() };
        self.associated.map(|associated| About::of(associated, self.types.iter().copied(), filtered))
    }

    /// The types of which is noted what the filters let through: Provenances come for the sake of that.
    pub(super) fn noted(&self) -> BTreeSet<ResourceType> {
        let mut types = &self.filters.types() & &self.types;
        types.retain(|filtered| *filtered != ResourceType::PROVENANCE && self.associated.is_some());
        types
    }

    /// The types that come when that is known.
    pub(super) fn associated_later(&self) -> BTreeSet<ResourceType> {
        if self.noted().is_empty() { BTreeSet::new() } else { [ResourceType::PROVENANCE].into() }
    }

    /// When files end. With a minimum they do with their part, or where the maximum wants it.
    pub(crate) fn file_size(&self, target: ByteSize) -> FileSize {
        let max = self.max_file_size.unwrap_or(u64::MAX);
        let target = target.bytes();
        if self.by_patient {
            return self.size_by_patient(target, max);
        }
        let target = if self.min_file_size.is_some() { max } else { target.min(max) };
        FileSize { target, split: max, max }
    }

    /// Files leave room for a block, so that it need not be split: half of what the client allows, or three times what
    /// a file should have.
    fn size_by_patient(&self, target: u64, max: u64) -> FileSize {
        match self.min_file_size {
            Some(min) => FileSize { target: min.max(max / 2), split: max, max },
            None => FileSize { target: target.min(max / 2), split: target.saturating_mul(4).min(max), max },
        }
    }

    /// How many bytes of NDJSON a part should have at most. It may come out at half of that, and was guessed from a
    /// sample: for all of them to reach the minimum, it has to be well above it.
    pub(crate) fn part_size(&self, target: ByteSize) -> u64 {
        let min = self.min_file_size.unwrap_or(0).min(LARGEST_MINIMUM);
        // A little less than a file, so that a guess that was low does not leave a tiny file behind each.
        (target.bytes() / 8 * 7 + 1).max(min * 4)
    }
}
