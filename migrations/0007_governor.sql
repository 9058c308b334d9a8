-- The operator's limits on exports, for every process, while they run; one row. Null: as that process is configured.
create table export_governor (
    only_row boolean primary key default true check (only_row),
    -- NDJSON bytes a second that the workers of a process read together; 0: unlimited.
    pace bigint check (pace >= 0),
    -- Workers of a process that may work, each with two connections; 0: none.
    workers int check (workers between 0 and 65535)
);
insert into export_governor default values;
