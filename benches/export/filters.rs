//! What an export with filters costs, next to one of the same types without.

use std::path::Path;

use crate::data;
use crate::measure::{MEMORY, MIB, reap};
use crate::postgres::Postgres;
use crate::report::{Bar, Report};
use crate::server::{Server, store};
use crate::{Options, Result, Timed};

/// Of the resources that are looked at in a second to those of an export without filters.
const RATE: Bar = Bar::AtLeast(0.35);

/// An export.
struct Case {
    name: &'static str,
    query: String,
    kind: Kind,
    seconds: Vec<f64>,
    peaks: Vec<f64>,
}

/// What of the store it has to look at, and what comes out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Everything,
    Observations,
    /// Looks at all Observations, and admits as many.
    All,
    /// Looks at all Observations, and admits a part of them.
    Part,
    /// Has Observations found by an index.
    Found,
}

/// Makes a store, and exports it with and without filters, in turns.
pub async fn measure(options: &Options, folder: &Path, report: &mut Report) -> Result<()> {
    let files = folder.join("data");
    let resources = data::write(&options.sample, &files, options.resources)?;
    report.fact("resources", resources);
    let postgres = Postgres::start(&folder.join("postgres"))?;
    let database = store(&postgres, "filters", &files).await?.value;
    let server = Server::start(&database).await?;
    let mut cases = cases(&options.sample)?;
    let mut observations = 0;
    for _ in 0..options.runs {
        for case in &mut cases {
            server.forget_peak()?;
            let Timed { value: job, seconds } = server.client.export(&case.query).await?;
            case.seconds.push(seconds);
            case.peaks.push(server.peak_above_idle()? / MIB);
            let found = job.resources();
            let is_right = match case.kind {
                Kind::Everything => found == resources,
                Kind::Observations => {
                    observations = found;
                    true
                }
                Kind::All => found == observations,
                Kind::Part | Kind::Found => 0 < found && found < observations,
            };
            if !is_right {
                return Err(format!("{}: {found} resources exported", case.name).into());
            }
            reap(&server, &database, &job).await?;
        }
    }
    report.fact("Observations", observations);
    let whole: Vec<f64> =
        cases.iter().filter(|case| case.kind == Kind::Observations).flat_map(|case| case.seconds.clone()).collect();
    for case in &cases {
        report.row("filters", case.name, "s", &case.seconds);
        let looked_at = match case.kind {
            Kind::Everything => Some(resources),
            Kind::Found => None,
            Kind::Observations | Kind::All | Kind::Part => Some(observations),
        };
        if let Some(looked_at) = looked_at {
            let rates: Vec<f64> = case.seconds.iter().map(|seconds| looked_at as f64 / seconds).collect();
            report.row("filters", "  looked at", "resources/s", &rates);
        }
        if matches!(case.kind, Kind::All | Kind::Part) {
            let ratios: Vec<f64> = whole.iter().zip(&case.seconds).map(|(whole, seconds)| whole / seconds).collect();
            report.row_with_bar("filters", "  rate, to that without", "", &ratios, RATE);
        }
        report.row_with_bar("filters", "  peak memory above idle", "MiB", &case.peaks, MEMORY);
    }
    Ok(())
}

fn cases(sample: &Path) -> Result<Vec<Case>> {
    let case = |name, query: String, kind| Case { name, query, kind, seconds: Vec::new(), peaks: Vec::new() };
    // The first copy of the sample is the sample itself.
    let observations = std::fs::read_to_string(sample.join("Observation.ndjson"))?;
    let first: serde_json::Value = serde_json::from_str(observations.lines().next().unwrap_or_default())?;
    let first = first["id"].as_str().ok_or("an Observation without id")?.to_owned();
    let filtered = |parameters: &str| format!("?_type=Observation&_typeFilter=Observation%3F{parameters}");
    Ok(vec![
        case("everything", String::new(), Kind::Everything),
        case("Observations", "?_type=Observation".to_owned(), Kind::Observations),
        case("by a code that a tenth has", filtered("code=http://loinc.org%7C8302-2"), Kind::Part),
        case("by the status that all have", filtered("status=final,amended"), Kind::All),
        case("by date", filtered("date=ge2016-08"), Kind::Part),
        case("by the gender of the patient", filtered("subject:Patient.gender=female"), Kind::Part),
        case("by id", filtered(&format!("_id={first}")), Kind::Found),
    ])
}
