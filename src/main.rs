//! `fhir-bulk-export`: see the library for what it does.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    fhir_bulk_export::command::Command::parse().run().await
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        fhir_bulk_export::command::Command::command().debug_assert();
    }
}
