//! Reads the parameters of a kick-off, each by its rule, and collects what is wrong with them (rules B, G).

use std::collections::BTreeSet;

use time::OffsetDateTime;

use super::{ExportRequest, Refused, Terms};
use crate::export::elements::ElementList;
use crate::export::level::Level;
use crate::fhir::instant;
use crate::fhir::outcome::{Issue, IssueType, shown};
use crate::fhir::parameters::Parameter;
use crate::fhir::reference;
use crate::fhir::resource_type::ResourceType;
use crate::resource::associated::Associated;
use crate::search::{self, Filters, Query, Wrong};

/// Parameters HAPI clients append to every URL; they say nothing about an export (rule A18).
const FORMATTING: [&str; 2] = ["_format", "_pretty"];
/// FHIR's mime type of NDJSON, and the names a client may give it (rule G1).
const NDJSON: [&str; 3] = ["application/fhir+ndjson", "application/ndjson", "ndjson"];
const MAX_EXPORT_ID: usize = 128;
/// Each is looked for in every type.
const MAX_ELEMENTS: usize = 1_000;
/// Each may be asked of every resource of its type, …
const MAX_QUERIES: usize = 100;
/// … and has at most so many characters.
const MAX_QUERY: usize = 8_192;
/// How what is wrong with a query begins; of `_typePostFetchFilterUrl` in HAPI's words (rule B.5).
const INVALID_FILTER: &str = "Invalid _typeFilter";
const INVALID_POST_FETCH: &str = "Invalid post-fetch filter URL";
/// So much is told of what is wrong, and so much is left out under lenient handling.
const MOST_TOLD: usize = 100;
/// Files smaller than this would be too many.
const SMALLEST_MAXIMUM: u64 = 1 << 20;

/// Reads the parameters one by one and collects what is wrong with them.
pub(super) struct Reader<'a> {
    terms: Terms<'a>,
    request: ExportRequest,
    /// Whether `_type` was given, whatever came of it.
    types_given: bool,
    /// The elements asked for as they are named: whether there are such depends on the types.
    elements: Option<BTreeSet<String>>,
    /// How many queries the filters have, whatever came of them.
    queries: usize,
    seen: BTreeSet<String>,
    issues: Vec<Issue>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(url: String, level: Level, terms: Terms<'a>) -> Self {
        let request = ExportRequest {
            url,
            level,
            patients: BTreeSet::new(),
            new_members_full_history: false,
            types: BTreeSet::new(),
            referenced: BTreeSet::new(),
            since: None,
            until: None,
            export_id: None,
            min_file_size: None,
            max_file_size: None,
            separate_status: false,
            elements: ElementList::default(),
            filters: Filters::default(),
            associated: None,
            partial_manifests: false,
            history: false,
            by_patient: false,
            remarks: Vec::new(),
        };
        let (seen, issues) = (BTreeSet::new(), Vec::new());
        Self { terms, request, types_given: false, elements: None, queries: 0, seen, issues }
    }

    pub(super) fn read(&mut self, Parameter { name, value }: &Parameter) {
        let again = !self.seen.insert(name.clone());
        match name.as_str() {
            "_type" => self.types(value),
            "includeAssociatedData" => self.associated(value),
            "_elements" => self.elements.get_or_insert_default().extend(listed(value).map(str::to_owned)),
            "_typeFilter" => {
                let queries = self.queries(INVALID_FILTER, value);
                self.request.filters.queries.extend(queries);
            }
            "_typePostFetchFilterUrl" => {
                let queries = self.queries(INVALID_POST_FETCH, value);
                self.request.filters.post_fetch.extend(queries);
            }
            name if FORMATTING.contains(&name) => {}
            "_since"
            | "_until"
            | "_includeHistory"
            | "_outputFormat"
            | "_exportId"
            | "_minimumFileSize"
            | "_maximumFileSize"
            | "_mdm"
            | "allowPartialManifests"
            | "organizeOutputBy"
                if again =>
            {
                self.invalid(IssueType::Invalid, format!("{name} may be given once."))
            }
            "_since" => self.request.since = self.instant(name, value),
            "_until" => self.request.until = self.instant(name, value),
            "_includeHistory" => self.request.history = self.boolean(name, value).unwrap_or_default(),
            "_outputFormat" => self.output_format(value),
            "_exportId" => self.export_id(value),
            "_minimumFileSize" => self.request.min_file_size = self.file_size(name, value),
            "_maximumFileSize" => self.request.max_file_size = self.file_size(name, value),
            "_mdm" => self.mdm(value),
            "allowPartialManifests" => self.request.partial_manifests = self.boolean(name, value).unwrap_or_default(),
            "organizeOutputBy" => self.organize(value),
            "patient" if self.request.level != Level::System => self.patients(value),
            // Leaving it out would export everybody (rule G6).
            "patient" => self.invalid(
                IssueType::NotSupported,
                "The parameter patient does not go with an export of the whole system.".to_owned(),
            ),
            _ if again => {}
            _ => self.unsupported(format!(
                "The parameter {} is not supported; supported are _type, _since, _until, _includeHistory, _elements, \
                 _typeFilter, _typePostFetchFilterUrl, _outputFormat, _exportId, _minimumFileSize, _maximumFileSize, includeAssociatedData, allowPartialManifests, \
                 and patient and organizeOutputBy where it is not the whole system that is exported.",
                shown(name)
            )),
        }
    }

    fn types(&mut self, value: &str) {
        self.types_given = true;
        for name in listed(value) {
            match ResourceType::parse(name) {
                Some(found) if found.is_exportable() && self.request.level.includes(found) => {
                    self.request.types.insert(found);
                }
                Some(found) if self.terms.referenced.contains(&found) => {
                    self.request.referenced.insert(found);
                }
                // HAPI's words (rule B.5).
                Some(found) if found.is_exportable() => self.unsupported(format!(
                    "_type: Resource types [{found}] are invalid for this type of export, as they do not contain search \
                     parameters that refer to patients."
                )),
                Some(_) => self.unsupported(
                    "_type: Bulk export of Binary resources is forbidden; the data of patients' documents comes \
                     with their DocumentReference."
                        .to_owned(),
                ),
                None => self.unsupported(format!(
                    "_type: Resource type {} is not a supported resource type! Type names are case-sensitive, \
                     such as Patient.",
                    shown(name)
                )),
            }
        }
    }

    /// The queries of a filter that can be carried out; of any other nothing is left but what is said of it.
    fn queries(&mut self, invalid: &str, value: &str) -> Vec<Query> {
        if value.trim().is_empty() {
            let text = format!("{invalid}, must be in the format [resourceType]?[parameters]: it is empty.");
            self.invalid(IssueType::Value, text);
            return Vec::new();
        }
        search::listed(value).into_iter().filter_map(|text| self.query(invalid, text)).collect()
    }

    fn query(&mut self, invalid: &str, text: &str) -> Option<Query> {
        self.queries += 1;
        if self.queries > MAX_QUERIES {
            if self.queries == MAX_QUERIES + 1 {
                self.invalid(IssueType::TooLong, format!("{invalid}, at most {MAX_QUERIES} queries may be asked."));
            }
            return None;
        }
        if text.chars().nth(MAX_QUERY).is_some() {
            let text = format!("{invalid}, a query may have at most {MAX_QUERY} characters: {}", shown(text));
            self.invalid(IssueType::TooLong, text);
            return None;
        }
        match Query::parse(text) {
            Ok(query) => return Some(query),
            Err(Wrong::Unsupported(wrong)) => self.unsupported(format!("{invalid}, {wrong}")),
            Err(Wrong::TooMuch(wrong)) => self.invalid(IssueType::TooLong, format!("{invalid}, {wrong}")),
        }
        None
    }

    /// A list of references, or of ids.
    fn patients(&mut self, value: &str) {
        for reference in value.split(',').map(str::trim) {
            let id = reference::patient_id(reference, self.terms.bases);
            match id.or_else(|| reference::is_id(reference).then_some(reference)) {
                Some(id) => {
                    self.request.patients.insert(id.to_owned());
                }
                None => {
                    let text =
                        format!("patient: {} is no reference to a Patient, such as Patient/1.", shown(reference));
                    self.invalid(IssueType::Value, text);
                }
            }
        }
    }

    fn instant(&mut self, name: &str, value: &str) -> Option<OffsetDateTime> {
        // A `+` that was not encoded arrives as a blank (rule L5).
        let repaired = value.trim().replace(' ', "+");
        let found = instant::parse(&repaired).or_else(|| {
            let start_of_day = instant::parse(&format!("{repaired}T00:00:00Z"));
            start_of_day.filter(|_| self.terms.lenient)
        });
        if found.is_none() {
            self.invalid(
                IssueType::Value,
                format!(
                    "{name}: {} is not an instant; it needs date, time with seconds, and zone, such as \
                     2026-01-31T12:00:00Z.",
                    shown(value)
                ),
            );
        }
        found
    }

    fn boolean(&mut self, name: &str, value: &str) -> Option<bool> {
        let found = value.trim().parse().ok();
        if found.is_none() {
            self.invalid(IssueType::Value, format!("{name}: {} is neither true nor false.", shown(value)));
        }
        found
    }

    /// There is nothing here that knows which Patients are the same person (rule G16).
    fn mdm(&mut self, value: &str) {
        if self.boolean("_mdm", value) == Some(true) {
            self.unsupported("_mdm: true is not supported; Patients are not linked by master data here.".to_owned());
        }
    }

    /// Of two values that do not go together the one that leaves out less counts (rule G7).
    fn associated(&mut self, value: &str) {
        if listed(value).next().is_none() {
            self.invalid(IssueType::Value, "includeAssociatedData names nothing.".to_owned());
        }
        for name in listed(value) {
            let found = match name {
                "LatestProvenanceResources" => Associated::Latest,
                "RelevantProvenanceResources" => Associated::Relevant,
                _ => {
                    self.unsupported(format!(
                        "includeAssociatedData: {} is not supported; LatestProvenanceResources and \
                         RelevantProvenanceResources are.",
                        shown(name)
                    ));
                    continue;
                }
            };
            self.request.associated = self.request.associated.max(Some(found));
        }
    }

    /// Left out, the same comes organised by type.
    fn organize(&mut self, value: &str) {
        let name = value.trim();
        if self.request.level == Level::System {
            self.unsupported(
                "organizeOutputBy: an export of the whole system is organised by type; those at Patient/$export, \
                 Patient/[id]/$export and Group/[id]/$export can be organised by Patient."
                    .to_owned(),
            );
        } else if name == ResourceType::PATIENT.as_str() {
            self.request.by_patient = true;
        } else {
            self.unsupported(format!("organizeOutputBy: {} is not supported; Patient is.", shown(name)));
        }
    }

    /// A Group would be repeated with each of its members; and what is referred to belongs to no patient (rule F9).
    fn leave_out_of_blocks(&mut self) {
        let referenced = std::mem::take(&mut self.request.referenced);
        if !self.types_given {
            self.request.types.remove(&ResourceType::GROUP);
            return;
        }
        for resource_type in referenced {
            self.unsupported(format!(
                "_type: {resource_type} resources come where others refer to them, but not with organizeOutputBy."
            ));
        }
    }

    fn output_format(&mut self, value: &str) {
        if !NDJSON.contains(&value.replace(' ', "+").as_str()) {
            self.unsupported(format!(
                "_outputFormat: {} is not supported. The only allowed format for Bulk Export is currently \
                 application/fhir+ndjson",
                shown(value)
            ));
        }
    }

    fn export_id(&mut self, value: &str) {
        let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if (1..=MAX_EXPORT_ID).contains(&value.len()) && value.chars().all(is_safe) {
            self.request.export_id = Some(value.to_owned());
        } else {
            self.invalid(
                IssueType::Value,
                format!("_exportId: 1 to {MAX_EXPORT_ID} letters, digits, hyphens, underscores and dots are allowed."),
            );
        }
    }

    /// When all parameters are read: an element without a type may be one of any type that is exported.
    fn resolve_elements(&mut self) {
        let Some(names) = self.elements.take() else { return };
        if names.len() > MAX_ELEMENTS {
            return self.invalid(IssueType::TooLong, format!("_elements: at most {MAX_ELEMENTS} may be named."));
        }
        let types = &self.request.types | &self.request.referenced;
        for name in &names {
            if let Err(text) = self.request.elements.add(name, &types) {
                self.unsupported(text);
            }
        }
        if self.request.elements.is_empty() && self.issues.is_empty() {
            // To leave _elements out would export everything.
            self.invalid(IssueType::Value, "_elements names no element.".to_owned());
        }
    }

    /// When all parameters are read: a query of a type that is not exported would have no effect. Of one that the caller
    /// may not have it is kept: the caller is told that instead.
    fn resolve_filters(&mut self) {
        let types = &self.request.types | &self.request.referenced;
        let is_forbidden = |asked| !self.types_given && !self.terms.granted.allows(asked);
        let is_exported = |query: &Query| types.contains(&query.resource_type()) || is_forbidden(query.resource_type());
        let mut without_effect = Vec::new();
        let Filters { queries, post_fetch, .. } = &mut self.request.filters;
        for (invalid, queries) in [(INVALID_FILTER, queries), (INVALID_POST_FETCH, post_fetch)] {
            let others = queries.iter().filter(|query| !is_exported(query)).map(Query::resource_type);
            without_effect.extend(others.map(|of| format!("{invalid}, {of} resources are not exported.")));
            queries.retain(is_exported);
        }
        for text in without_effect {
            self.unsupported(text);
        }
        if let Some(excess) = self.request.filters.excess() {
            self.invalid(IssueType::TooLong, format!("{INVALID_FILTER}, {excess}."));
        }
    }

    /// The Provenances in a block are about what comes out. What that is, filters decide; it is known when all blocks are
    /// there.
    fn organize_by_type_if_needed(&mut self) {
        if self.request.by_patient && !self.request.noted().is_empty() {
            self.request.by_patient = false;
            self.unsupported(
                "organizeOutputBy: Patient does not go with both includeAssociatedData and filters of other types than \
                 Provenance, nor with rights to such types that are limited by a query."
                    .to_owned(),
            );
        }
    }

    /// A positiveInt.
    fn file_size(&mut self, name: &str, value: &str) -> Option<u64> {
        let bytes = value.trim().parse().ok().filter(|bytes| *bytes > 0);
        if bytes.is_none() {
            let text = format!("{name}: {} is not a number of bytes; it needs a whole number above 0.", shown(value));
            self.invalid(IssueType::Value, text);
        }
        bytes
    }

    /// What `handling=lenient` leaves out and otherwise refuses (rule B17).
    fn unsupported(&mut self, text: String) {
        if !self.terms.lenient {
            self.invalid(IssueType::NotSupported, text);
        } else if self.request.remarks.len() < MOST_TOLD {
            self.request.remarks.push(text);
        } else {
            let text = format!("More than {MOST_TOLD} things would have to be left out.");
            self.invalid(IssueType::TooLong, text);
        }
    }

    /// What is refused either way.
    fn invalid(&mut self, code: IssueType, text: String) {
        let issue = match self.issues.len() {
            ..MOST_TOLD => Issue::error(code, text),
            _ => Issue::error(IssueType::TooLong, "There is more that is wrong."),
        };
        if self.issues.last() != Some(&issue) {
            self.issues.push(issue);
        }
    }

    pub(super) fn finish(mut self) -> Result<ExportRequest, Refused> {
        let granted = self.terms.granted;
        if !self.types_given {
            let level = &self.request.level;
            let types = ResourceType::exportable().filter(|t| granted.allows(*t) && level.includes(*t));
            self.request.types = types.collect();
            if *level != Level::System {
                let referenced = self.terms.referenced.iter().filter(|t| granted.allows(**t));
                self.request.referenced = referenced.copied().collect();
            }
        }
        if self.request.associated.is_some() && !self.request.types.is_empty() {
            self.request.types.insert(ResourceType::PROVENANCE);
        }
        self.keep_within_rights();
        self.organize_by_type_if_needed();
        if self.request.by_patient {
            self.leave_out_of_blocks();
        }
        self.resolve_elements();
        self.resolve_filters();
        if let (Some(since), Some(until)) = (self.request.since, self.request.until)
            && until < since
        {
            self.invalid(IssueType::Invalid, "_until is before _since.".to_owned());
        }
        if let (Some(min), Some(max)) = (self.request.min_file_size, self.request.max_file_size)
            && max <= min
        {
            self.invalid(IssueType::Invalid, "_maximumFileSize is not larger than _minimumFileSize.".to_owned());
        }
        if self.request.max_file_size.is_some_and(|max| max < SMALLEST_MAXIMUM) {
            self.invalid(IssueType::Value, format!("_maximumFileSize: at least {SMALLEST_MAXIMUM} bytes are needed."));
        }
        if self.types_given && self.request.types.is_empty() && self.issues.is_empty() {
            // To leave _type out would export everything.
            let text = match self.request.referenced.first() {
                None => "_type names no supported resource type.".to_owned(),
                Some(referenced) => format!(
                    "_type: {referenced} resources come where others refer to them; name also the types of those, such \
                     as Encounter."
                ),
            };
            self.invalid(IssueType::Value, text);
        }
        if !self.issues.is_empty() {
            return Err(Refused::Invalid(self.issues));
        }
        let mut needed = &self.request.types | &self.request.referenced;
        needed.extend(self.request.filters.types());
        let mut forbidden: BTreeSet<_> = needed.into_iter().filter(|needed| !granted.allows(*needed)).collect();
        forbidden.extend(self.request.needs_all_of().into_iter().filter(|needed| !granted.allows_all(*needed)));
        if forbidden.is_empty() { Ok(self.request) } else { Err(Refused::Forbidden(forbidden.into_iter().collect())) }
    }

    /// What the caller's rights are limited to is asked of the resources besides, and of deletions nothing can be asked.
    fn keep_within_rights(&mut self) {
        let types = &self.request.types | &self.request.referenced;
        let limits = |exported| self.terms.granted.limits(exported).iter().cloned();
        self.request.filters.granted = types.into_iter().flat_map(limits).collect();
        let untold: Vec<_> =
            self.request.types.iter().filter(|exported| !self.request.is_told_of_deletions(**exported)).collect();
        if self.request.since.is_some() && !untold.is_empty() {
            let names: Vec<_> = untold.iter().map(|exported| exported.as_str()).collect();
            self.request.remarks.push(format!(
                "Deletions of {} are not told: your rights are limited by a query, with which what is deleted cannot be \
                 compared.",
                names.join(", ")
            ));
        }
    }
}

/// What a comma-separated value lists (rule B4).
fn listed(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::binary::ndjson::FileSize;
    use crate::config::ByteSize;
    use crate::export::referenced::Wanted;
    use crate::fhir::parameters::from_query;
    use crate::fhir::reference::PatientBases;
    use crate::identity::{Extent, TypeGrant};

    fn read(query: &str, lenient: bool) -> Result<ExportRequest, Refused> {
        read_at(Level::System, query, lenient)
    }

    fn read_at(level: Level, query: &str, lenient: bool) -> Result<ExportRequest, Refused> {
        let terms = Terms {
            lenient,
            granted: &TypeGrant::All,
            referenced: &["Practitioner", "Location"].into_iter().filter_map(ResourceType::parse).collect(),
            bases: &PatientBases::default(),
        };
        let url = format!("https://h/fhir/{}", level.path());
        ExportRequest::read(url, level, &from_query(query).unwrap(), terms)
    }

    fn refused(query: &str) -> Vec<Issue> {
        match read(query, false) {
            Err(Refused::Invalid(issues)) => issues,
            other => panic!("{query}: {other:?}"),
        }
    }

    // B4, G4
    #[test]
    fn types_may_be_listed_and_repeated() {
        let request = read("_type=Patient,%20Task&_type=Task,Patient", false).unwrap();
        let types: Vec<_> = request.types.iter().map(|t| t.as_str()).collect();
        assert_eq!(types, ["Patient", "Task"]);
        assert_eq!(read("", false).unwrap().types.len(), 145);
    }

    // G2, L5, L7
    #[test]
    fn since_is_an_instant_whatever_its_zone() {
        let utc = read("_since=2026-04-16T12:05:13.449Z", false).unwrap();
        let zoned = read("_since=2026-04-16T14:05:13.449%2B02:00", false).unwrap();
        let blank = read("_since=2026-04-16T14:05:13.449+02:00", false).unwrap();
        assert_eq!(utc.since, zoned.since);
        assert_eq!(utc.since, blank.since);
        for bad in ["yesterday", "2026-04-16", "2026-04-16T12:05Z", "2026-04-16T12:05:13"] {
            assert_eq!(refused(&format!("_since={bad}"))[0].code, IssueType::Value, "{bad}");
        }
        assert!(read("_since=2026-04-16", true).is_ok());
        assert!(read("_since=yesterday", true).is_err());
    }

    // G1
    #[test]
    fn ndjson_has_three_names_and_an_unencoded_plus() {
        for name in ["ndjson", "application/ndjson", "application/fhir%2Bndjson", "application/fhir+ndjson"] {
            read(&format!("_outputFormat={name}"), false).unwrap();
        }
        assert_eq!(refused("_outputFormat=text/csv")[0].code, IssueType::NotSupported);
    }

    // B17, B20, G3, G4, G6, G14, G18
    #[test]
    fn every_problem_is_named_at_once() {
        let issues = refused("_type=Nope,Binary&_typeFilter=x&_since=1&_exportId=a/b&patient=Patient/1");
        assert_eq!(issues.len(), 6, "{issues:?}");
        assert_eq!(refused("_since=2026-01-01T00:00:00Z&_since=2026-01-01T00:00:00Z").len(), 1);
        assert_eq!(refused("_since=2026-01-02T00:00:00Z&_until=2026-01-01T00:00:00Z").len(), 1);
        assert!(read("_format=json&_pretty=true", false).is_ok());
    }

    #[test]
    fn only_so_much_is_told_or_left_out() {
        let types: Vec<_> = (0..5_000).map(|number| format!("Nope{number}")).collect();
        let query = format!("_type=Patient,{}", types.join(","));
        let issues = refused(&query);
        assert_eq!((issues.len(), &*issues[MOST_TOLD].text), (MOST_TOLD + 1, "There is more that is wrong."));
        let Err(Refused::Invalid(issues)) = read(&query, true) else { panic!() };
        assert_eq!((issues.len(), issues[0].code), (1, IssueType::TooLong));
        let query = format!("_type=Patient,{}", types[..MOST_TOLD].join(","));
        assert_eq!(read(&query, true).unwrap().remarks.len(), MOST_TOLD);
    }

    // G13
    #[test]
    fn files_may_be_asked_to_be_large_or_small() {
        const MIB: u64 = 1 << 20;
        let target = ByteSize::mebibytes(8);
        let sizes = |query: &str| {
            let request = read(query, false).unwrap();
            let FileSize { target: ends_at, max, .. } = request.file_size(target);
            (ends_at, max, request.part_size(target))
        };
        let part = 7 * MIB + 1;
        assert_eq!(sizes(""), (8 * MIB, u64::MAX, part));
        assert_eq!(sizes("_maximumFileSize=2097152"), (2 * MIB, 2 * MIB, part));
        assert_eq!(sizes("_maximumFileSize=90000000"), (8 * MIB, 90_000_000, part));
        assert_eq!(sizes("_minimumFileSize=5000000"), (u64::MAX, u64::MAX, 20_000_000));
        assert_eq!(sizes("_minimumFileSize=5&_maximumFileSize=2097152"), (2 * MIB, 2 * MIB, part));
        assert_eq!(sizes("_minimumFileSize=999999999999").2, 4 << 30);
        for bad in ["0", "-1", "1.5", "1MB", "", "99999999999999999999", "1048575"] {
            assert_eq!(refused(&format!("_maximumFileSize={bad}"))[0].code, IssueType::Value, "{bad}");
        }
        assert_eq!(refused("_minimumFileSize=2000000&_maximumFileSize=2000000")[0].code, IssueType::Invalid);
        assert_eq!(refused("_minimumFileSize=1&_minimumFileSize=1").len(), 1);
    }

    // G10, G13
    #[test]
    fn an_export_may_be_organised_by_patient() {
        const MIB: u64 = 1 << 20;
        let asked = |level, query| read_at(level, query, false).map(|request| request.by_patient);
        assert_eq!(asked(Level::Patients, "organizeOutputBy=Patient"), Ok(true));
        assert_eq!(asked(Level::Group("g".into()), "organizeOutputBy=%20Patient"), Ok(true));
        assert_eq!(asked(Level::Patients, ""), Ok(false));
        for (level, query) in [
            (Level::System, "organizeOutputBy=Patient"),
            (Level::Patients, "organizeOutputBy=Encounter"),
            (Level::Patients, "organizeOutputBy=patient"),
            (Level::Patients, "organizeOutputBy="),
        ] {
            let Err(Refused::Invalid(issues)) = read_at(level.clone(), query, false) else { panic!("{query}") };
            assert_eq!((issues.len(), issues[0].code), (1, IssueType::NotSupported), "{query}");
            let lenient = read_at(level, query, true).unwrap();
            assert_eq!((lenient.by_patient, lenient.remarks.len()), (false, 1), "{query}");
        }
        assert!(read_at(Level::Patients, "organizeOutputBy=Patient&organizeOutputBy=Patient", true).is_err());
        let size = |query: &str| {
            let query = format!("organizeOutputBy=Patient&{query}");
            let FileSize { target, split, max } =
                read_at(Level::Patients, &query, false).unwrap().file_size(ByteSize::mebibytes(8));
            (target, split, max)
        };
        assert_eq!(size(""), (8 * MIB, 32 * MIB, u64::MAX));
        assert_eq!(size("_maximumFileSize=2097152"), (MIB, 2 * MIB, 2 * MIB));
        assert_eq!(size("_maximumFileSize=90000000"), (8 * MIB, 32 * MIB, 90_000_000));
        assert_eq!(size("_minimumFileSize=5000000").1, u64::MAX);
        assert_eq!(size("_minimumFileSize=2000000&_maximumFileSize=3000000"), (2_000_000, 3_000_000, 3_000_000));
    }

    // G7, K21
    #[test]
    fn associated_data_is_listed_or_repeated_and_the_most_counts() {
        let asked = |query: &str| read(query, false).unwrap().associated;
        assert_eq!(asked("includeAssociatedData=LatestProvenanceResources"), Some(Associated::Latest));
        let both = "includeAssociatedData=RelevantProvenanceResources,LatestProvenanceResources";
        assert_eq!(asked(both), Some(Associated::Relevant));
        let repeated =
            "includeAssociatedData=LatestProvenanceResources&includeAssociatedData=RelevantProvenanceResources";
        assert_eq!(asked(repeated), Some(Associated::Relevant));
        let request = read("_type=Patient&includeAssociatedData=LatestProvenanceResources", false).unwrap();
        assert!(request.types.contains(&ResourceType::PROVENANCE), "it comes although _type does not name it");
        for bad in ["_custom", "latestProvenanceResources", ""] {
            assert_eq!(refused(&format!("includeAssociatedData={bad}")).len(), 1, "{bad}");
        }
        let lenient = read("includeAssociatedData=_custom,LatestProvenanceResources", true).unwrap();
        assert_eq!((lenient.associated, lenient.remarks.len()), (Some(Associated::Latest), 1));
        let granted = TypeGrant::of([ResourceType::PATIENT]);
        let terms =
            Terms { lenient: true, granted: &granted, referenced: &BTreeSet::new(), bases: &PatientBases::default() };
        let parameters = from_query("includeAssociatedData=LatestProvenanceResources").unwrap();
        let refused = ExportRequest::read("u".into(), Level::System, &parameters, terms);
        assert_eq!(refused, Err(Refused::Forbidden(vec![ResourceType::PROVENANCE])));
    }

    // B4, B17, G5
    #[test]
    fn elements_are_listed_or_repeated_and_belong_to_the_types_asked_for() {
        let request = read("_elements=id,%20Patient.name&_type=Patient,Task&_elements=birthDate", false).unwrap();
        assert_eq!(request, read("_type=Task,Patient&_elements=birthDate,id,Patient.name,id", false).unwrap());
        assert_ne!(request.elements, ElementList::default());
        let issues = refused("_elements=birthDate,Patient.nam,Nope.x&_type=Task");
        assert_eq!(issues.len(), 3, "{issues:?}");
        assert_eq!(refused("_elements=,").len(), 1);
        let lenient = read("_elements=birthDate,owner&_type=Task", true).unwrap();
        assert_eq!((lenient.remarks.len(), lenient.elements), (1, read("_elements=owner", false).unwrap().elements));
        assert!(read("_elements=Nope.x", true).is_err(), "it would export everything");
    }

    // G11, G15, G16, G18
    #[test]
    fn flags_are_true_or_false() {
        assert!(read("_includeHistory=true", false).unwrap().history);
        assert!(!read("_includeHistory=false&_mdm=false", false).unwrap().history);
        for bad in ["_includeHistory=yes", "_includeHistory=", "_mdm=1"] {
            assert_eq!(refused(bad)[0].code, IssueType::Value, "{bad}");
        }
        assert_eq!(refused("_mdm=true")[0].code, IssueType::NotSupported);
        assert_eq!(read("_mdm=true", true).unwrap().remarks.len(), 1);
        assert_eq!(refused("_includeHistory=true&_includeHistory=true&_mdm=false&_mdm=false").len(), 2);
        for (value, allowed) in [("true", true), ("false", false)] {
            assert_eq!(read(&format!("allowPartialManifests={value}"), false).unwrap().partial_manifests, allowed);
        }
        for bad in ["allowPartialManifests=1", "allowPartialManifests=true&allowPartialManifests=true"] {
            assert_eq!(refused(bad).len(), 1, "{bad}");
            assert!(read(bad, true).is_err(), "{bad}");
        }
    }

    // B17
    #[test]
    fn lenient_leaves_out_and_remarks_but_never_widens() {
        let request = read("_type=Patient,Nope&_foo=1&_foo=2", true).unwrap();
        assert_eq!(request.types.len(), 1);
        assert_eq!(request.remarks.len(), 2, "{:?}", request.remarks);
        assert!(read("_type=Nope", true).is_err());
        assert!(read("_type=", true).is_err());
        assert!(read("patient=Patient/1", true).is_err());
    }

    // A33
    #[test]
    fn types_are_limited_to_those_granted() {
        let granted = TypeGrant::of([ResourceType::PATIENT]);
        let practitioner = ResourceType::parse("Practitioner").unwrap();
        let referenced = BTreeSet::from([practitioner]);
        let terms =
            Terms { lenient: true, granted: &granted, referenced: &referenced, bases: &PatientBases::default() };
        let read = |level, query| ExportRequest::read("u".into(), level, &from_query(query).unwrap(), terms);
        assert_eq!(read(Level::System, "").unwrap().types.len(), 1);
        let task = ResourceType::parse("Task").unwrap();
        assert_eq!(read(Level::System, "_type=Task,Patient"), Err(Refused::Forbidden(vec![task])));
        assert!(read(Level::Patients, "").unwrap().referenced.is_empty());
        let named = read(Level::Patients, "_type=Practitioner,Patient");
        assert_eq!(named, Err(Refused::Forbidden(vec![practitioner])));
        let group = Level::Group("g".into());
        assert_eq!(read(group, "_type=Patient"), Err(Refused::Forbidden(vec![ResourceType::GROUP])));
    }

    // I20, I21: what a right is limited to is asked besides, of what comes out and of nothing else
    #[test]
    fn limited_rights_are_kept_within() {
        let [observation, condition] = ["Observation", "Condition"].map(|name| ResourceType::parse(name).unwrap());
        let [limit, of_group] =
            ["Observation?status=final", "Group?actual=true"].map(|text| Query::parse(text).unwrap());
        let limited = |query: &Query| Extent::Matching(vec![query.clone()]);
        let mut types = BTreeMap::from([(observation, limited(&limit)), (ResourceType::GROUP, limited(&of_group))]);
        types.extend([ResourceType::PATIENT, condition].map(|whole| (whole, Extent::Whole)));
        let granted = TypeGrant::Only(types);
        let (referenced, bases) = (BTreeSet::new(), PatientBases::default());
        let terms = Terms { lenient: false, granted: &granted, referenced: &referenced, bases: &bases };
        let read = |level, query| ExportRequest::read("u".into(), level, &from_query(query).unwrap(), terms);
        let request = read(Level::System, "_typeFilter=Observation?code=x").unwrap();
        assert_eq!(request.filters.limits(observation), [&limit]);
        assert_eq!(request.not_covered_by(&granted), None);
        assert_eq!(request.not_covered_by(&TypeGrant::of([observation])), Some(condition));
        let stored = serde_json::from_value::<ExportRequest>(serde_json::to_value(&request).unwrap()).unwrap();
        assert_eq!(stored, request);
        let narrow = read(Level::System, "_type=Patient&_since=2026-01-01T00:00:00Z").unwrap();
        assert!(narrow.filters == Filters::default() && narrow.remarks.is_empty());
        let since = read(Level::System, "_since=2026-01-01T00:00:00Z").unwrap();
        assert!(!since.is_told_of_deletions(observation) && since.is_told_of_deletions(condition));
        assert!(since.remarks[0].contains("Observation") && !since.remarks[0].contains("Condition"));
        // What is not given in whole must not be learnt by asking for others.
        let search = "_type=Patient&_typeFilter=Patient?_has:Observation:patient:code=x";
        assert_eq!(read(Level::System, search), Err(Refused::Forbidden(vec![observation])));
        let group = read(Level::Group("g".into()), "_type=Patient");
        assert_eq!(group, Err(Refused::Forbidden(vec![ResourceType::GROUP])));
    }

    // B3, G6
    #[test]
    fn patients_are_references_or_ids_listed_or_repeated() {
        let query = "patient=Patient/a,b&patient=https://x/fhir/Patient/c/_history/2,%20Patient/a";
        let request = read_at(Level::Patients, query, false).unwrap();
        assert_eq!(request.patients.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
        for bad in ["", "Group/a", "Patient/", "Patient/a,", "Patient%3Fidentifier=x"] {
            assert!(read_at(Level::Patients, &format!("patient={bad}"), true).is_err(), "{bad}");
        }
    }

    // B.5, G4, H4
    #[test]
    fn types_outside_the_compartment_are_refused_or_left_out() {
        assert_eq!(read_at(Level::Patients, "", false).unwrap().types.len(), 66);
        assert!(read_at(Level::Patients, "_type=Patient,Task", false).is_err());
        let request = read_at(Level::Patients, "_type=Patient,Task", true).unwrap();
        assert_eq!((request.types.len(), request.remarks.len()), (1, 1));
        assert!(read_at(Level::Patients, "_type=Task", true).is_err());
    }

    // G4, H8
    #[test]
    fn configured_types_come_by_reference_below_the_system() {
        let wanted = |level, query| read_at(level, query, false).unwrap().wanted_references();
        let types = |wanted: Option<Wanted>| wanted.map_or(0, |wanted| wanted.types.len());
        assert_eq!(types(wanted(Level::System, "")), 0);
        assert_eq!(types(wanted(Level::System, "_type=Practitioner")), 0);
        assert_eq!(types(wanted(Level::Group("g".into()), "")), 2);
        assert_eq!(types(wanted(Level::Patients, "_type=Patient")), 0);
        assert_eq!(types(wanted(Level::Patients, "_type=Patient,Location")), 1);
        assert_eq!(wanted(Level::Patient("p".into()), "").unwrap().base, "https://h/fhir");
        assert!(read_at(Level::Patients, "_type=Location&_elements=name,telecom,Patient.name", false).is_err());
        let elements = "_type=Location,Patient&_elements=position";
        assert!(read_at(Level::Patients, elements, false).is_ok());
        let Err(Refused::Invalid(issues)) = read_at(Level::Patients, "_type=Location", true) else { panic!() };
        assert!(issues[0].text.contains("Location resources come where others refer"), "{issues:?}");
    }
}
