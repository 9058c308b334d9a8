-- The ledger of disclosures: who was handed whose data. Nothing in it refers to what is reaped or pruned, and nothing of it
-- goes.

-- Whose data is in a file, stored in the transaction that stores the file.
create table disclosed_file (
    -- As in binary_file, which is gone one day.
    file_id text collate "C" primary key,
    job_id uuid not null,
    kind text not null,
    resource_type text not null,
    -- Lines, and their length as NDJSON.
    resources bigint not null,
    bytes bigint not null,
    -- How many Patients.
    patients int not null,
    -- Their ids, all of them: sorted, a line each, as raw deflate (ledger/patients.rs).
    patient_ids bytea not null,
    stored_at timestamptz not null default clock_timestamp()
);
create index disclosed_file_job on disclosed_file (job_id);
-- They are compressed already.
alter table disclosed_file alter column patient_ids set storage external;

-- What happened.
create table disclosure (
    -- In this order: whoever inserts holds a lock shared before the number is given, so who has it exclusively for a moment
    -- knows that none below the highest is still to come.
    number bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    -- begin: from here on there is this ledger. unrecorded: an export of a version before it; whose data its files hold is
    -- not known, nor who has read them through such a version. kick-off, manifest, delete: as the names say. download: a
    -- file is about to be sent. sent: as much of it as was handed to the connection; a download without it was cut off by a
    -- crash. denied: so many requests that were answered 401, 403 or, for what is somebody else's or unknown, 404.
    -- erase: a patient's data was removed.
    event text not null check (
        event in ('begin', 'unrecorded', 'kick-off', 'manifest', 'download', 'sent', 'delete', 'denied', 'erase')
    ),
    -- Who: as in export_job, and the program that called for them, if the token names one.
    owner_issuer text,
    owner_subject text,
    client text,
    -- From where.
    address text,
    job_id uuid,
    file_id text collate "C",
    -- Of what was sent: the download.
    download bigint,
    -- The HTTP status of the answer.
    outcome smallint,
    -- What else there is to say, which differs from event to event.
    detail jsonb not null default '{}'
);
create index disclosure_job on disclosure (job_id) where job_id is not null;
create index disclosure_at on disclosure (at);

create function disclosure_in_order() returns trigger
language plpgsql as $$
begin
    perform pg_advisory_xact_lock_shared(x'0066686972000005'::bigint);
    return null;
end
$$;
create trigger disclosure_in_order before insert on disclosure
for each statement execute function disclosure_in_order();

-- The number up to which nothing more will come. One statement for who calls it, so that no frozen process has the lock.
create function disclosure_settled() returns bigint
language plpgsql set lock_timeout = '10s' as $$
begin
    perform pg_advisory_xact_lock(x'0066686972000005'::bigint);
    -- Sees what was committed until now, not only until the call.
    return (select coalesce(max(number), 0) from disclosure);
end
$$;

-- Both only grow. Who owns the tables can take the triggers away; docs/operating.md says how to keep that from the server.
create function refuse_to_forget() returns trigger
language plpgsql as $$
begin
    raise exception '% only grows: no % of it', tg_table_name, lower(tg_op) using errcode = 'insufficient_privilege';
end
$$;
create trigger refuse_to_forget before update or delete or truncate on disclosed_file
for each statement execute function refuse_to_forget();
create trigger refuse_to_forget before update or delete or truncate on disclosure
for each statement execute function refuse_to_forget();

-- Replicas of the version before accept exports until the last of them is stopped.
create function disclosure_unrecorded() returns trigger
language plpgsql as $$
begin
    insert into disclosure (event, owner_issuer, owner_subject, job_id)
    values ('unrecorded', new.owner_issuer, new.owner_subject, new.id);
    return null;
end
$$;
create trigger disclosure_unrecorded after insert on export_job
for each row when (new.requires < 3) execute function disclosure_unrecorded();

-- After the trigger is there: so none is missed.
insert into disclosure (event) values ('begin');
insert into disclosure (event, owner_issuer, owner_subject, job_id)
select 'unrecorded', owner_issuer, owner_subject, id from export_job order by accepted_at;
