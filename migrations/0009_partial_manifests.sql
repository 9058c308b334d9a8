-- Partial manifests: of an export that allows them, clients are told page by page which files are ready while it runs.

-- The page of the manifest on which it stands, from when a client was told of it while the export ran.
alter table binary_file add column page int;
-- How many such pages there are. What comes after them is on the next.
alter table export_job add column pages int not null default 0;
