//! Log lines, on standard error. A message reads alone; identifiers are fields; nothing of a person, a token or a body.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts logging as configured.
///
/// # Errors
/// When the filter cannot be understood.
pub(crate) fn start(log: &Log) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter: EnvFilter = log.filter.parse()?;
    let is_coloured = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || OneLine { is_coloured })
        .with_ansi(is_coloured);
    match log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// Writes an event as one line: whatever the text of an error has in it, it begins no other line, and tells a terminal
/// nothing. Colours are ours: in values the formatter escapes them itself.
struct OneLine {
    is_coloured: bool,
}

impl Write for OneLine {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(&one_line(event, self.is_coloured))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn one_line(event: &[u8], is_coloured: bool) -> Vec<u8> {
    let text = event.strip_suffix(b"\n").unwrap_or(event);
    let mut line = Vec::with_capacity(event.len());
    for byte in text {
        match byte {
            b'\x1b' if is_coloured => line.push(*byte),
            byte if byte.is_ascii_control() => line.extend(byte.escape_ascii()),
            byte => line.push(*byte),
        }
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = b"WARN refused error=a\nERROR b\r\x1b[2J \xc3\xa9\n";
        assert_eq!(one_line(event, false), b"WARN refused error=a\\nERROR b\\r\\x1b[2J \xc3\xa9\n");
        assert_eq!(one_line(b"\x1b[32m INFO\x1b[0m a\nb\n", true), b"\x1b[32m INFO\x1b[0m a\\nb\n");
    }
}
