//! What an export costs next to the same by another build of the server, such as the version before: on one store, in
//! turns, each server alone.

use std::path::Path;

use crate::data;
use crate::measure::reap;
use crate::postgres::{Database, Postgres};
use crate::report::{Bar, Report};
use crate::server::{Server, store};
use crate::{Options, Result, Timed};

/// Of the rate of this build to that of the other.
const RATE: Bar = Bar::AtLeast(0.98);

/// What one export cost.
struct Cost {
    seconds: f64,
    cpu: f64,
}

/// Makes a store, and exports it whole by either build.
pub async fn measure(options: &Options, other: &Path, folder: &Path, report: &mut Report) -> Result<()> {
    let files = folder.join("data");
    let resources = data::write(&options.sample, &files, options.resources)?;
    report.fact("resources", resources);
    let postgres = Postgres::start(&folder.join("postgres"))?;
    let database = store(&postgres, "builds", &files).await?.value;
    // Whoever is first finds the files of Postgres in memory as the next one does.
    database.copy_everything(1).await?;
    let builds = [Server::binary(), other];
    let mut costs = [Vec::new(), Vec::new()];
    for run in 0..options.runs {
        // Each goes first every other time.
        for turn in [run % 2, (run + 1) % 2] {
            costs[turn].push(export(builds[turn], &database, resources).await?);
        }
    }
    let of = |costs: &[Cost], value: fn(&Cost) -> f64| costs.iter().map(value).collect::<Vec<_>>();
    for (name, costs) in ["this build", "the other"].into_iter().zip(&costs) {
        report.row("builds", name, "s", &of(costs, |cost| cost.seconds));
        report.row("builds", "  CPU of the server", "s", &of(costs, |cost| cost.cpu));
    }
    let [ours, theirs] = &costs;
    let ratio = |value: fn(&Cost) -> f64| {
        theirs.iter().zip(ours).map(|(theirs, ours)| value(theirs) / value(ours)).collect::<Vec<_>>()
    };
    report.row_with_bar("builds", "rate, to that of the other", "", &ratio(|cost| cost.seconds), RATE);
    report.row("builds", "resources per CPU second, likewise", "", &ratio(|cost| cost.cpu));
    Ok(())
}

/// By a server that is started for it, and has exported a little before.
async fn export(build: &Path, database: &Database, resources: usize) -> Result<Cost> {
    let server = Server::start_build(build, database).await?;
    let warm_up = server.client.export("?_type=Patient").await?.value;
    reap(&server, database, &warm_up).await?;
    let cpu = server.cpu_seconds()?;
    let Timed { value: job, seconds } = server.client.export("").await?;
    let cost = Cost { seconds, cpu: server.cpu_seconds()? - cpu };
    if job.resources() != resources {
        return Err(format!("{} exported {} resources of {resources}", build.display(), job.resources()).into());
    }
    reap(&server, database, &job).await?;
    Ok(cost)
}
