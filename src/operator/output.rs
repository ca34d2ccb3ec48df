//! What commands print.

use std::io::{ErrorKind, Write};

use super::error::OperatorError;

/// Prints a line or more; says whether somebody still reads. A reader that has gone away is no error.
pub fn print(text: &str) -> Result<bool, OperatorError> {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(OperatorError::System { action: "print", source: error }),
    }
}

/// Says something for people on stderr, so that what is printed stays as programs read it.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
