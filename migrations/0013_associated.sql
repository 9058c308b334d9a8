-- Exports with the latest Provenance of each resource (includeAssociatedData=LatestProvenanceResources).

-- When what a Provenance tells of was recorded; one that does not say it is the oldest. See provenance_targets for the escapes.
create function provenance_recorded(body text) returns timestamptz
language plpgsql stable parallel safe as $$
begin
    return coalesce(
        (regexp_replace(body, '\\u(0000|d[89a-f][0-9a-f]{2})', '\\u003f', 'gi')::json ->> 'recorded')::timestamptz,
        '-infinity'
    );
exception
    when data_exception then
        return '-infinity';
end
$$;
