-- Exports of some patients: Patient/[id]/$export, Group/[id]/$export, and those with the parameter patient.

-- The patients an export is limited to, frozen as it is planned: every part, on any replica, reads the same.
create table export_patient (
    job_id uuid not null,
    -- The id of a Patient.
    patient_id text collate "C" not null,
    -- Where files are organised by patient: the key of the Patient, 0 if there is none.
    patient_key bigint not null default 0,
    -- Joined the Group after _since: comes with the whole history.
    is_new boolean not null default false,
    primary key (job_id, patient_id)
);
create index export_patient_key on export_patient (job_id, patient_key) where patient_key > 0;

-- They go with their job. A foreign key would do that, too, but take longer to check than it takes to store them.
create function remove_export_patients() returns trigger
language plpgsql as $$
begin
    delete from export_patient using removed where job_id = removed.id;
    return null;
end
$$;
create trigger remove_export_patients after delete on export_job
referencing old table as removed for each statement execute function remove_export_patients();

-- Of a Provenance: what it is about, as Type/id; of a tombstone: what the version it ended was about. Null in other types,
-- and in what a version before this migration has written.
alter table resource add column targets text [] collate "C";

-- The same, from a body whose version was written before. Postgres takes no body apart with an escape in it that makes no
-- text, wherever; no reference has one.
create function provenance_targets(body text) returns text []
language plpgsql immutable parallel safe as $$
declare
    parsed json := regexp_replace(body, '\\u(0000|d[89a-f][0-9a-f]{2})', '\\u003f', 'gi');
begin
    return array(
        select (
            regexp_match(
                target.reference ->> 'reference',
                '^(?:https?://[^?#]+/)?([A-Z][A-Za-z]+/[A-Za-z0-9.-]{1,64})(?:/_history/[A-Za-z0-9.-]{1,64})?$'
            )
        )[1] collate "C"
        from json_array_elements(
            case json_typeof(parsed -> 'target')
                when 'array' then parsed -> 'target'
                when 'object' then json_build_array(parsed -> 'target')
                else '[]'
            end
        ) as target (reference)
        where target.reference ->> 'reference' is not null
    );
end
$$;

-- Without fastupdate: each look-up would read through all that is not in the index yet.
-- The resources of a patient, for each type of the Patient compartment, past versions by their id, and the Provenances of a
-- resource. Only of types of which there is next to nothing: `serve` makes the indexes that are missing, without keeping
-- anybody from writing (resource/index.rs). Until all are there, exports read whole types instead.
do $$
declare
    type text;
begin
    foreach type in array array[
        'Account', 'AdverseEvent', 'AllergyIntolerance', 'Appointment', 'AppointmentResponse', 'AuditEvent',
        'Basic', 'BodyStructure', 'CarePlan', 'CareTeam', 'ChargeItem', 'Claim', 'ClaimResponse',
        'ClinicalImpression', 'Communication', 'CommunicationRequest', 'Composition', 'Condition', 'Consent',
        'Coverage', 'CoverageEligibilityRequest', 'CoverageEligibilityResponse', 'DetectedIssue',
        'DeviceRequest', 'DeviceUseStatement', 'DiagnosticReport', 'DocumentManifest', 'DocumentReference',
        'Encounter', 'EnrollmentRequest', 'EpisodeOfCare', 'ExplanationOfBenefit', 'FamilyMemberHistory',
        'Flag', 'Goal', 'Group', 'ImagingStudy', 'Immunization', 'ImmunizationEvaluation',
        'ImmunizationRecommendation', 'Invoice', 'List', 'MeasureReport', 'Media', 'MedicationAdministration',
        'MedicationDispense', 'MedicationRequest', 'MedicationStatement', 'MolecularSequence', 'NutritionOrder',
        'Observation', 'Patient', 'Person', 'Procedure', 'Provenance', 'QuestionnaireResponse', 'RelatedPerson',
        'RequestGroup', 'ResearchSubject', 'RiskAssessment', 'Schedule', 'ServiceRequest', 'Specimen',
        'SupplyDelivery', 'SupplyRequest', 'VisionPrescription'
    ]
    loop
        if pg_total_relation_size(format('resource_%s', lower(type))::regclass) < 1024 * 1024 then
            execute format(
                'create index %I on %I using gin (patients) with (fastupdate = off)',
                'resource_' || lower(type) || '_patients', 'resource_' || lower(type)
            );
            execute format(
                'create index %I on %I (id) where superseded_at < ''infinity''',
                'resource_' || lower(type) || '_past', 'resource_' || lower(type)
            );
        end if;
    end loop;
    if pg_total_relation_size('resource_provenance') < 1024 * 1024 then
        create index resource_provenance_targets on resource_provenance
        using gin (coalesce(targets, provenance_targets(body))) with (fastupdate = off);
    end if;
end
$$;

-- A replica of a version before cannot do what a newer one was asked for: it would leave a parameter out. So a job says
-- what its workers must be able to do, a session what its program can, and no other gets a lease.
alter table export_job add column requires smallint not null default 0;

create function export_guard() returns trigger
language plpgsql as $$
declare
    able int := coalesce(nullif(current_setting('fhir_bulk_export.able', true), ''), '0');
    required int := 0;
begin
    if tg_table_name = 'export_job' then
        required := new.requires;
    else
        select requires into required from export_job where id = new.job_id;
    end if;
    -- No row is updated: there is nothing to claim.
    return case when required <= able then new end;
end
$$;

create trigger export_guard before update of attempt on export_job
for each row when (new.attempt > old.attempt) execute function export_guard();
create trigger export_guard before update of attempt on export_part
for each row when (new.attempt > old.attempt) execute function export_guard();
