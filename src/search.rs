//! FHIR search as a filter: `MedicationRequest?status=active&date=ge2024`, compiled from R4's definitions and evaluated on
//! the JSON text of a resource as it passes by (rules G9, G12).

mod condition;
mod date;
mod element;
mod escape;
#[cfg(test)]
mod examples;
mod expression;
mod filter;
mod narrowed;
mod number;
pub(crate) mod parameter;
mod prefix;
mod query;
mod read;
mod reference;
mod string;
mod token;
mod truth;
mod uri;

pub(crate) use filter::{Context, Filter, Filters, Judgement, Lookup};
pub(crate) use narrowed::Narrowed;
pub(crate) use query::{Query, Search, Wrong, listed};
