#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fhir_bulk_export::fuzz::kick_off(data));
