-- Exports with what is referred to (include.referenced): resources of types outside the Patient compartment.

-- referenced: the resources to which those of the output parts refer; such a part waits until all others are done.
alter table export_part drop constraint export_part_stage_check;
alter table export_part add constraint export_part_stage_check
check (stage in ('output', 'deleted', 'outcome', 'referenced'));

-- What the resources put out by a part refer to, committed with that part. Not unique: two parts that find the same at
-- once do not wait for each other. What is known when a part finds it is not stored again.
create table export_reference (
    job_id uuid not null references export_job (id) on delete cascade,
    -- Type and id of the resource; it need not be there.
    resource_type text collate "C" not null,
    resource_id text collate "C" not null
);
create index export_reference_found on export_reference (job_id, resource_type, resource_id);
