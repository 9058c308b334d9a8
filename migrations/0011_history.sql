-- Exports of all versions (_includeHistory): how far back they reach.

-- Versions superseded at or before this may be pruned already. It only rises.
alter table transaction_time add column pruned_until timestamptz not null default 'epoch';
-- Of an export of all versions: pruned_until as it was when the transaction time was taken. The export has the
-- versions that were superseded after this, and none of them can be pruned until it is done. Null: it has the state
-- only.
alter table export_job add column history_floor timestamptz;

-- Whoever prunes, also a replica of the version before: either the exports that are planned from now on know of it, or
-- an export that is under way forbids it. Planners take pruned_until with the lock of its row, so nobody is between.
create function note_pruning() returns trigger language plpgsql as $$
declare
    until timestamptz := (select max(superseded_at) from pruned where superseded_at < 'infinity');
begin
    update transaction_time set pruned_until = until where pruned_until < until;
    if exists (select from export_job where state in ('accepted', 'running') and history_floor < until) then
        raise exception using
            errcode = 'object_in_use', message = 'an export of all versions needs what was to be pruned';
    end if;
    return null;
end
$$;
create trigger note_pruning after delete on resource
referencing old table as pruned for each statement execute function note_pruning();
