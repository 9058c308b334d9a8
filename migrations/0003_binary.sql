-- A file of an export: what GET Binary/<id> gives.
create table binary_file (
    -- 32 random letters and digits.
    id text collate "C" primary key,
    job_id uuid not null,
    part int not null,
    -- Order within the part.
    ordinal int not null,
    -- Which list of the manifest it stands in.
    kind text not null check (kind in ('output', 'deleted', 'outcome')),
    -- The type of every line.
    resource_type text not null,
    -- Lines.
    resources bigint not null check (resources > 0),
    -- Length as NDJSON, and the CRC-32 and SHA-256 of it.
    bytes bigint not null,
    crc32 bigint not null,
    sha256 bytea not null,
    -- Length of all chunks together: the gzip file without its header and trailer.
    deflated_bytes bigint not null,
    created_at timestamptz not null default clock_timestamp(),
    -- A download is under way until then: the reaper leaves the file alone.
    held_until timestamptz,
    foreign key (job_id, part) references export_part (job_id, ordinal),
    unique (job_id, part, ordinal)
);

-- A chunk: a run of raw deflate blocks of up to 1 MiB of NDJSON, ending on a byte boundary (full flush). Header, all
-- chunks in order and trailer are one ordinary gzip stream; every chunk can be inflated on its own.
create table binary_chunk (
    binary_id text collate "C" not null references binary_file (id) deferrable initially deferred,
    ordinal int not null,
    -- Where it starts, inflated and as it lies.
    offset_bytes bigint not null,
    offset_deflated bigint not null,
    data bytea not null,
    primary key (binary_id, ordinal)
) with (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_cost_delay = 0
);
-- The data is compressed already.
alter table binary_chunk alter column data set storage external;
