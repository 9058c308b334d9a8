-- Whoever writes an entry stands in line behind who waits for this lock, and so does the API: it gives way after a tenth of
-- a second, and who calls it tries again.
create or replace function disclosure_settled() returns bigint
language plpgsql set lock_timeout = '100ms' as $$
begin
    perform pg_advisory_xact_lock(x'0066686972000005'::bigint);
    -- Sees what was committed until now, not only until the call.
    return (select coalesce(max(number), 0) from disclosure);
end
$$;

-- What is told whatever is asked for: few among many.
create index disclosure_told on disclosure (number) where event in ('begin', 'unrecorded', 'erase');
