//! FHIR's vocabulary: types, references, instants, outcomes. No input or output, nothing of HTTP.

pub(crate) mod compartment;
pub(crate) mod elements;
pub(crate) mod instant;
pub(crate) mod outcome;
pub(crate) mod parameters;
pub(crate) mod period;
pub mod reference;
pub mod resource_type;
pub(crate) mod span;
