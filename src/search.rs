//! FHIR search as a filter: `MedicationRequest?status=active&date=ge2024`, compiled from R4's definitions and evaluated on
//! the JSON text of a resource as it passes by (rules G9, G12).

mod element;
mod expression;
mod parameter;
