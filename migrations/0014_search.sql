-- Exports with filters that follow references (_typeFilter=Observation?subject.identifier=…, Patient?_has:…).

-- search: what is to be found before anything can be judged; it has no files of resources. associated: Provenance for the
-- sake of what the output parts have put out, where filters decide what that is.
alter table export_part drop constraint export_part_stage_check;
alter table export_part add constraint export_part_stage_check
check (stage in ('search', 'output', 'deleted', 'outcome', 'associated', 'referenced'));

-- Parts of a later turn wait until all of those before are done. (The table has a few rows for each export.)
alter table export_part add column turn smallint not null generated always as (
    case stage when 'referenced' then 3 when 'associated' then 2 when 'output' then 1 when 'deleted' then 1 else 0 end
) stored;

create index export_part_due on export_part (job_id, turn) where state <> 'done';

-- Whose turn it is in each job that has parts which are not done.
create view export_turn as
select job.id as job_id, first.turn
from export_job as job
cross join lateral (
    select turn from export_part where job_id = job.id and state <> 'done' order by turn limit 1
) as first;

-- What the searches of an export have found, committed with the part that found it. Not unique, as export_reference.
create table export_found (
    job_id uuid not null references export_job (id) on delete cascade,
    -- The number of the search in the export's filters; -1: what has been put out of the types that are filtered.
    search smallint not null,
    -- Type and id of the resource; it need not be there.
    resource_type text collate "C" not null,
    resource_id text collate "C" not null
);
create index export_found_by on export_found (job_id, search, resource_type, resource_id);
