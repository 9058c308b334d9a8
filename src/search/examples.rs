//! The examples of the search specification (R4, 3.1.1), each as a query, a resource, and whether it matches.

use time::macros::datetime;

use super::{Context, Filters, Judgement, Query};
use crate::fhir::reference::PatientBases;

/// Judges a resource of a type, of whose members these are written.
fn judge(query: &str, members: &str) -> Judgement {
    let query = Query::parse(query).unwrap_or_else(|error| panic!("{query}: {error:?}"));
    let resource_type = query.resource_type();
    let mut filters = Filters::default();
    filters.queries.push(query);
    let context = Context { at: datetime!(2026-01-01 0:00 UTC), bases: PatientBases::default() };
    let comma = if members.is_empty() { "" } else { "," };
    let body = format!(r#"{{"resourceType":"{resource_type}","id":"x"{comma}{members}}}"#);
    filters.of(resource_type).unwrap().judge(&body, &context, &|_| None)
}

fn check(table: &[(&str, &str, bool)]) {
    let wrong: Vec<String> = table
        .iter()
        .filter_map(|(query, members, matches)| {
            let judgement = judge(query, members);
            let expected = if *matches { Judgement::Admitted } else { Judgement::LeftOut };
            (judgement != expected).then(|| format!("{query} on {members}: {judgement:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

// 3.1.1.4.8
#[test]
fn strings_begin_with_contain_or_are() {
    let name = |family: &str| format!(r#""name":[{{"family":"{family}","given":["Eve","Ann"]}}]"#);
    let (carreno, eve, carre, son) = (name("Carreño"), name("Jones"), name("CARREÑO-QUIÑONES"), name("Son"));
    check(&[
        ("Patient?given=eve", &eve, true),
        ("Patient?given=Ev", &eve, true),
        ("Patient?given=ve", &eve, false),
        ("Patient?given=ann", &eve, true),
        ("Patient?given:contains=ve", &eve, true),
        ("Patient?given:contains=VE", &eve, true),
        ("Patient?given:exact=Eve", &eve, true),
        ("Patient?given:exact=eve", &eve, false),
        ("Patient?given:exact=EVE", &eve, false),
        ("Patient?family=carreno", &carreno, true),
        ("Patient?family=Carreño", &carre, true),
        ("Patient?family:contains=quinones", &carre, true),
        ("Patient?family:contains=son", &son, true),
        ("Patient?family:exact=Carreno", &carreno, false),
        ("Patient?name=jon", &eve, true),
        ("Patient?name=ann", &eve, true),
        ("Patient?name=none", &eve, false),
        ("Patient?address=oslo", r#""address":[{"line":["Street 1"],"city":"Oslo"}]"#, true),
        ("Patient?address=street", r#""address":[{"line":["Street 1"],"city":"Oslo"}]"#, true),
        ("Patient?address-city=street", r#""address":[{"line":["Street 1"],"city":"Oslo"}]"#, false),
        (r"Organization?name=a\,b", r#""name":"A,B""#, true),
        ("Organization?name=a,b", r#""name":"Berg""#, true),
    ]);
}

// 3.1.1.4.7
#[test]
fn dates_are_stretches_as_long_as_they_are_precise() {
    let born = |date: &str| format!(r#""birthDate":"{date}""#);
    let (day, month, next) = (born("2013-01-14"), born("2013-01"), born("2013-01-15"));
    let at = |instant: &str| format!(r#""effectiveDateTime":"{instant}""#);
    let (midnight, ten, eleven) = (at("2013-01-14T00:00:00Z"), at("2013-01-14T10:00:00Z"), at("2013-01-15T00:00:00Z"));
    let period = |start: &str, end: &str| {
        let limit =
            |name: &str, date: &str| if date.is_empty() { String::new() } else { format!(r#""{name}":"{date}""#) };
        let comma = if start.is_empty() || end.is_empty() { "" } else { "," };
        format!(r#""effectivePeriod":{{{}{comma}{}}}"#, limit("start", start), limit("end", end))
    };
    let (from_january, until_march, across) =
        (period("2013-01-21", ""), period("", "2013-03-14"), period("2013-03-10", "2013-03-20"));
    let before = period("2013-01-01", "2013-03-13");
    check(&[
        ("Patient?birthdate=eq2013-01-14", &day, true),
        ("Patient?birthdate=2013-01", &day, true),
        ("Patient?birthdate=2013", &month, true),
        ("Patient?birthdate=2013-01-14", &month, false),
        ("Patient?birthdate=ne2013-01-14", &next, true),
        ("Patient?birthdate=ne2013-01-14", &day, false),
        // 2013-01-14T00:00 and 2013-01-14T10:00, obviously, but not 2013-01-15T00:00.
        ("Observation?date=eq2013-01-14", &midnight, true),
        ("Observation?date=eq2013-01-14", &ten, true),
        ("Observation?date=eq2013-01-14", &eleven, false),
        ("Observation?date=ne2013-01-14", &eleven, true),
        ("Observation?date=ne2013-01-14", &midnight, false),
        // Less than 10:00 of the day includes the day, because it includes the part of it before 10:00.
        ("Observation?date=lt2013-01-14T10:00", &at("2013-01-14"), true),
        ("Observation?date=gt2013-01-14T10:00", &at("2013-01-14"), true),
        ("Observation?date=lt2013-01-14T10:00", &ten, false),
        ("Observation?date=ge2013-03-14", &from_january, true),
        ("Observation?date=ge2013-03-14", &before, false),
        ("Observation?date=le2013-03-14", &from_january, true),
        ("Observation?date=sa2013-03-14", &from_january, false),
        ("Observation?date=sa2013-01-20", &from_january, true),
        ("Observation?date=eb2013-03-14", &from_january, false),
        ("Observation?date=eb2013-03-15", &until_march, true),
        ("Observation?date=eb2013-03-14", &until_march, false),
        ("Observation?date=eq2013-03", &across, true),
        ("Observation?date=eq2013-03-14", &across, false),
        ("Observation?date=gt2013-03-14", &across, true),
        ("Observation?date=lt2013-03-14", &across, true),
        ("Observation?date=ap2013-03-14", &across, true),
        // Now is the first day of 2026: a tenth of thirteen years on either side.
        ("Observation?date=ap2013-03-14", &at("2014-01-01"), true),
        ("Observation?date=ap2013-03-14", &at("2015-01-01"), false),
        ("Observation?date=ge2010-01-01&date=le2011-12-31", &at("2011-06-01"), true),
        ("Observation?date=ge2010-01-01&date=le2011-12-31", &at("2012-01-01"), false),
        ("Observation?date=2013-01-14T11:00:00+01:00", &ten, true),
        ("Observation?date=2013-01-14T11:00:00%2B01:00", &ten, true),
        ("Observation?date=2013-01-14T11:00:00 01:00", &ten, true),
        ("Observation?date=2013-01-14T10:00:00Z", r#""effectiveInstant":"2013-01-14T10:00:00.5Z""#, true),
        // Of a Timing the outer limits count.
        (
            "Observation?date=2013-02-01",
            r#""effectiveTiming":{"repeat":{"boundsPeriod":{"start":"2013-01-31","end":"2013-03-24"}}}"#,
            false,
        ),
        (
            "Observation?date=ap2013-02-01",
            r#""effectiveTiming":{"repeat":{"boundsPeriod":{"start":"2013-01-31","end":"2013-03-24"}}}"#,
            true,
        ),
        ("Observation?date=gt2013-02-01", r#""effectiveTiming":{"event":["2013-01-01","2013-02-02"]}"#, true),
        ("Observation?date=sa2013-02-01", r#""effectiveTiming":{"event":["2013-01-01","2013-02-02"]}"#, false),
        ("Observation?date=2013", r#""effectiveTiming":{"code":{"text":"daily"}}"#, false),
    ]);
}

// 3.1.1.4.5
#[test]
fn numbers_are_as_precise_as_they_are_written() {
    let risk = |number: &str| format!(r#""prediction":[{{"probabilityDecimal":{number}}}]"#);
    let range = r#""prediction":[{"probabilityRange":{"low":{"value":0.5},"high":{"value":0.9}}}]"#.to_owned();
    check(&[
        ("RiskAssessment?probability=100", &risk("99.5"), true),
        ("RiskAssessment?probability=100", &risk("100.4999999999999999999999999999999999"), true),
        ("RiskAssessment?probability=100", &risk("100.5"), false),
        ("RiskAssessment?probability=100.00", &risk("100.4"), false),
        ("RiskAssessment?probability=100.00", &risk("100.00499"), true),
        ("RiskAssessment?probability=1e2", &risk("95"), true),
        ("RiskAssessment?probability=1e2", &risk("104.9"), true),
        ("RiskAssessment?probability=1e2", &risk("105"), false),
        ("RiskAssessment?probability=lt100", &risk("99.999"), true),
        ("RiskAssessment?probability=lt100", &risk("100"), false),
        ("RiskAssessment?probability=le100", &risk("100.0"), true),
        ("RiskAssessment?probability=gt100", &risk("1.000001E+2"), true),
        ("RiskAssessment?probability=ge100", &risk("99.9"), false),
        ("RiskAssessment?probability=ne100", &risk("100.2"), false),
        ("RiskAssessment?probability=ne100", &risk("101"), true),
        ("RiskAssessment?probability=gt0.8", &risk("0.81"), true),
        ("RiskAssessment?probability=ap100", &risk("110"), true),
        ("RiskAssessment?probability=ap100", &risk("110.01"), false),
        ("RiskAssessment?probability=ap-100", &risk("-90"), true),
        ("RiskAssessment?probability=lt-5", &risk("-5.01"), true),
        ("RiskAssessment?probability=0", &risk("-0.0"), true),
        ("RiskAssessment?probability=gt1", &risk("1E400"), true),
        ("RiskAssessment?probability=ge0.8", &range, true),
        ("RiskAssessment?probability=sa0.8", &range, false),
    ]);
}

// 3.1.1.4.14
#[test]
fn quantities_have_a_number_and_may_have_a_unit() {
    let value = |number: &str, unit: &str| format!(r#""valueQuantity":{{"value":{number}{unit}}}"#);
    let mg = r#","unit":"milligram","system":"http://unitsofmeasure.org","code":"mg""#;
    let five = value("5.4", mg);
    check(&[
        ("Observation?value-quantity=5.4|http://unitsofmeasure.org|mg", &five, true),
        ("Observation?value-quantity=5.40e0|http://unitsofmeasure.org|mg", &five, true),
        ("Observation?value-quantity=5.4|http://unitsofmeasure.org|g", &five, false),
        ("Observation?value-quantity=5.4|http://other.example|mg", &five, false),
        ("Observation?value-quantity=5.4||mg", &five, true),
        ("Observation?value-quantity=5.4||milligram", &five, true),
        ("Observation?value-quantity=5.4", &five, true),
        ("Observation?value-quantity=5.40", &value("5.44", mg), false),
        ("Observation?value-quantity=5.4", &value("5.44", mg), true),
        ("Observation?value-quantity=le5.4|http://unitsofmeasure.org|mg", &five, true),
        ("Observation?value-quantity=ap5.4|http://unitsofmeasure.org|mg", &value("5.9", mg), true),
        ("Observation?value-quantity=ap5.4|http://unitsofmeasure.org|mg", &value("6", mg), false),
        ("Observation?value-quantity=lt5", &value("4", r#","comparator":"<""#), true),
        ("Observation?value-quantity=gt5", &value("4", r#","comparator":">""#), true),
        ("Observation?value-quantity=gt5", &value("4", r#","comparator":"<""#), false),
        ("Observation?value-quantity=5.4", r#""valueString":"5.4""#, false),
        ("Observation?value-quantity=5.4", r#""valueQuantity":{"unit":"mg"}"#, false),
        (
            "Observation?component-value-quantity=gt90",
            r#""component":[{"valueQuantity":{"value":80}},{"valueQuantity":{"value":120}}]"#,
            true,
        ),
        ("Invoice?totalnet=gt100|urn:iso:std:iso:4217|DKK", r#""totalNet":{"value":120.50,"currency":"DKK"}"#, true),
        ("Invoice?totalnet=gt100|urn:iso:std:iso:4217|EUR", r#""totalNet":{"value":120.50,"currency":"DKK"}"#, false),
        ("Condition?onset-age=gt50||a", r#""onsetAge":{"value":52,"code":"a"}"#, true),
    ]);
}

// 3.1.1.4.10
#[test]
fn tokens_are_codes_with_or_without_a_system() {
    let identifier = r#""identifier":[{"system":"http://acme.org/patient","value":"2345"},{"value":"77"}]"#;
    let typed = r#""identifier":[{"type":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v2-0203","code":"MR"}],"text":"Medical record"},"value":"446053"}]"#;
    let code = r#""code":{"coding":[{"system":"http://snomed.info/sct","code":"38341003","display":"Hypertension"},{"code":"ha125"}],"text":"High blood pressure"}"#;
    check(&[
        ("Patient?identifier=http://acme.org/patient|2345", identifier, true),
        ("Patient?identifier=http://other.org|2345", identifier, false),
        ("Patient?identifier=2345", identifier, true),
        ("Patient?identifier=|77", identifier, true),
        ("Patient?identifier=|2345", identifier, false),
        ("Patient?identifier=http://acme.org/patient|", identifier, true),
        ("Patient?identifier=http://other.org|", identifier, false),
        ("Patient?identifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203|MR|446053", typed, true),
        ("Patient?identifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203|SS|446053", typed, false),
        ("Patient?identifier:text=medical", typed, true),
        ("Patient?gender=male", r#""gender":"male""#, true),
        ("Patient?gender:not=male", r#""gender":"female""#, true),
        ("Patient?gender:not=male", r#""gender":"male""#, false),
        ("Patient?gender:not=male", "", true),
        ("Patient?gender:not=male,female", r#""gender":"female""#, false),
        ("Patient?gender=http://hl7.org/fhir/administrative-gender|male", r#""gender":"male""#, true),
        ("Patient?gender=Male", r#""gender":"male""#, false),
        ("Patient?gender:missing=true", "", true),
        ("Patient?gender:missing=true", r#""gender":"male""#, false),
        ("Patient?gender:missing=false", r#""gender":"male""#, true),
        // Strings are compared whatever their case.
        ("ValueSet?version=DRAFT-1", r#""version":"draft-1""#, true),
        ("Group?value:text=x", r#""characteristic":[{"valueBoolean":true}]"#, false),
        ("Group?value=true", r#""characteristic":[{"valueBoolean":true}]"#, true),
        ("Patient?gender:missing=true", r#""_gender":{"extension":[]}"#, true),
        ("Patient?active=true", r#""active":true"#, true),
        ("Patient?active=true", r#""active":false"#, false),
        ("Condition?code=ha125", code, true),
        ("Condition?code=|ha125", code, true),
        ("Condition?code=http://acme.org/conditions/codes|ha125", code, false),
        ("Condition?code=http://snomed.info/sct|38341003", code, true),
        ("Condition?code:text=high", code, true),
        ("Condition?code:text=hypert", code, true),
        ("Condition?code:text=headache", code, false),
        ("Condition?code:not=ha125", code, false),
        ("Condition?code=x,ha125", code, true),
        (r"Condition?code=a\,b", r#""code":{"coding":[{"code":"a,b"}]}"#, true),
        (r"Condition?code=a\|b", r#""code":{"coding":[{"code":"a|b"}]}"#, true),
        ("Patient?phone=555", r#""telecom":[{"system":"phone","value":"555"}]"#, true),
        ("Patient?phone=555", r#""telecom":[{"system":"email","value":"555"}]"#, false),
        ("Patient?telecom=email|a@b", r#""telecom":[{"system":"email","value":"a@b"}]"#, true),
        ("Patient?deceased=true", r#""deceasedDateTime":"2020""#, true),
        ("Patient?deceased=true", r#""deceasedBoolean":true"#, true),
        ("Patient?deceased=false", r#""deceasedBoolean":false"#, true),
        ("Patient?deceased=false", "", true),
        ("Patient?deceased=true", "", false),
        (
            "Encounter?class=http://terminology.hl7.org/CodeSystem/v3-ActCode|AMB",
            r#""class":{"system":"http://terminology.hl7.org/CodeSystem/v3-ActCode","code":"AMB"}"#,
            true,
        ),
    ]);
}

// 3.1.1.4.12, 3.1.1.5.1
#[test]
fn references_are_to_a_resource_by_id_type_or_url() {
    let contained = r##""contained":[{"resourceType":"Medication","id":"m","code":{"coding":[{"code":"abc"}]}}],"medicationReference":{"reference":"#m"}"##;
    let subject = |reference: &str| format!(r#""subject":{{"reference":"{reference}"}}"#);
    let (patient, group, absolute) =
        (subject("Patient/23"), subject("Group/23"), subject("http://acme.org/fhir/Patient/23"));
    check(&[
        ("Observation?subject=Patient/23", &patient, true),
        ("Observation?subject=Patient/23", &group, false),
        ("Observation?subject=23", &group, true),
        ("Observation?subject=23", &patient, true),
        ("Observation?subject=2", &patient, false),
        ("Observation?subject:Patient=23", &patient, true),
        ("Observation?subject:Patient=23", &group, false),
        ("Observation?patient=23", &patient, true),
        ("Observation?patient=23", &group, false),
        ("Observation?subject=Patient/23", &subject("Patient/23/_history/4"), true),
        // Rule A14: of another server, too, as long as no bases are set.
        ("Observation?subject=Patient/23", &absolute, true),
        ("Observation?subject=http://acme.org/fhir/Patient/23", &absolute, true),
        ("Observation?subject=http://other.org/fhir/Patient/23", &absolute, false),
        ("Observation?subject=http://acme.org/fhir/Patient/23", &patient, true),
        (
            "Observation?subject:identifier=http://acme.org/fhir/identifier/mrn|123456",
            r#""subject":{"identifier":{"system":"http://acme.org/fhir/identifier/mrn","value":"123456"}}"#,
            true,
        ),
        ("Observation?subject:identifier=123", r#""subject":{"identifier":{"value":"123456"}}"#, false),
        ("Observation?subject:missing=true", &patient, false),
        ("Observation?subject=Patient/23", r#""subject":{"display":"Eve"}"#, false),
        ("Observation?patient:missing=true", &group, true),
        ("Observation?patient:missing=false", &group, false),
        ("Observation?patient:missing=true", &patient, false),
        ("Observation?patient:missing=true", r#""subject":{"type":"Group","display":"Eve"}"#, true),
        ("Observation?patient:missing=true", r#""subject":{"display":"Eve"}"#, false),
        ("Observation?patient:identifier=7", r#""subject":{"type":"Group","identifier":{"value":"7"}}"#, false),
        ("Bundle?composition:missing=true", r#""entry":[{"resource":{"resourceType":"Patient","id":"p"}}]"#, true),
        // What is contained is judged where it is; there is no other way to ask for it.
        ("MedicationRequest?medication.code=abc", contained, true),
        ("MedicationRequest?medication:Medication.code=abd", contained, false),
        ("MedicationRequest?medication=Medication/m", contained, false),
        ("MedicationRequest?medication=m", contained, false),
        (
            "Observation?patient.gender=male",
            r##""contained":[{"resourceType":"Patient","id":"p","gender":"male"}],"subject":{"reference":"#p"}"##,
            true,
        ),
        (
            "Observation?patient:missing=true",
            r##""contained":[{"resourceType":"Group","id":"p"}],"subject":{"reference":"#p"}"##,
            true,
        ),
        ("Observation?patient:missing=true", r##""subject":{"reference":"#p"}"##, true),
        (
            "Bundle?composition.status=final",
            r#""entry":[{"resource":{"resourceType":"Composition","id":"c","status":"final"}}]"#,
            true,
        ),
        (
            "Bundle?composition.status=final",
            r#""entry":[{"resource":{"resourceType":"Composition","id":"c","status":"amended"}}]"#,
            false,
        ),
        ("Observation?patient=Patient/1,Patient/23", &patient, true),
        (
            "Bundle?composition=Composition/c",
            r#""entry":[{"resource":{"resourceType":"Composition","id":"c"}},{"resource":{"resourceType":"Patient","id":"p"}}]"#,
            true,
        ),
        ("Bundle?composition=p", r#""entry":[{"resource":{"resourceType":"Patient","id":"p"}}]"#, false),
        (
            "CarePlan?instantiates-canonical=http://x.org/PlanDefinition/p",
            r#""instantiatesCanonical":["http://x.org/PlanDefinition/p|1.0"]"#,
            true,
        ),
        (
            "CarePlan?instantiates-canonical=http://x.org/PlanDefinition/p|1.0",
            r#""instantiatesCanonical":["http://x.org/PlanDefinition/p|1.0"]"#,
            true,
        ),
        (
            "CarePlan?instantiates-canonical=http://x.org/PlanDefinition/p|2.0",
            r#""instantiatesCanonical":["http://x.org/PlanDefinition/p|1.0"]"#,
            false,
        ),
    ]);
}

// 3.1.1.4.13
#[test]
fn uris_are_the_same_or_above_or_below() {
    let set = r#""url":"http://acme.org/fhir/ValueSet/123""#;
    check(&[
        ("ValueSet?url=http://acme.org/fhir/ValueSet/123", set, true),
        ("ValueSet?url=http://acme.org/fhir/ValueSet/12", set, false),
        ("ValueSet?url=HTTP://acme.org/fhir/ValueSet/123", set, false),
        ("ValueSet?url:below=http://acme.org/fhir/", set, true),
        ("ValueSet?url:below=http://acme.org/fhir", set, true),
        ("ValueSet?url:below=http://acme.org/fh", set, false),
        ("ValueSet?url:above=http://acme.org/fhir/ValueSet/123/_history/5", set, true),
        ("ValueSet?url:above=http://acme.org/fhir/ValueSet/1234", set, false),
        ("ValueSet?url=urn:oid:1.2.3.4.5", r#""url":"urn:oid:1.2.3.4.5""#, true),
        (
            "Patient?_profile=http://hl7.org/fhir/StructureDefinition/p",
            r#""meta":{"profile":["http://hl7.org/fhir/StructureDefinition/p|4"]}"#,
            true,
        ),
        ("Patient?_source=http://example.com/a", r#""meta":{"source":"http://example.com/a"}"#, true),
    ]);
}

// 3.1.1.4.15, 3.1.1.4.1
#[test]
fn composites_are_of_one_element_and_general_parameters_of_every_type() {
    let pressure = r#""component":[
        {"code":{"coding":[{"system":"http://loinc.org","code":"8480-6"}]},"valueQuantity":{"value":59}},
        {"code":{"coding":[{"system":"http://loinc.org","code":"8462-4"}]},"valueQuantity":{"value":80}}]"#
        .replace(['\n', ' '], "");
    let meta = r#""meta":{"lastUpdated":"2020-05-06T07:08:09.010Z","tag":[{"system":"http://acme.org/codes","code":"needs-review"}],"security":[{"code":"R"}]}"#;
    check(&[
        ("Observation?component-code-value-quantity=http://loinc.org|8480-6$lt60", &pressure, true),
        ("Observation?component-code-value-quantity=http://loinc.org|8462-4$lt60", &pressure, false),
        ("Observation?combo-code-value-quantity=8480-6$lt60", &pressure, true),
        ("Observation?code-value-quantity=8480-6$lt60", &pressure, false),
        (
            "Group?characteristic-value=gender$mixed",
            r#""characteristic":[{"code":{"coding":[{"code":"gender"}]},"valueCodeableConcept":{"coding":[{"code":"mixed"}]}}]"#,
            true,
        ),
        (
            "Group?characteristic-value=gender$mixed",
            r#""characteristic":[{"code":{"coding":[{"code":"age"}]},"valueCodeableConcept":{"coding":[{"code":"mixed"}]}},{"code":{"coding":[{"code":"gender"}]},"valueCodeableConcept":{"coding":[{"code":"x"}]}}]"#,
            false,
        ),
        (
            "MolecularSequence?chromosome-variant-coordinate=1$ge12345$le12400",
            r#""referenceSeq":{"chromosome":{"coding":[{"code":"1"}]}},"variant":[{"start":12346,"end":12399}]"#,
            true,
        ),
        ("Patient?_id=x", "", true),
        ("Patient?_id=y,x", "", true),
        ("Patient?_id=y", "", false),
        ("Patient?_tag=http://acme.org/codes|needs-review", meta, true),
        ("Patient?_security=R", meta, true),
        ("Patient?_lastUpdated=gt2020-05", meta, false),
        ("Patient?_lastUpdated=2020-05-06", meta, true),
        ("Patient?_lastUpdated=ge2020-05-06T07:08:09.010Z", meta, true),
        ("Patient?_lastUpdated=gt2020-05-06T07:08:09.010Z", meta, false),
    ]);
}
