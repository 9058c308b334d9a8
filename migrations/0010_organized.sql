-- Files organised by patient (organizeOutputBy): the last block of a file may go on in the next one.

-- The next file of the part goes on with the block in which this one ends (continuesInFile).
-- Such a file has lines of many types; its resource_type is that of the first, Parameters, and its resources are all its
-- lines, also those of headers.
alter table binary_file add column continues boolean not null default false;
