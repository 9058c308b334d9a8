-- The ledger of exports. State is kept here and nowhere else: any replica may take up any work at any time.
create table export_job (
    -- Random (v4): it stands in the poll URL.
    id uuid primary key,
    -- Who started it: only this owner may poll, cancel and download. Issuer and subject together are the person.
    owner_issuer text not null,
    owner_subject text not null,
    -- The validated request, as JSON (export/request.rs).
    request jsonb not null,
    -- accepted: waits to be planned. running: its parts are there. The other three are final.
    state text not null check (state in ('accepted', 'running', 'completed', 'failed', 'cancelled')),
    -- The instant whose state the files hold; set once, before planning, and never changed.
    transaction_time timestamptz,
    accepted_at timestamptz not null default clock_timestamp(),
    started_at timestamptz,
    finished_at timestamptz,
    -- From here on the job and its files are gone for its owner; the reaper removes them.
    expires_at timestamptz,
    -- Why it failed, for the owner.
    failure text,
    -- Planning is work like any other: leased, counted, tried again.
    attempt int not null default 0,
    failures int not null default 0,
    lease_until timestamptz,
    not_before timestamptz not null default '-infinity',
    constraint export_job_running check (state <> 'running' or (transaction_time is not null and started_at is not null)),
    constraint export_job_completed check (state <> 'completed' or transaction_time is not null),
    constraint export_job_failed check ((state = 'failed') = (failure is not null)),
    constraint export_job_final
    check ((state in ('completed', 'failed', 'cancelled')) = (finished_at is not null and expires_at is not null))
);
create index export_job_unfinished on export_job (accepted_at) where state in ('accepted', 'running');
create index export_job_owner on export_job (owner_issuer, owner_subject);
create index export_job_expires on export_job (expires_at) where expires_at is not null;

-- A part is the unit of work: a range of keys of one or more types. It is wholly done or not at all.
create table export_part (
    job_id uuid not null references export_job (id) on delete cascade,
    -- Parts, then the files of a part, in this order make the manifest.
    ordinal int not null,
    -- output: the resources. deleted: the deletions since _since. outcome: what the server has to say.
    stage text not null check (stage in ('output', 'deleted', 'outcome')),
    resource_types text [] not null,
    -- resource.key, from (inclusive), to (exclusive).
    key_from bigint not null,
    key_to bigint not null,
    -- What planning expects, from a sample.
    estimated_resources bigint not null,
    estimated_bytes bigint not null,
    state text not null default 'pending' check (state in ('pending', 'running', 'done')),
    -- Counts the claims. It fences: a worker whose attempt is no longer this one cannot write.
    attempt int not null default 0,
    -- Attempts that came to nothing: failed, or their worker was lost.
    failures int not null default 0,
    lease_until timestamptz,
    worker uuid,
    claimed_at timestamptz,
    not_before timestamptz not null default '-infinity',
    -- Resources written so far; exact once done.
    resources bigint not null default 0,
    primary key (job_id, ordinal),
    constraint export_part_leased check ((state = 'running') = (lease_until is not null and worker is not null))
);
create index export_part_unfinished on export_part (job_id, ordinal) where state <> 'done';
create index export_part_turn on export_part (job_id, claimed_at desc) where claimed_at is not null;
