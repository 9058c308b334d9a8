//! The pages of a manifest. Of an export that allows it, clients are told while it runs which files are ready (rules
//! C11, E11): those that are there now are on one page, which never changes again, those that come later on the next.
//! What is left when the export is complete is the last page; where nothing was told before, that is the whole.
//!
//! A page is closed when somebody asks for it and there is a file for it: so none is empty, and an export of many parts
//! has no more pages than it was asked for.

use sqlx::PgPool;
use uuid::Uuid;

/// Closes a page of a job that is running: from now on the files that are on no page yet are on this one. Does nothing
/// if the page is closed already, is not the next, or has no file.
///
/// # Why
///
/// Two polls on two replicas may want to close the same page, and a worker to complete the job. Who has the job's row
/// first wins: the others find `pages` or `state` changed when they have it, and do nothing. Who wins began after the
/// page before was closed, as `pages` says, so it sees every file that is on a page already.
pub(crate) async fn close(pool: &PgPool, job: Uuid, page: i32) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "-- export.page.close
        with closed as (
            update export_job set pages = pages + 1
            where id = $1 and state = 'running' and pages = $2 - 1
                and exists (select from binary_file where job_id = $1 and page is null)
            returning pages
        )
        update binary_file set page = pages from closed where job_id = $1 and page is null",
        job,
        page
    )
    .execute(pool)
    .await?;
    Ok(())
}
