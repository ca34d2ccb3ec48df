//! `hold`, `release`, `requeue`, `delete`, `flush`: what was asked for, job by job, and what became of it.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::OperatorError;
use super::output::print;
use crate::spool::{Action, Found, Spool, SpoolConfig, SpoolError, printable};

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
    let mut spool = open(&options.spool)?;
    let jobs = match &options.names {
        Some(names) => names.iter().map(|name| first(&spool, options.action, name)).collect(),
        None => all(&spool, options.action)?,
    };
    let mut failed: Option<SpoolError> = None;
    for job in jobs {
        match job.and_then(|job| act(&mut spool, options.action, &job).map(|()| job)) {
            Ok(job) => {
                let (name, from) = (printable(&job.name), job.place.name());
                print(&format!("{name}: {} from {from}/", past(options.action)))?;
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

type Named = Result<Found, SpoolError>;

fn all(spool: &Spool, action: Action) -> Result<Vec<Named>, SpoolError> {
    let mut jobs = Vec::new();
    for place in action.all_of() {
        jobs.extend(spool.jobs(*place)?.into_iter().map(Ok));
    }
    Ok(jobs)
}

fn first(spool: &Spool, action: Action, name: &OsStr) -> Named {
    let found = spool.find(name)?;
    let place = found.first().map(|job| job.place);
    let fits = found.into_iter().find(|job| action.is_from(job.place));
    fits.ok_or_else(|| SpoolError::NoJob { name: name.to_owned(), place })
}

fn act(spool: &mut Spool, action: Action, job: &Found) -> Result<(), SpoolError> {
    match action {
        Action::Hold => spool.hold(job).map(drop),
        Action::Release => spool.release(job).map(drop),
        Action::Requeue => spool.requeue(job).map(drop),
        Action::Delete => spool.delete(job),
    }
}

/// Makes the daemon look at the spool now.
///
/// # Errors
/// [`OperatorError`] when none runs.
pub fn flush(spool: &Path) -> Result<(), OperatorError> {
    Err(SpoolError::NoDaemon { root: spool.to_owned() }.into())
}

fn open(root: &Path) -> Result<Spool, OperatorError> {
    match Spool::open(root, SpoolConfig::default()) {
        Ok((spool, _)) => Ok(spool),
        Err(SpoolError::Io { path, source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
            Err(OperatorError::NotOperator { path })
        }
        Err(error) => Err(error.into()),
    }
}

fn past(action: Action) -> &'static str {
    match action {
        Action::Hold => "held",
        Action::Release => "released",
        Action::Requeue => "requeued",
        Action::Delete => "deleted",
    }
}
