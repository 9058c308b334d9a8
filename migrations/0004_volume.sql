-- Where chunks lie. A large export has a volume of its own, a partition that is emptied at once when the export is
-- reaped: that costs next to no time and no WAL, and gives the space back to the file system. The many small ones share
-- volume 0, where their rows are deleted.

-- The volumes besides the shared one.
create table binary_volume (
    number smallint primary key check (number between 1 and 32),
    -- Whose it is, until the reaper has emptied it; it does so before it removes the job.
    job_id uuid unique
);
insert into binary_volume (number) select generate_series(1, 32);

alter table binary_chunk rename to binary_chunk_unpartitioned;
alter index binary_chunk_pkey rename to binary_chunk_unpartitioned_pkey;

-- A chunk: a run of raw deflate blocks of up to 1 MiB of NDJSON, ending on a byte boundary (full flush). Header, all
-- chunks in order and trailer are one ordinary gzip stream; every chunk can be inflated on its own.
create table binary_chunk (
    -- 0 is shared; else one of binary_volume.
    volume smallint not null,
    binary_id text collate "C" not null references binary_file (id) deferrable initially deferred,
    ordinal int not null,
    -- Where it starts, inflated and as it lies.
    offset_bytes bigint not null,
    offset_deflated bigint not null,
    data bytea not null,
    primary key (binary_id, ordinal, volume)
) partition by list (volume);
-- The data is compressed already.
alter table binary_chunk alter column data set storage external;

do $$
begin
    for volume in 0..32 loop
        execute format('create table %I partition of binary_chunk for values in (%s)', 'binary_chunk_' || volume, volume);
    end loop;
    -- Rows come and go here.
    alter table binary_chunk_0 set (
        autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0,
        toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_cost_delay = 0
    );
    -- All rows go at once, also those of attempts that came to nothing: to vacuum them would be work for nothing.
    for volume in 1..32 loop
        execute format(
            'alter table %I set (autovacuum_enabled = off, toast.autovacuum_enabled = off)', 'binary_chunk_' || volume
        );
    end loop;
end
$$;

insert into binary_chunk (volume, binary_id, ordinal, offset_bytes, offset_deflated, data)
select 0, binary_id, ordinal, offset_bytes, offset_deflated, data from binary_chunk_unpartitioned;
drop table binary_chunk_unpartitioned;
