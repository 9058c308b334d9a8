//! What is measured, and in which order: limit, export and reaping take turns, so that a noisy machine cancels out of
//! their ratios.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, Job, Representation};
use crate::data;
use crate::postgres::{Database, Postgres};
use crate::report::{Bar, Report, median, percentile};
use crate::server::{Server, load, store};
use crate::{Options, Result, Timed, timed};

/// Types that the sample does not have, for exports of so many resources.
const SMALL: [(&str, usize); 3] = [("Basic", 1), ("Flag", 10), ("List", 1_000)];
const LARGE: (usize, usize) = (20, 50_000_000);
/// Between two polls of an export that two poll: together they stay below the ten a second that are answered.
const SHARED_POLL: Duration = Duration::from_millis(210);
const MB: f64 = 1e6;
const GB: f64 = 1e9;
pub const MIB: f64 = 1024.0 * 1024.0;
/// The bar of memory above idle, in MiB.
pub const MEMORY: Bar = Bar::AtMost(150.0);

pub struct Bench<'a> {
    options: &'a Options,
    folder: PathBuf,
    /// The stores whose exports are compared, from the smallest; the one that all else is measured on is `main`.
    stores: Vec<Store>,
    main: usize,
    /// Goes last: the servers are on it.
    postgres: Postgres,
}

/// A loaded database and the server on it. The server goes first.
struct Store {
    server: Server,
    database: Database,
    resources: usize,
    ndjson: f64,
}

/// What one export cost.
struct Cost {
    seconds: f64,
    server_cpu: f64,
    postgres_cpu: f64,
    wal: f64,
    stored: f64,
    peak: f64,
}

impl<'a> Bench<'a> {
    /// Makes the data, loads it and starts the servers.
    pub async fn prepare(options: &'a Options, folder: &Path, report: &mut Report) -> Result<Self> {
        report.fact("cores", std::thread::available_parallelism()?);
        report.fact("codec", if cfg!(feature = "isal") { "ISA-L" } else { "zlib-rs" });
        let postgres = Postgres::start(&folder.join("postgres"))?;
        let mut sizes = vec![(options.resources / 10, 0), (options.resources, 1)];
        if options.growth {
            sizes.push((options.resources * 5, 2));
        }
        let mut stores = Vec::new();
        for (resources, number) in sizes {
            let files = folder.join("data");
            let mut made = data::write(&options.sample, &files, resources)?;
            for (resource_type, count) in SMALL {
                data::write_small(&files, resource_type, count)?;
                made += count;
            }
            let Timed { value: database, seconds } = store(&postgres, &format!("store_{number}"), &files).await?;
            if number == 1 {
                report.row("load", "the store", "resources/s", &[made as f64 / seconds]);
            }
            let ndjson = database.ndjson_bytes().await?;
            let server = Server::start(&database).await?;
            stores.push(Store { server, database, resources: made, ndjson });
        }
        let bench = Self { options, folder: folder.to_owned(), postgres, stores, main: 1 };
        let main = bench.main();
        report.fact("resources", main.resources);
        report.fact("NDJSON, MB", format!("{:.0}", main.ndjson / MB));
        report.fact(
            "postgres",
            sqlx::query_scalar::<_, String>("show server_version").fetch_one(&main.database.pool).await?,
        );
        report.fact("server idle, MiB", format!("{:.0}", main.server.idle as f64 / MIB));
        Ok(bench)
    }

    fn main(&self) -> &Store {
        &self.stores[self.main]
    }

    /// Limit, exports and reaping, in turns.
    pub async fn exports(&self, report: &mut Report) -> Result<()> {
        let main = self.main();
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let mut costs: Vec<Cost> = Vec::new();
        let mut times = vec![Vec::new(); self.stores.len()];
        let (mut reap_seconds, mut reap_wal, mut on_disk) = (Vec::new(), Vec::new(), Vec::new());
        main.database.copy_everything(1).await?;
        let before = main.database.on_disk().await?;
        for _ in 0..self.options.runs {
            one.push(main.database.copy_everything(1).await?.seconds);
            for (number, store) in self.stores.iter().enumerate() {
                if number == self.main {
                    two.push(main.database.copy_everything(2).await?.seconds);
                }
                let (job, cost) = self.export(store).await?;
                times[number].push(cost.seconds);
                let stored = cost.stored;
                if number == self.main {
                    costs.push(cost);
                }
                let (seconds, wal) = reap(&store.server, &store.database, &job).await?;
                if number == self.main {
                    reap_seconds.push(seconds);
                    reap_wal.push(wal / stored);
                    on_disk.push(store.database.on_disk().await?);
                }
            }
        }
        let rate = |seconds: &[f64]| seconds.iter().map(|s| main.ndjson / MB / s).collect::<Vec<_>>();
        report.row("limit", "COPY, one connection", "MB/s", &rate(&one));
        report.row("limit", "COPY, two connections", "MB/s", &rate(&two));
        let of = |value: fn(&Cost) -> f64| costs.iter().map(value).collect::<Vec<_>>();
        let seconds = of(|cost| cost.seconds);
        report.row("export", "kick-off to completed", "s", &seconds);
        let resources: Vec<_> = seconds.iter().map(|s| main.resources as f64 / s).collect();
        report.row_with_bar("export", "", "resources/s", &resources, Bar::AtLeast(100_000.0));
        report.row("export", "NDJSON", "MB/s", &rate(&seconds));
        let ratio = |limit: &[f64]| limit.iter().zip(&seconds).map(|(limit, s)| limit / s).collect::<Vec<_>>();
        let bar = if cfg!(feature = "isal") { Some(Bar::AtLeast(0.8)) } else { None };
        match bar {
            Some(bar) => report.row_with_bar("export", "ratio to one connection", "", &ratio(&one), bar),
            None => report.row("export", "ratio to one connection", "", &ratio(&one)),
        }
        let bar = Bar::AtLeast(if cfg!(feature = "isal") { 0.45 } else { 0.28 });
        report.row_with_bar("export", "ratio to two connections", "", &ratio(&two), bar);
        let per_gb = |value: Vec<f64>| value.iter().map(|v| v / (main.ndjson / GB)).collect::<Vec<_>>();
        report.row("export", "CPU of the server", "s/GB", &per_gb(of(|cost| cost.server_cpu)));
        report.row("export", "CPU of Postgres", "s/GB", &per_gb(of(|cost| cost.postgres_cpu)));
        report.row(
            "export",
            "NDJSON to stored bytes",
            "",
            &of(|cost| cost.stored).iter().map(|s| main.ndjson / s).collect::<Vec<_>>(),
        );
        report.row(
            "export",
            "WAL per NDJSON byte",
            "",
            &of(|cost| cost.wal).iter().map(|w| w / main.ndjson).collect::<Vec<_>>(),
        );
        report.row_with_bar("export", "WAL per stored byte", "", &of(|cost| cost.wal / cost.stored), Bar::AtMost(1.1));
        report.row_with_bar("export", "peak memory above idle", "MiB", &of(|cost| cost.peak / MIB), MEMORY);
        self.growth(&times, report);
        report.row("reap", "the export's files", "s", &reap_seconds);
        report.row("reap", "WAL per byte that goes", "", &reap_wal);
        report.row("reap", "database before", "MB", &[before / MB]);
        report.row("reap", "database after each run", "MB", &on_disk.iter().map(|b| b / MB).collect::<Vec<_>>());
        let Some((first, later @ [_, _, ..])) = on_disk.split_first() else { return Ok(()) };
        let growth = later.iter().fold(1.0_f64, |most, bytes| most.max(bytes / first));
        report.row_with_bar("reap", "database after the last to after the first", "", &[growth], Bar::AtMost(1.01));
        Ok(())
    }

    /// The exponent of time over resources: the slope of the logarithms.
    fn growth(&self, times: &[Vec<f64>], report: &mut Report) {
        let points: Vec<(f64, f64)> = self
            .stores
            .iter()
            .zip(times)
            .map(|(store, times)| ((store.resources as f64).ln(), median(times).ln()))
            .collect();
        for (store, times) in self.stores.iter().zip(times) {
            report.row("growth", format!("{} resources", store.resources), "s", times);
        }
        let count = points.len() as f64;
        let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
        let (mean_x, mean_y) = (mean(|p| p.0), mean(|p| p.1));
        let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
        let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
        report.row_with_bar("growth", "exponent", "", &[covariance / variance], Bar::AtMost(1.05));
    }

    async fn export(&self, store: &Store) -> Result<(Job, Cost)> {
        let Store { server, database, .. } = store;
        server.forget_peak()?;
        let (server_cpu, postgres_cpu) = (server.cpu_seconds()?, self.postgres.cpu_seconds()?);
        let wal = database.wal_bytes().await?;
        let Timed { value: job, seconds } = server.client.export("").await?;
        let cost = Cost {
            seconds,
            server_cpu: server.cpu_seconds()? - server_cpu,
            postgres_cpu: self.postgres.cpu_seconds()? - postgres_cpu,
            wal: database.wal_bytes().await? - wal,
            stored: database.stored_bytes().await?,
            peak: server.peak_above_idle()?,
        };
        if job.resources() != store.resources {
            return Err(format!("{} resources exported of {}", job.resources(), store.resources).into());
        }
        Ok((job, cost))
    }

    /// Every representation, in one stream and in four.
    pub async fn downloads(&self, report: &mut Report) -> Result<()> {
        let Store { server, ndjson, .. } = self.main();
        let job = server.client.export("").await?.value;
        for (representation, name, streams) in [
            (Representation::Gzip, "gzip, one stream", 1),
            (Representation::Gzip, "gzip, four streams", 4),
            (Representation::Identity, "identity, one stream", 1),
            (Representation::Identity, "identity, four streams", 4),
            (Representation::FhirJson, "Binary JSON, one stream", 1),
        ] {
            let (mut rates, mut cpu, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..self.options.runs {
                server.forget_peak()?;
                let before = server.cpu_seconds()?;
                let Timed { value: received, seconds } = server.client.download(&job, representation, streams).await?;
                if matches!(representation, Representation::Identity) && received != *ndjson {
                    return Err(format!("{received} bytes downloaded of {ndjson}").into());
                }
                rates.push(ndjson / MB / seconds);
                cpu.push((server.cpu_seconds()? - before) / (ndjson / GB));
                peaks.push(server.peak_above_idle()? / MIB);
            }
            report.row("download", name, "MB/s NDJSON", &rates);
            match representation {
                Representation::Gzip => {
                    report.row_with_bar("download", "  CPU of the server", "s/GB", &cpu, Bar::AtMost(0.5))
                }
                _ => report.row("download", "  CPU of the server", "s/GB", &cpu),
            }
            report.row_with_bar("download", "  peak memory above idle", "MiB", &peaks, MEMORY);
        }
        server.client.delete(&job).await
    }

    /// Small exports, alone and while a big one runs.
    pub async fn small_exports(&self, report: &mut Report) -> Result<()> {
        let client = &self.main().server.client;
        for (resource_type, count) in SMALL {
            let times = self.many_small(resource_type).await?;
            let name = |which| format!("{which} of {count} resources");
            report.row_with_bar("small", name("p50"), "ms", &[percentile(&times, 0.5)], Bar::AtMost(100.0));
            report.row_with_bar("small", name("p99"), "ms", &[percentile(&times, 0.99)], Bar::AtMost(300.0));
        }
        let (current, busy) = watch::channel(String::new());
        let stop = CancellationToken::new();
        let big = tokio::spawn(big_exports(client.clone(), current, stop.clone()));
        let times = self.many_small(SMALL[1].0);
        let polls = async {
            let mut times = Vec::new();
            while times.len() < self.options.small_runs {
                tokio::time::sleep(SHARED_POLL).await;
                let url = busy.borrow().clone();
                if url.is_empty() {
                    continue;
                }
                // Between two big ones it may be gone.
                if let Ok(poll) = timed(client.poll(&url)).await {
                    times.push(poll.seconds * 1e3);
                }
            }
            Ok::<_, crate::Error>(times)
        };
        let (times, polls) = tokio::try_join!(times, polls)?;
        stop.cancel();
        big.await??;
        report.row("while busy", "p50 of 10 resources", "ms", &[percentile(&times, 0.5)]);
        report.row_with_bar(
            "while busy",
            "p99 of 10 resources",
            "ms",
            &[percentile(&times, 0.99)],
            Bar::AtMost(1000.0),
        );
        report.row("while busy", "p50 of a status poll", "ms", &[percentile(&polls, 0.5)]);
        report.row("while busy", "p99 of a status poll", "ms", &[percentile(&polls, 0.99)]);
        Ok(())
    }

    /// Milliseconds from kick-off to complete.
    async fn many_small(&self, resource_type: &str) -> Result<Vec<f64>> {
        let client = &self.main().server.client;
        let mut times = Vec::new();
        for _ in 0..self.options.small_runs {
            let Timed { value: job, seconds } = client.export(&format!("?_type={resource_type}")).await?;
            client.delete(&job).await?;
            times.push(seconds * 1e3);
        }
        Ok(times)
    }

    /// Memory while resources of 50 MB are exported and downloaded.
    pub async fn large_resources(&self, report: &mut Report) -> Result<()> {
        let files = self.folder.join("large");
        data::write_large(&files, LARGE.0, LARGE.1)?;
        let database = self.postgres.create("large").await?;
        load(&database, &files).await?;
        std::fs::remove_dir_all(&files)?;
        let server = Server::start(&database).await?;
        server.forget_peak()?;
        let Timed { value: job, seconds } = server.client.export("").await?;
        let name = format!("{} of {} MB, export", LARGE.0, LARGE.1 as f64 / MB);
        report.row("large", &name, "MB/s", &[(LARGE.0 * LARGE.1) as f64 / MB / seconds]);
        report.row_with_bar("large", "  peak memory above idle", "MiB", &[server.peak_above_idle()? / MIB], MEMORY);
        server.forget_peak()?;
        server.client.download(&job, Representation::Identity, 4).await?;
        report.row_with_bar(
            "large",
            "  download, peak memory above idle",
            "MiB",
            &[server.peak_above_idle()? / MIB],
            MEMORY,
        );
        Ok(())
    }

    /// The reaper empties a large export's own volume; the other way is to delete its rows and vacuum.
    pub async fn ways_to_reap(&self, report: &mut Report) -> Result<()> {
        let Store { server, database, .. } = self.main();
        let job = server.client.export("").await?.value;
        for (name, statements) in [
            ("DELETE and VACUUM", ["delete from reaped", "vacuum reaped"].as_slice()),
            ("TRUNCATE", ["truncate reaped"].as_slice()),
        ] {
            let (mut seconds, mut wal) = (Vec::new(), Vec::new());
            for _ in 0..self.options.runs {
                for statement in [
                    "drop table if exists reaped",
                    "create table reaped (like binary_chunk including all)",
                    "insert into reaped select * from binary_chunk",
                    "checkpoint",
                ] {
                    sqlx::query(AssertSqlSafe(statement)).execute(&database.pool).await?;
                }
                let before = database.wal_bytes().await?;
                let took = timed(async {
                    for statement in statements {
                        sqlx::query(AssertSqlSafe(*statement)).execute(&database.pool).await?;
                    }
                    Ok(())
                });
                seconds.push(took.await?.seconds);
                wal.push((database.wal_bytes().await? - before) / database.stored_bytes().await?);
            }
            report.row("ways", name, "s", &seconds);
            report.row("ways", format!("  {name}, WAL per byte"), "", &wal);
        }
        server.client.delete(&job).await
    }
}

/// One big export after the other, until it is stopped. Tells where the one under way is polled.
async fn big_exports(client: Client, current: watch::Sender<String>, stop: CancellationToken) -> Result<()> {
    while !stop.is_cancelled() {
        let url = client.kick_off("").await?;
        current.send_replace(url.clone());
        let job = client.completed_with(url, |_| SHARED_POLL).await?;
        current.send_replace(String::new());
        client.delete(&job).await?;
    }
    Ok(())
}

/// Deletes the job and waits until its files are gone; gives seconds and bytes of WAL.
pub async fn reap(server: &Server, database: &Database, job: &Job) -> Result<(f64, f64)> {
    let wal = database.wal_bytes().await?;
    let started = Instant::now();
    server.client.delete(job).await?;
    while database.number("select count(*)::float8 from export_job").await? > 0.0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok((started.elapsed().as_secs_f64(), database.wal_bytes().await? - wal))
}
