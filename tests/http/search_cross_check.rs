//! Filters against an independent evaluation: named queries, each beside what it means in plain Rust over plain JSON.
//! Nothing of `src/search` is in here, so that a mistake of the one is no mistake of the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use time::format_description::well_known::Rfc3339;
use time::{Date, Duration, OffsetDateTime};

use crate::support::{Database, Server};

/// What neither sample has: codes without a system, separators in values, dates that are half known.
const EDGES: [&str; 8] = [
    r#"{"resourceType":"Patient","id":"edge-1","identifier":[{"system":"urn:edge","value":"a|b,c$d"}],"active":false,"name":[{"family":"test"}],"gender":"other","birthDate":"1985-04"}"#,
    r#"{"resourceType":"Patient","id":"edge-2","identifier":[{"system":"urn:other","value":"a|b,c$d"}],"active":true,"name":[{"family":"O'Hara"}],"birthDate":"1985"}"#,
    r#"{"resourceType":"Patient","id":"edge-3","identifier":[{"system":"urn:edge","value":"a"}],"birthDate":"2016"}"#,
    r#"{"resourceType":"Encounter","id":"edge-4","status":"in-progress","class":{"code":"AMB"},"serviceProvider":{"identifier":{"system":"https://github.com/synthetichealth/synthea","value":"d5117822-5756-389d-9547-891a372d580f"}},"period":{"start":"2016-03"}}"#,
    r#"{"resourceType":"Observation","id":"edge-5","status":"preliminary","code":{"coding":[{"code":"8867-4"}]},"effectivePeriod":{"start":"2016-08-01","end":"2016-09"},"valueQuantity":{"value":13.4999,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}}"#,
    r#"{"resourceType":"Observation","id":"edge-6","status":"final","code":{"text":"8867-4"},"subject":{"reference":"Group/20014"},"effectiveDateTime":"2016-08","valueQuantity":{"value":13.5,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}}"#,
    r#"{"resourceType":"RiskAssessment","id":"edge-7","status":"final","subject":{"reference":"Patient/edge-1"},"prediction":[{"probabilityDecimal":0.1},{"probabilityDecimal":0.8}]}"#,
    r#"{"resourceType":"RiskAssessment","id":"edge-8","status":"final","subject":{"reference":"Patient/edge-1"},"prediction":[{"probabilityDecimal":0.5}]}"#,
];

/// A set of data, and its column in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    /// What is in the repository: `sample`, the infrastructure's, and the edges.
    Committed,
    Small,
    Medium,
}

type Counts = [usize; 3];

/// A query, or several of one type, and which resources of the type it admits.
struct Named {
    name: &'static str,
    queries: &'static [&'static str],
    counts: Counts,
    admits: fn(&Value) -> bool,
}

const fn named(
    name: &'static str,
    queries: &'static [&'static str],
    counts: Counts,
    admits: fn(&Value) -> bool,
) -> Named {
    Named { name, queries, counts, admits }
}

const LOINC: &str = "http://loinc.org";
const UCUM: &str = "http://unitsofmeasure.org";

const NAMED: [Named; 33] = [
    named("code of a system", &["Observation?code=http://loinc.org|8302-2"], [97, 63, 2812], |o| {
        coded(o, "code.coding", LOINC, "8302-2")
    }),
    named("either code", &["Observation?code=8867-4,NPU21692"], [204, 53, 2223], |o| {
        at(o, "code.coding.code").iter().any(|code| *code == "8867-4" || *code == "NPU21692")
    }),
    named("code without a system", &["Observation?code=|8867-4"], [1, 0, 0], |o| {
        at(o, "code.coding").iter().any(|coding| coding["code"] == "8867-4" && coding["system"].is_null())
    }),
    named("any code of a system", &["Patient?identifier=urn:oid:2.16.840.1.113883.4.3.25|"], [6, 9, 201], |p| {
        at(p, "identifier.system").iter().any(|system| *system == "urn:oid:2.16.840.1.113883.4.3.25")
    }),
    named(
        "system that a code has from its value set",
        &["Patient?gender=http://hl7.org/fhir/administrative-gender|female"],
        [6, 3, 123],
        |p| p["gender"] == "female",
    ),
    named("boolean", &["Patient?active=false"], [1, 0, 2], |p| p["active"] == false),
    named(
        "separators in a value",
        &[r"Patient?identifier=urn:edge|a\|b\,c\$d,http://hospital.smarthealthit.org|6266433"],
        [2, 0, 1],
        |p| {
            at(p, "identifier").iter().any(|identifier| match identifier["system"].as_str() {
                Some("urn:edge") => identifier["value"] == "a|b,c$d",
                Some("http://hospital.smarthealthit.org") => identifier["value"] == "6266433",
                _ => false,
            })
        },
    ),
    named("not", &["Condition?category:not=encounter-diagnosis"], [8, 41, 1500], |c| {
        !at(c, "category.coding.code").iter().any(|code| *code == "encounter-diagnosis")
    }),
    named("missing", &["Condition?abatement-date:missing=true"], [35, 30, 1724], |c| {
        c["abatementDateTime"].is_null() && c["abatementPeriod"].is_null()
    }),
    named("text of a code", &["Condition?code:text=ACUTE,hjerte"], [6, 4, 304], |c| {
        let texts = [at(c, "code.text"), at(c, "code.coding.display")].concat();
        texts.iter().any(|text| starts(text, &["acute", "hjerte"]))
    }),
    named("start of a string", &["Patient?family=VADS,h"], [4, 0, 27], |p| {
        at(p, "name.family").iter().any(|family| starts(family, &["vads", "h"]))
    }),
    named("exact string", &["Patient?family:exact=Test,Erdman"], [3, 1, 1], |p| {
        at(p, "name.family").iter().any(|family| *family == "Test" || *family == "Erdman")
    }),
    named("part of a string", &["Organization?name:contains=Hospital"], [5, 6, 62], |o| {
        let names = [at(o, "name"), at(o, "alias")].concat();
        names.iter().any(|name| plain(name).contains("hospital"))
    }),
    named("date of three precisions", &["Patient?birthdate=1985,2016-07,2010-10-26"], [6, 1, 2], |p| {
        let of = |date| spans(p, &["birthDate"]).iter().any(|born| born.is_within(date));
        of("1985") || of("2016-07") || of("2010-10-26")
    }),
    named(
        "from a day to a minute",
        &["Observation?date=ge2016-08-15&date=lt2018-10-17T10:21Z"],
        [180, 305, 6823],
        |o| {
            let done = spans(o, &["effectiveDateTime", "effectivePeriod"]);
            done.iter().any(|done| done.is_within("2016-08-15") || done.reaches_after("2016-08-15"))
                && done.iter().any(|done| done.reaches_before("2018-10-17T10:21Z"))
        },
    ),
    named("period after or before", &["Encounter?date=sa2016-03,eb1999-10-05T10:00Z"], [55, 73, 6313], |e| {
        spans(e, &["period"]).iter().any(|period| period.is_after("2016-03") || period.is_before("1999-10-05T10:00Z"))
    }),
    named("period not within a year", &["Encounter?date=ne2018"], [99, 145, 9918], |e| {
        spans(e, &["period"]).iter().any(|period| !period.is_within("2018"))
    }),
    named(
        "period up to a month, or after an instant",
        &["Encounter?date=le1999-12,gt2016-03-20T12:00:00Z"],
        [56, 73, 6368],
        |e| {
            spans(e, &["period"]).iter().any(|period| {
                period.is_within("1999-12")
                    || period.reaches_before("1999-12")
                    || period.reaches_after("2016-03-20T12:00:00Z")
            })
        },
    ),
    named("timing", &["ServiceRequest?occurrence=sa2025-11-27"], [7, 0, 0], |s| {
        spans(s, &["occurrenceDateTime", "occurrencePeriod", "occurrenceTiming.repeat.boundsPeriod"])
            .iter()
            .any(|occurrence| occurrence.is_after("2025-11-27"))
    }),
    named("number", &["RiskAssessment?probability=gt0.5"], [1, 0, 0], |r| {
        at(r, "prediction.probabilityDecimal").iter().any(|value| number(value) > 0.5)
    }),
    named("quantity above", &["Observation?value-quantity=gt100|http://unitsofmeasure.org|cm"], [25, 33, 2296], |o| {
        measured(&o["valueQuantity"], "cm", |value| value > 100.0)
    }),
    named(
        "quantity as precise as it is written",
        &["Observation?value-quantity=13|http://unitsofmeasure.org|/min"],
        [33, 12, 572],
        |o| measured(&o["valueQuantity"], "/min", |value| (12.5..13.5).contains(&value)),
    ),
    named("quantity of a unit", &["Observation?value-quantity=le60||kg,ge97.5||/min"], [100, 42, 1399], |o| {
        let quantity = &o["valueQuantity"];
        let of = |unit: &str| quantity["unit"] == unit || quantity["code"] == unit;
        let value = number(&quantity["value"]);
        (of("kg") && value <= 60.0) || (of("/min") && value >= 97.5)
    }),
    named(
        "code with its value",
        &["Observation?code-value-quantity=http://loinc.org|8302-2$gt150,NPU03804$lt80"],
        [56, 26, 1826],
        |o| {
            let value = number(&o["valueQuantity"]["value"]);
            (coded(o, "code.coding", LOINC, "8302-2") && value > 150.0)
                || (at(o, "code.coding.code").iter().any(|code| *code == "NPU03804") && value < 80.0)
        },
    ),
    named(
        "code with its value in one component",
        &["Observation?component-code-value-quantity=http://loinc.org|8480-6$lt110"],
        [7, 4, 387],
        |o| {
            at(o, "component").iter().any(|component| {
                coded(component, "code.coding", LOINC, "8480-6")
                    && component["valueQuantity"]["value"].as_f64().is_some_and(|value| value < 110.0)
            })
        },
    ),
    named(
        "reference by type and id, or by id",
        &[
            "Observation?subject=Patient/85c63cf3-278e-454c-b5ba-df5889815eb7,20014,Patient/23b32be5-0322-4bfe-8f3a-a12b2822f8dc",
        ],
        [236, 213, 2849],
        |o| match o["subject"]["reference"].as_str().and_then(|reference| reference.split_once('/')) {
            Some(("Patient", id)) => {
                ["85c63cf3-278e-454c-b5ba-df5889815eb7", "20014", "23b32be5-0322-4bfe-8f3a-a12b2822f8dc"].contains(&id)
            }
            Some((_, id)) => id == "20014",
            None => false,
        },
    ),
    named(
        "reference of a type",
        &["Observation?subject:Patient=85c63cf3-278e-454c-b5ba-df5889815eb7,20014"],
        [235, 213, 344],
        |o| {
            let reference = &o["subject"]["reference"];
            *reference == "Patient/85c63cf3-278e-454c-b5ba-df5889815eb7" || *reference == "Patient/20014"
        },
    ),
    named(
        "identifier of what is referred to",
        &[
            "Encounter?service-provider:identifier=https://github.com/synthetichealth/synthea|d5117822-5756-389d-9547-891a372d580f",
        ],
        [1, 8, 29],
        |e| {
            let identifier = &e["serviceProvider"]["identifier"];
            identifier["system"] == "https://github.com/synthetichealth/synthea"
                && identifier["value"] == "d5117822-5756-389d-9547-891a372d580f"
        },
    ),
    named(
        "profile",
        &["Observation?_profile=http://hl7.org/fhir/StructureDefinition/vitalsigns"],
        [717, 260, 8216],
        |o| {
            at(o, "meta.profile").iter().any(|profile| *profile == "http://hl7.org/fhir/StructureDefinition/vitalsigns")
        },
    ),
    named("tag", &["QuestionnaireResponse?_tag=http://ehealth.sundhed.dk/cs/ehealth-system|xa,xc"], [17, 0, 0], |r| {
        coded(r, "meta.tag", "http://ehealth.sundhed.dk/cs/ehealth-system", "xa")
            || at(r, "meta.tag.code").iter().any(|code| *code == "xc")
    }),
    named(
        "id",
        &["Patient?_id=20000,85c63cf3-278e-454c-b5ba-df5889815eb7,e24537ec-c094-4b68-9fb1-c4a418de84ed"],
        [2, 1, 2],
        |p| {
            ["20000", "85c63cf3-278e-454c-b5ba-df5889815eb7", "e24537ec-c094-4b68-9fb1-c4a418de84ed"]
                .iter()
                .any(|id| p["id"] == *id)
        },
    ),
    named(
        "all of several",
        &["Observation?category=vital-signs&date=ge2010&value-quantity=gt90"],
        [43, 69, 2588],
        |o| {
            at(o, "category.coding.code").iter().any(|code| *code == "vital-signs")
                && spans(o, &["effectiveDateTime", "effectivePeriod"])
                    .iter()
                    .any(|done| done.is_within("2010") || done.reaches_after("2010"))
                && o["valueQuantity"]["value"].as_f64().is_some_and(|value| value > 90.0)
        },
    ),
    named(
        "any of several queries",
        &["Observation?code=http://loinc.org|29463-7,NPU03804", "Observation?date=2016-08"],
        [231, 89, 3104],
        |o| {
            coded(o, "code.coding", LOINC, "29463-7")
                || at(o, "code.coding.code").iter().any(|code| *code == "NPU03804")
                || spans(o, &["effectiveDateTime", "effectivePeriod"]).iter().any(|done| done.is_within("2016-08"))
        },
    ),
];

/// The elements at the end of a path.
fn at<'a>(from: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![from];
    for member in path.split('.') {
        let below = found.into_iter().filter_map(|element| element.get(member));
        found =
            below.flat_map(|element| element.as_array().map_or(vec![element], |all| all.iter().collect())).collect();
    }
    found
}

fn coded(from: &Value, path: &str, system: &str, code: &str) -> bool {
    at(from, path).iter().any(|coding| coding["system"] == system && coding["code"] == code)
}

/// Without case and accents, as far as the queries need it.
fn plain(text: &Value) -> String {
    text.as_str().unwrap().to_lowercase().replace('å', "a")
}

fn starts(text: &Value, with: &[&str]) -> bool {
    with.iter().any(|start| plain(text).starts_with(start))
}

/// Not a number: nothing holds of it.
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn measured(quantity: &Value, code: &str, is: fn(f64) -> bool) -> bool {
    quantity["system"] == UCUM && quantity["code"] == code && is(number(&quantity["value"]))
}

/// The time that a date or a period covers, up to but not including its end.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: OffsetDateTime,
    to: OffsetDateTime,
}

/// Those of all elements at the ends of these paths.
fn spans(resource: &Value, paths: &[&str]) -> Vec<Span> {
    let elements = paths.iter().flat_map(|path| at(resource, path));
    let of = |element: &Value| match element.as_str() {
        Some(date) => span(date),
        None => Span {
            from: element["start"].as_str().map_or(Date::MIN.midnight().assume_utc(), |start| span(start).from),
            to: element["end"].as_str().map_or(Date::MAX.midnight().assume_utc(), |end| span(end).to),
        },
    };
    elements.map(of).collect()
}

/// `2016`, `2016-08`, `2016-08-15`, and times as precise as they are written, with a zone.
fn span(text: &str) -> Span {
    let day = |year: &str, months: i32, day: u8| {
        let month = time::Month::try_from(u8::try_from(months % 12 + 1).unwrap()).unwrap();
        let year = year.parse::<i32>().unwrap() + months / 12;
        Date::from_calendar_date(year, month, day).unwrap().midnight().assume_utc()
    };
    let lasting = |text: &str, length: Duration| {
        let from = OffsetDateTime::parse(text, &Rfc3339).unwrap();
        Span { from, to: from + length }
    };
    match text.len() {
        4 => Span { from: day(text, 0, 1), to: day(text, 12, 1) },
        7 => {
            let months: i32 = text[5..].parse().unwrap();
            Span { from: day(&text[..4], months - 1, 1), to: day(&text[..4], months, 1) }
        }
        10 => lasting(&format!("{text}T00:00:00Z"), Duration::DAY),
        17 => lasting(&text.replace('Z', ":00Z"), Duration::MINUTE),
        20 | 25 => lasting(text, Duration::SECOND),
        _ => {
            let digits = text[20..].bytes().take_while(u8::is_ascii_digit).count();
            lasting(text, Duration::SECOND / 10_i32.pow(u32::try_from(digits).unwrap()))
        }
    }
}

// The prefixes as the specification has them; `ge` is `is_within` or `reaches_after`, `ne` is not `is_within`.
impl Span {
    /// `eq`: "the range of the search value fully contains the range of the target value".
    fn is_within(self, date: &str) -> bool {
        let date = span(date);
        date.from <= self.from && self.to <= date.to
    }

    /// `gt`: "the range above the search value intersects with the range of the target value".
    fn reaches_after(self, date: &str) -> bool {
        self.to > span(date).to
    }

    /// `lt`: the same for the range below.
    fn reaches_before(self, date: &str) -> bool {
        self.from < span(date).from
    }

    /// `sa`
    fn is_after(self, date: &str) -> bool {
        self.from >= span(date).to
    }

    /// `eb`
    fn is_before(self, date: &str) -> bool {
        self.to <= span(date).from
    }
}

/// A server on a set of data, and the same data as JSON.
struct Store {
    _database: Database,
    server: Server,
    data: Data,
    resources: BTreeMap<String, Vec<Value>>,
}

impl Store {
    async fn committed() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self::of(Data::Committed, &[root.join("sample"), root.join("tests/data/ehealth-demo")], &EDGES).await
    }

    /// The set in the folder that the environment names.
    async fn given() -> Self {
        let folder = PathBuf::from(std::env::var_os("CROSS_CHECK_DATA").expect("CROSS_CHECK_DATA names a folder"));
        let data = match folder.file_name().and_then(|name| name.to_str()) {
            Some("small") => Data::Small,
            Some("medium") => Data::Medium,
            _ => panic!("{}: neither small nor medium", folder.display()),
        };
        Self::of(data, &[folder], &[]).await
    }

    async fn of(data: Data, folders: &[PathBuf], more: &[&str]) -> Self {
        let files: Vec<PathBuf> = folders
            .iter()
            .flat_map(|folder| folder.read_dir().unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "ndjson"))
            .collect();
        let database = Database::create().await;
        let arguments: Vec<&str> = files.iter().filter_map(|file| file.to_str()).collect();
        let output = database.load(&arguments, b"").await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        database.put(more).await;
        let texts: Vec<String> = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        let mut resources: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for line in texts.iter().flat_map(|text| text.lines()).chain(more.iter().copied()) {
            let resource: Value = serde_json::from_str(line).unwrap();
            resources.entry(resource["resourceType"].as_str().unwrap().to_owned()).or_default().push(resource);
        }
        let server = Server::start(&database).await;
        Self { _database: database, server, data, resources }
    }

    /// The resources of a type of which this holds, as `Type/id`.
    fn all(&self, type_name: &str, admits: impl Fn(&Value) -> bool) -> BTreeSet<String> {
        let of_type = self.resources.get(type_name).map(Vec::as_slice).unwrap_or_default();
        let admitted = of_type.iter().filter(|resource| admits(resource));
        admitted.map(|resource| format!("{type_name}/{}", resource["id"].as_str().unwrap())).collect()
    }

    /// What an export of the type puts out with these queries.
    async fn exported(&self, type_name: &str, parameter: &str, queries: &[&str]) -> BTreeSet<String> {
        let parameters = queries.iter().map(|query| (parameter, *query)).chain([("_type", type_name)]);
        let url = format!("{}/$export", self.server.base);
        let url = reqwest::Url::parse_with_params(&url, parameters).unwrap();
        let anybody = self.server.anybody();
        let manifest = anybody.accepted(anybody.export_at(url.as_str())).await.completed().await;
        assert_eq!(manifest.urls("error"), [""; 0], "{queries:?}");
        manifest.resources().await.into_keys().collect()
    }

    /// What is wrong with the outcome of these queries.
    async fn fault(
        &self,
        parameter: &str,
        queries: &[&str],
        expected: &BTreeSet<String>,
        counts: Counts,
    ) -> Option<String> {
        let type_name = queries[0].split('?').next().unwrap();
        let found = self.exported(type_name, parameter, queries).await;
        let count = counts[self.data as usize];
        let some = |ids: std::collections::btree_set::Difference<'_, String>| ids.take(5).cloned().collect::<Vec<_>>();
        (found != *expected || expected.len() != count).then(|| {
            format!(
                "{parameter} {queries:?}: {} found, {} expected, {count} pinned; missing {:?}; too many {:?}",
                found.len(),
                expected.len(),
                some(expected.difference(&found)),
                some(found.difference(expected)),
            )
        })
    }

    /// Every named query; every second one as `_typePostFetchFilterUrl`, too.
    async fn agrees_on_queries(&self) {
        let mut faults = Vec::new();
        for (number, named) in NAMED.iter().enumerate() {
            let expected = self.all(named.queries[0].split('?').next().unwrap(), named.admits);
            let parameters = ["_typeFilter", "_typePostFetchFilterUrl"];
            for parameter in parameters.iter().take(1 + (number + 1) % 2) {
                let fault = self.fault(parameter, named.queries, &expected, named.counts).await;
                faults.extend(fault.map(|fault| format!("{}: {fault}", named.name)));
            }
        }
        assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    }

    /// Queries that depend on other resources.
    async fn agrees_on_chains(&self) {
        let has = |ids: &BTreeSet<String>, reference: &Value| reference.as_str().is_some_and(|id| ids.contains(id));
        let women = self.all("Patient", |p| p["gender"] == "female");
        let of_women = self.all("Condition", |c| has(&women, &c["subject"]["reference"]));
        let born_late = self.all("Patient", |p| {
            spans(p, &["birthDate"]).iter().any(|born| born.is_within("2000") || born.reaches_after("2000"))
        });
        let of_them = self.all("Encounter", |e| has(&born_late, &e["subject"]["reference"]));
        let measured: BTreeSet<&str> = self.resources["Observation"]
            .iter()
            .filter(|o| at(o, "code.coding.code").iter().any(|code| *code == "9843-4" || *code == "NPU03011"))
            .filter_map(|o| o["subject"]["reference"].as_str())
            .collect();
        let who = self.all("Patient", |p| measured.contains(&*format!("Patient/{}", p["id"].as_str().unwrap())));
        let mut faults = Vec::new();
        for (query, expected, counts) in [
            ("Condition?subject:Patient.gender=female", of_women, [26, 27, 2443]),
            ("Encounter?subject.birthdate=ge2000", of_them, [68, 44, 1262]),
            ("Patient?_has:Observation:patient:code=9843-4,NPU03011", who, [12, 2, 31]),
        ] {
            faults.extend(self.fault("_typeFilter", &[query], &expected, counts).await);
        }
        assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    }
}

// G9, G12: the sample and the infrastructure's data
#[tokio::test]
async fn filters_mean_what_plain_code_makes_of_them() {
    let store = Store::committed().await;
    for named in &NAMED {
        let count = named.counts[Data::Committed as usize];
        let all = store.all(named.queries[0].split('?').next().unwrap(), |_| true).len();
        assert!(0 < count && count < all, "{}: {count} of {all} tells nothing", named.name);
    }
    store.agrees_on_queries().await;
}

// G9: what must be looked for in other resources first
#[tokio::test]
async fn chains_mean_what_plain_code_makes_of_them() {
    Store::committed().await.agrees_on_chains().await;
}

/// On more data than may lie in this repository. Unpack it into a folder called `small` or `medium`, and run
/// `CROSS_CHECK_DATA=…/medium cargo test --test http cross_check -- --ignored`.
// G9, G12
#[tokio::test]
#[ignore = "needs data that is not in the repository"]
async fn filters_mean_the_same_on_more_data() {
    let store = Store::given().await;
    store.agrees_on_queries().await;
    store.agrees_on_chains().await;
}
