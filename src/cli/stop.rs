//! Why the program ends early: an error, or the help that was asked for.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::answer::AnswerError;
use crate::config::ConfigError;
use crate::daemon::DaemonError;
use crate::exit;
#[cfg(feature = "fleet")]
use crate::fleet::FleetError;
use crate::operator::OperatorError;
use crate::probe::ProbeError;
use crate::tools::ToolError;

/// The last words and the exit code.
#[derive(Debug)]
pub struct Stop(Words);

#[derive(Debug)]
enum Words {
    /// Help or version, for stdout.
    Asked(clap::Error),
    /// For stderr.
    Error { code: u8, text: String },
}

impl Stop {
    /// What clap has to say about a command line.
    pub fn of_usage(error: clap::Error) -> Self {
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            return Self(Words::Asked(error));
        }
        let text = error.render().to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned();
        Self::new(exit::USAGE, text)
    }

    pub(super) fn new(code: u8, text: String) -> Self {
        Self(Words::Error { code, text })
    }

    /// What is wrong with a command line that clap understood.
    pub(super) fn of_wrong_usage(text: String) -> Self {
        Self::new(exit::USAGE, text)
    }

    /// The output cannot be written. A reader that went away has seen enough: that is no error.
    pub(super) fn of_output(written: io::Result<()>) -> Result<(), Self> {
        match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Self::new(exit::IO, format!("cannot write the output: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// Says it and gives the exit code. A closed stream is no reason to panic.
    pub fn tell(self) -> ExitCode {
        match self.0 {
            Words::Asked(error) => {
                let _ = error.print();
                ExitCode::SUCCESS
            }
            Words::Error { code, text } => {
                let _ = writeln!(io::stderr(), "jetspool: {text}");
                ExitCode::from(code)
            }
        }
    }

    #[cfg(test)]
    pub fn code(&self) -> u8 {
        match &self.0 {
            Words::Asked(_) => 0,
            Words::Error { code, .. } => *code,
        }
    }

    #[cfg(test)]
    pub fn text(&self) -> String {
        match &self.0 {
            Words::Asked(error) => error.render().to_string(),
            Words::Error { text, .. } => text.clone(),
        }
    }
}

impl From<ConfigError> for Stop {
    fn from(error: ConfigError) -> Self {
        Self::new(error.exit_code(), error.to_string())
    }
}

impl From<AnswerError> for Stop {
    fn from(error: AnswerError) -> Self {
        Self::new(error.exit_code(), error.to_string())
    }
}

impl From<OperatorError> for Stop {
    fn from(error: OperatorError) -> Self {
        Self::new(error.exit_code(), error.to_string())
    }
}

impl From<DaemonError> for Stop {
    fn from(error: DaemonError) -> Self {
        Self::new(error.exit_code(), error.to_string())
    }
}

#[cfg(feature = "fleet")]
impl From<FleetError> for Stop {
    fn from(error: FleetError) -> Self {
        Self::new(error.exit_code(), error.to_string())
    }
}

impl From<ProbeError> for Stop {
    fn from(error: ProbeError) -> Self {
        Self::new(error.exit_code(), error.to_string())
    }
}

impl From<ToolError> for Stop {
    fn from(error: ToolError) -> Self {
        Self::new(error.exit_code(), error.to_string())
    }
}
