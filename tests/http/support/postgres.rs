//! One private Postgres for all tests of this process, and an empty migrated database for each test.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use fhir_bulk_export::database::{Database as Connector, LocalPostgres, migrate};
use fhir_bulk_export::fhir::reference::PatientBases;
use fhir_bulk_export::fhir::resource_type::ResourceType;
use fhir_bulk_export::resource::body::Resource;
use fhir_bulk_export::resource::write::{Change, write};
use rustix::process::Pid;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};

struct Shared {
    postgres: LocalPostgres,
    /// Copying the template wants nobody else at it.
    copying: tokio::sync::Mutex<()>,
}

static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    let postgres = LocalPostgres::temporary().expect("PostgreSQL's programs");
    let options = postgres.options();
    // A runtime of its own: that of the first test ends with it.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let admin = Connector::at(options.clone()).work_pool(1);
            sqlx::query("create database template_fhir").execute(&admin).await.unwrap();
            let template = Connector::at(options.database("template_fhir")).work_pool(1);
            migrate(&template).await.unwrap();
            template.close().await;
        });
    })
    .join()
    .unwrap();
    Shared { postgres, copying: tokio::sync::Mutex::new(()) }
});

/// An empty database of the current schema; removed with this value.
pub struct Database {
    name: String,
    pub pool: PgPool,
}

impl Database {
    pub async fn create() -> Self {
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        let shared = &*SHARED;
        {
            let _alone = shared.copying.lock().await;
            let admin = PgPoolOptions::new().max_connections(1).connect_with(shared.postgres.options()).await.unwrap();
            let create = format!("create database {name} template template_fhir");
            sqlx::query(sqlx::AssertSqlSafe(create)).execute(&admin).await.unwrap();
            admin.close().await;
        }
        let options = shared.postgres.options().database(&name).application_name("test");
        let pool = PgPoolOptions::new().max_connections(5).connect_lazy_with(options);
        Self { name, pool }
    }

    pub fn options(&self) -> PgConnectOptions {
        SHARED.postgres.options().database(&self.name)
    }

    pub fn url(&self) -> String {
        SHARED.postgres.url(&self.name)
    }

    /// Writes resources through the library, as many versions as there are texts.
    pub async fn put(&self, resources: &[&str]) {
        let changes: Vec<Change> = resources.iter().map(|text| put(text)).collect();
        write(&self.pool, &changes).await.unwrap();
    }

    pub async fn delete(&self, resource_type: &str, id: &str) {
        let change = Change::Delete(ResourceType::parse(resource_type).unwrap(), id.to_owned());
        write(&self.pool, &[change]).await.unwrap();
    }

    /// Writes so many small Patients, `p0`, `p1`, …
    pub async fn put_patients(&self, count: usize) {
        let changes: Vec<Change> =
            (0..count).map(|n| put(&format!(r#"{{"resourceType":"Patient","id":"p{n}"}}"#))).collect();
        write(&self.pool, &changes).await.unwrap();
    }

    /// Runs `fhir-bulk-export load` with these arguments and this standard input.
    pub async fn load(&self, arguments: &[&str], input: &[u8]) -> Output {
        self.command("load", arguments, input).await
    }

    /// Runs `fhir-bulk-export` on this database.
    pub async fn command(&self, command: &str, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fhir-bulk-export"));
        child.arg(command).args(arguments).env("DATABASE_URL", self.url());
        let input = input.to_vec();
        tokio::task::spawn_blocking(move || {
            let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            let feed = std::thread::spawn(move || {
                // A command that has failed does not read on.
                let _ = stdin.write_all(&input);
            });
            let output = child.wait_with_output().unwrap();
            feed.join().unwrap();
            output
        })
        .await
        .unwrap()
    }

    /// Takes the writers' lock, as a write that does not end would: no export can be planned until this is dropped.
    pub async fn lock_writers(&self) -> sqlx::pool::PoolConnection<sqlx::Postgres> {
        let mut connection = self.pool.acquire().await.unwrap();
        connection.close_on_drop();
        sqlx::query("select pg_advisory_lock_shared(x'0066686972000001'::bigint)")
            .execute(&mut *connection)
            .await
            .unwrap();
        connection
    }

    /// Lets no part be taken that is planned from now on.
    pub async fn hold_parts(&self) {
        self.execute(
            "create function hold() returns trigger language plpgsql
                as 'begin new.not_before := ''2999-01-01''; return new; end';
            create trigger hold before insert on export_part for each row execute function hold()",
        )
        .await;
    }

    /// Lets them all be taken, and those planned later.
    pub async fn let_parts_go(&self) {
        self.execute("drop function hold cascade; update export_part set not_before = '-infinity'; notify export_work")
            .await;
    }

    pub async fn count(&self, from: &str) -> i64 {
        let query = format!("select count(*) from {from}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&self.pool).await.unwrap()
    }

    /// Lets nobody connect to this database, and ends who is; or lets everybody in again.
    pub async fn close(&self, closed: bool) {
        let mut admin = PgConnection::connect_with(&SHARED.postgres.options()).await.unwrap();
        let alter = format!("alter database {} allow_connections {}", self.name, !closed);
        sqlx::query(sqlx::AssertSqlSafe(alter)).execute(&mut admin).await.unwrap();
        let terminate = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1";
        sqlx::query(terminate).bind(&self.name).execute(&mut admin).await.unwrap();
    }

    /// The sessions that the server has with this database.
    pub async fn sessions(&self) -> Vec<Pid> {
        let pids = "select pid from pg_stat_activity where datname = $1 and application_name = 'fhir-bulk-export'";
        let pids: Vec<i32> = sqlx::query_scalar(pids).bind(&self.name).fetch_all(&self.pool).await.unwrap();
        pids.into_iter().filter_map(Pid::from_raw).collect()
    }

    /// What follows on this connection is done as a replica of the newest version would: it may take up any work.
    pub const ABLE: &str = "set fhir_bulk_export.able = 99;";

    pub async fn execute(&self, statement: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned())).execute(&self.pool).await.unwrap();
    }
}

fn put(text: &str) -> Change {
    Change::Put(Resource::parse(text.as_bytes(), &PatientBases::default()).unwrap())
}

impl Drop for Database {
    fn drop(&mut self) {
        let (options, name) = (SHARED.postgres.options(), self.name.clone());
        // Dropping is not async, and the test's runtime may be on its way out.
        let drop = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let admin = PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
                let drop = format!("drop database {name} with (force)");
                sqlx::query(sqlx::AssertSqlSafe(drop)).execute(&admin).await.unwrap();
            });
        });
        drop.join().unwrap();
    }
}
