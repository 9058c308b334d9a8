//! What an export of some patients costs, next to one of all: Groups of several sizes in one store.

use std::path::Path;

use crate::data;
use crate::postgres::Postgres;
use crate::report::{Bar, Report, median};
use crate::server::{Server, store};
use crate::{Options, Result, Timed};

/// Of all as one Group to the patient level.
const ALL: Bar = Bar::AtMost(1.5);
/// Not the Groups themselves: a patient has that of all, too, which is as long as six thousand others.
const TYPES: &str = "_type=Patient,Observation,Encounter,Condition,MedicationRequest,Provenance";
const LATEST: &str = "includeAssociatedData=LatestProvenanceResources";
/// Of one in a thousand to all.
const FEW: Bar = Bar::AtMost(0.03);

/// Makes a store of so many patients, and exports it at every level, in turns.
pub async fn measure(options: &Options, folder: &Path, report: &mut Report) -> Result<()> {
    let patients = options.patients;
    let groups = [("one", 1), ("few", patients / 1000), ("some", patients / 100), ("all", patients)];
    let files = folder.join("patients");
    data::write_patients(&files, patients, &groups)?;
    let postgres = Postgres::start(&folder.join("postgres"))?;
    let Timed { value: database, seconds: loaded } = store(&postgres, "levels", &files).await?;
    let resources = patients * data::OF_A_PATIENT;
    report.fact("patients", patients);
    report.fact("resources", resources);
    report.row("levels", "load", "resources/s", &[(resources + groups.len()) as f64 / loaded]);
    let server = Server::start(&database).await?;
    let paths: Vec<(String, String)> = [("the system".to_owned(), "$export?".to_owned())]
        .into_iter()
        .chain([("all patients".to_owned(), "Patient/$export?".to_owned())])
        .chain(groups.iter().map(|(name, size)| (format!("a Group of {size}"), format!("Group/{name}/$export?"))))
        .chain([
            ("all, organised by patient".to_owned(), "Patient/$export?organizeOutputBy=Patient&".to_owned()),
            ("all, with the latest Provenance".to_owned(), format!("Patient/$export?{LATEST}&")),
        ])
        .collect();
    let mut times = vec![Vec::new(); paths.len()];
    for _ in 0..options.runs {
        for ((_, path), times) in paths.iter().zip(&mut times) {
            let Timed { value: job, seconds } = server.client.export_at(&format!("{path}{TYPES}")).await?;
            if path == "Group/all/$export?" && job.resources() != resources {
                return Err(format!("{} resources exported of {resources}", job.resources()).into());
            }
            server.client.delete(&job).await?;
            times.push(seconds);
        }
    }
    for ((name, _), times) in paths.iter().zip(&times) {
        report.row("levels", name, "s", times);
    }
    let ratio = |of: usize, to: usize| median(&times[of]) / median(&times[to]);
    report.row("levels", "all patients to the system", "", &[ratio(1, 0)]);
    report.row_with_bar("levels", format!("a Group of {} to all patients", groups[1].1), "", &[ratio(3, 1)], FEW);
    report.row("levels", format!("a Group of {} to all patients", groups[2].1), "", &[ratio(4, 1)]);
    report.row_with_bar("levels", "all as one Group to all patients", "", &[ratio(5, 1)], ALL);
    report.row("levels", "organised to by type", "", &[ratio(6, 1)]);
    report.row("levels", "with the latest Provenance to with all", "", &[ratio(7, 1)]);
    Ok(())
}
