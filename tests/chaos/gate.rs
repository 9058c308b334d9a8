//! Gates, where work on an export can be held up for as long as a fault takes: before a part stores its file or
//! what it has found, and before a job is planned.

use sqlx::{PgPool, Postgres, Transaction};

/// Any number that the server does not use.
const GATE: i64 = 42;
/// The lock between writers and planners (`resource::clock`).
const WRITERS_LOCK: i64 = 0x0066_6869_7200_0001;

/// A closed gate; it opens when this is dropped, or with [`open`](Gate::open).
pub struct Gate(Transaction<'static, Postgres>);

/// Puts the gate before the files of all parts, and before what searches find.
pub async fn build(pool: &PgPool) {
    sqlx::raw_sql(
        "create function chaos_gate() returns trigger language plpgsql
        as 'begin perform pg_advisory_xact_lock_shared(42); return new; end';
        create trigger chaos_gate before insert on binary_file for each row execute function chaos_gate();
        create trigger chaos_gate before insert on export_found for each row execute function chaos_gate()",
    )
    .execute(pool)
    .await
    .unwrap();
}

impl Gate {
    /// Nothing of a part is stored from now on.
    pub async fn before_parts(pool: &PgPool) -> Self {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query("select pg_advisory_xact_lock($1)").bind(GATE).execute(&mut *transaction).await.unwrap();
        Self(transaction)
    }

    /// No job is planned from now on, as while a writer does not come to an end.
    pub async fn before_planning(pool: &PgPool) -> Self {
        let mut transaction = pool.begin().await.unwrap();
        let lock = "select pg_advisory_xact_lock_shared($1)";
        sqlx::query(lock).bind(WRITERS_LOCK).execute(&mut *transaction).await.unwrap();
        Self(transaction)
    }

    pub async fn open(self) {
        self.0.rollback().await.unwrap();
    }
}
