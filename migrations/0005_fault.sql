-- What stood in the way of work, and what completion is checked against.

-- Why the last attempt at planning came to nothing, and since when attempts do.
alter table export_job add column fault text;
alter table export_job add column fault_since timestamptz;
-- The types that were planned. An export is completed only if its parts cover all keys of each.
alter table export_job add column planned_types text [];

-- Why the last attempt at this part came to nothing, and since when attempts do.
alter table export_part add column fault text;
alter table export_part add column fault_since timestamptz;
