-- The store: every row is one version of one resource, valid from last_updated (inclusive) until superseded_at
-- (exclusive). The state at instant T is: last_updated <= T and superseded_at > T and not deleted.
-- Partitioned by type, so that statistics, vacuum and scans are per type.
create table resource (
    -- The FHIR type, e.g. 'Patient'.
    resource_type text collate "C" not null,
    -- Insertion order. Exports are cut into ranges of it, so that a range never shifts. An identity column of a
    -- partitioned table counts only through the parent (before Postgres 17): never insert into a partition.
    key bigint generated always as identity,
    -- The FHIR id.
    id text collate "C" not null,
    -- meta.versionId: 1, 2, 3 …
    version_id bigint not null,
    -- meta.lastUpdated, in whole milliseconds: the precision FHIR clients keep.
    last_updated timestamptz not null,
    -- When the next version took over; infinity while this one is current.
    superseded_at timestamptz not null default 'infinity',
    -- A tombstone: the resource was deleted by this version.
    deleted boolean not null,
    -- Ids of the Patients in whose compartment this version is (FHIR R4 CompartmentDefinition/patient); of a
    -- tombstone: those of the version it ended.
    patients text [] not null,
    -- Ids of all Patients this version refers to, wherever: who data is about, beyond the compartment.
    mentions text [] not null,
    -- The JSON exactly as it is exported; null in a tombstone. Text, never jsonb: every token stays as it came.
    body text,
    primary key (resource_type, key),
    constraint resource_body check (deleted = (body is null)),
    constraint resource_valid check (last_updated < superseded_at)
) partition by list (resource_type);

-- One current version per resource. Of two writers that race, one gets a unique violation and tries again.
create unique index resource_current on resource (resource_type, id) where superseded_at = 'infinity';
-- What changed after an instant (_since).
create index resource_last_updated on resource (last_updated);
-- What may be pruned.
create index resource_superseded on resource (superseded_at) where superseded_at < 'infinity';

do $$
declare
    type text;
begin
    foreach type in array array[
        'Account', 'ActivityDefinition', 'AdverseEvent', 'AllergyIntolerance', 'Appointment',
        'AppointmentResponse', 'AuditEvent', 'Basic', 'BiologicallyDerivedProduct', 'BodyStructure',
        'Bundle', 'CapabilityStatement', 'CarePlan', 'CareTeam', 'CatalogEntry', 'ChargeItem',
        'ChargeItemDefinition', 'Claim', 'ClaimResponse', 'ClinicalImpression', 'CodeSystem',
        'Communication', 'CommunicationRequest', 'CompartmentDefinition', 'Composition', 'ConceptMap',
        'Condition', 'Consent', 'Contract', 'Coverage', 'CoverageEligibilityRequest',
        'CoverageEligibilityResponse', 'DetectedIssue', 'Device', 'DeviceDefinition', 'DeviceMetric',
        'DeviceRequest', 'DeviceUseStatement', 'DiagnosticReport', 'DocumentManifest', 'DocumentReference',
        'EffectEvidenceSynthesis', 'Encounter', 'Endpoint', 'EnrollmentRequest', 'EnrollmentResponse',
        'EpisodeOfCare', 'EventDefinition', 'Evidence', 'EvidenceVariable', 'ExampleScenario',
        'ExplanationOfBenefit', 'FamilyMemberHistory', 'Flag', 'Goal', 'GraphDefinition', 'Group',
        'GuidanceResponse', 'HealthcareService', 'ImagingStudy', 'Immunization', 'ImmunizationEvaluation',
        'ImmunizationRecommendation', 'ImplementationGuide', 'InsurancePlan', 'Invoice', 'Library',
        'Linkage', 'List', 'Location', 'Measure', 'MeasureReport', 'Media', 'Medication',
        'MedicationAdministration', 'MedicationDispense', 'MedicationKnowledge', 'MedicationRequest',
        'MedicationStatement', 'MedicinalProduct', 'MedicinalProductAuthorization',
        'MedicinalProductContraindication', 'MedicinalProductIndication', 'MedicinalProductIngredient',
        'MedicinalProductInteraction', 'MedicinalProductManufactured', 'MedicinalProductPackaged',
        'MedicinalProductPharmaceutical', 'MedicinalProductUndesirableEffect', 'MessageDefinition',
        'MessageHeader', 'MolecularSequence', 'NamingSystem', 'NutritionOrder', 'Observation',
        'ObservationDefinition', 'OperationDefinition', 'OperationOutcome', 'Organization',
        'OrganizationAffiliation', 'Parameters', 'Patient', 'PaymentNotice', 'PaymentReconciliation',
        'Person', 'PlanDefinition', 'Practitioner', 'PractitionerRole', 'Procedure', 'Provenance',
        'Questionnaire', 'QuestionnaireResponse', 'RelatedPerson', 'RequestGroup', 'ResearchDefinition',
        'ResearchElementDefinition', 'ResearchStudy', 'ResearchSubject', 'RiskAssessment',
        'RiskEvidenceSynthesis', 'Schedule', 'SearchParameter', 'ServiceRequest', 'Slot', 'Specimen',
        'SpecimenDefinition', 'StructureDefinition', 'StructureMap', 'Subscription', 'Substance',
        'SubstanceNucleicAcid', 'SubstancePolymer', 'SubstanceProtein', 'SubstanceReferenceInformation',
        'SubstanceSourceMaterial', 'SubstanceSpecification', 'SupplyDelivery', 'SupplyRequest', 'Task',
        'TerminologyCapabilities', 'TestReport', 'TestScript', 'ValueSet', 'VerificationResult',
        'VisionPrescription'
    ]
    loop
        execute format('create table %I partition of resource for values in (%L)', 'resource_' || lower(type), type);
        begin
            -- lz4 reads faster than the default; a Postgres built without it keeps the default.
            execute format('alter table %I alter column body set compression lz4', 'resource_' || lower(type));
        exception when feature_not_supported then
            null;
        end;
    end loop;
end
$$;

-- The highest transaction time any export was given; one row. A version written later is dated later than it.
create table transaction_time (
    only_row boolean primary key default true check (only_row),
    highest timestamptz not null
);
insert into transaction_time (highest) values (date_trunc('milliseconds', clock_timestamp()));
