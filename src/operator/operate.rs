//! `hold`, `release`, `requeue`, `delete`, `flush`: what was asked for, job by job, and what became of it.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::OperatorError;
use super::output::print;
use crate::spool::SpoolError;
use crate::spool::operate::{Action, Operator};

/// The flags of a command on jobs.
#[derive(Debug, Clone)]
pub struct OperateOptions {
    pub action: Action,
    /// None means all that the command is for.
    pub names: Option<Vec<OsString>>,
    pub spool: PathBuf,
}

/// Does it job by job and prints a line for each; one that fails does not keep the others from their turn.
///
/// # Errors
/// [`OperatorError`] of the last job that failed; those before it are told on stderr.
pub fn operate(options: &OperateOptions) -> Result<(), OperatorError> {
    let operator = open(&options.spool)?;
    let names = match (&options.names, options.action.all_of()) {
        (Some(names), _) => names.clone(),
        (None, Some(place)) => operator.jobs(place)?,
        (None, None) => Vec::new(),
    };
    let mut failed: Option<SpoolError> = None;
    for name in names {
        match operator.act(options.action, &name) {
            Ok(from) => {
                print(&format!("{}: {} from {}/", name.display(), past(options.action), from.name()))?;
            }
            Err(error) => {
                if let Some(earlier) = failed.replace(error) {
                    tracing::error!("{earlier}");
                }
            }
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Makes the daemon look at the spool now.
///
/// # Errors
/// [`OperatorError`] when none runs.
pub fn flush(spool: &Path) -> Result<(), OperatorError> {
    open(spool)?.flush()?;
    print("the daemon has looked at the spool").map(drop)
}

fn open(spool: &Path) -> Result<Operator, OperatorError> {
    Operator::new(spool).map_err(|error| match error {
        SpoolError::Io { path, source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            OperatorError::NotOperator { path }
        }
        error => error.into(),
    })
}

fn past(action: Action) -> &'static str {
    match action {
        Action::Hold => "held",
        Action::Release => "released",
        Action::Requeue => "requeued",
        Action::Delete => "deleted",
    }
}
