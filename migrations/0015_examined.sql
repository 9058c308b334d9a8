-- Exports with filters (_typeFilter): a part reads more than it puts out.

-- Resources read so far, for the progress; null where nobody counted, as in the versions before, where all that is read
-- comes out. `resources` is what came out, once the part is done.
alter table export_part add column examined bigint;
