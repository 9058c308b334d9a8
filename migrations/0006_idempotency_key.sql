-- A kick-off that is sent twice starts one export.

-- The client's name for the kick-off (header Idempotency-Key), of which an owner has one job; null: it gave none, or
-- the job had expired when the name was used again.
alter table export_job add column idempotency_key text collate "C";
create unique index export_job_idempotency_key on export_job (owner_issuer, owner_subject, idempotency_key)
where idempotency_key is not null;
