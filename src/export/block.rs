//! Files organised by patient: block after block, each a header that refers to a patient, and the resources of that
//! patient's compartment (rules F9, G10).

use std::borrow::Cow;
use std::sync::Arc;

use futures_util::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row, ValueRef};

use super::gate::Asked;
use super::sink::{Sink, Stopped};
use crate::fhir::resource_type::ResourceType;
use crate::resource::compartment::Compartments;
use crate::resource::read::Piece;

/// The type of their first line: they have lines of many. (A replica of a version before this, which does not know of such
/// files, so gives one to nobody who has not the right to everything.)
const ORGANIZED: &str = "Parameters";

/// Where in the order of the rows one is: by patient, then by type.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    key: i64,
    patient: String,
    type_place: i32,
}

impl Place {
    fn is_of_patient_of(&self, other: &Self) -> bool {
        (self.key, &self.patient) == (other.key, &other.patient)
    }
}

/// Puts out the compartments, each as a block.
pub(super) async fn read_blocks(
    reader: &mut PgConnection,
    compartments: &Compartments,
    asked: impl Fn(ResourceType) -> Arc<Asked>,
    sink: &mut Sink<'_>,
) -> Result<(), Stopped> {
    let asked: Vec<Arc<Asked>> = compartments.types().iter().map(|resource_type| asked(*resource_type)).collect();
    let mut query = compartments.bodies();
    let mut rows = query.build().persistent(false).fetch(reader);
    let mut last: Option<Place> = None;
    let mut long = Long::default();
    while let Some(row) = rows.try_next().await? {
        let place = Place { key: row.try_get(0)?, patient: row.try_get(1)?, type_place: row.try_get(2)? };
        if last.as_ref().is_some_and(|last| *last > place) {
            return Err(out_of_order("the patients of a part do not come one after the other"));
        }
        if !last.as_ref().is_some_and(|last| last.is_of_patient_of(&place)) {
            if last.is_some() {
                sink.end_block(ORGANIZED).await?;
            }
            sink.lines.begin_block(header(&place.patient), place.patient.clone());
        }
        let asked = usize::try_from(place.type_place).ok().and_then(|at| asked.get(at)).ok_or_else(unasked)?;
        read_row(&row, asked, &mut long, sink).await?;
        last = Some(place);
    }
    if !long.is_whole() {
        return Err(torn());
    }
    if last.is_some() {
        sink.end_block(ORGANIZED).await?;
    }
    sink.end_file(ORGANIZED).await
}

/// A resource, or a piece of a long one.
async fn read_row(row: &PgRow, asked: &Arc<Asked>, long: &mut Long, sink: &mut Sink<'_>) -> Result<(), Stopped> {
    let body = row.try_get_raw(3)?;
    if body.is_null() {
        let piece = Piece { of: row.try_get(4)?, offset: row.try_get(5)?, bytes: row.try_get(6)? };
        sink.paced.read(piece.bytes.len()).await;
        return long.add(piece, row.try_get(7)?, asked, sink).await;
    }
    if !long.is_whole() {
        return Err(torn());
    }
    let body = body.as_bytes().map_err(sqlx::Error::Decode)?;
    sink.put(Cow::Borrowed(body), Cow::Borrowed(row.try_get(7)?), asked, ORGANIZED).await?;
    sink.paced.read(body.len()).await;
    Ok(())
}

/// A long body under way. It is in memory as a whole only where something is asked of it.
#[derive(Default)]
struct Long {
    read: i32,
    /// The length of the whole; none when no piece is missing.
    of: Option<i32>,
    whole: Vec<u8>,
    patients: String,
}

impl Long {
    fn is_whole(&self) -> bool {
        self.of.is_none()
    }

    /// A piece, with some of the Patients it is all about.
    async fn add(
        &mut self,
        piece: Piece,
        patients: &str,
        asked: &Arc<Asked>,
        sink: &mut Sink<'_>,
    ) -> Result<(), Stopped> {
        if piece.offset != self.read || self.of.is_some_and(|of| of != piece.of) {
            return Err(torn());
        }
        if piece.offset == 0 {
            self.of = Some(piece.of);
            if asked.is_nothing() {
                sink.begin_line(u64::from(piece.of.unsigned_abs()), ORGANIZED).await?;
            } else {
                self.whole.reserve_exact(piece.of.unsigned_abs() as usize);
            }
        }
        self.read += i32::try_from(piece.bytes.len()).unwrap_or(i32::MAX);
        if asked.is_nothing() {
            sink.lines.is_about(patients);
            sink.append(&piece.bytes).await?;
        } else {
            self.patients.extend([patients, " "]);
            self.whole.extend_from_slice(&piece.bytes);
        }
        if self.of != Some(self.read) {
            return Ok(());
        }
        let Self { whole, patients, .. } = std::mem::take(self);
        if asked.is_nothing() {
            return Ok(sink.end_line(ORGANIZED).await?);
        }
        sink.put(Cow::Owned(whole), Cow::Owned(patients), asked, ORGANIZED).await
    }
}

/// The first line of a block. No id has anything to escape.
fn header(patient: &str) -> String {
    let reference = format!(r#"{{"reference":"Patient/{patient}"}}"#);
    format!(r#"{{"resourceType":"Parameters","parameter":[{{"name":"header","valueReference":{reference}}}]}}"#)
}

fn unasked() -> Stopped {
    out_of_order("a resource is of a type that the part does not have")
}

fn torn() -> Stopped {
    out_of_order("the pieces of a resource do not make a whole")
}

fn out_of_order(text: &str) -> Stopped {
    Stopped::Database(sqlx::Error::Protocol(text.to_owned()))
}
