//! `hold`, `release`, `requeue`, `delete`, `flush`: what was asked for, job by job, and what became of it. The
//! daemon does it where one runs; otherwise this process takes the lock and does it itself.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, geteuid, setegid, seteuid};

use super::client::ask;
use super::error::OperatorError;
use super::output::print;
use crate::spool::control::{Acted, JobName, Order, Refusal, Reply};
use crate::spool::operate::Chosen;
use crate::spool::{Action, Spool, SpoolConfig, SpoolError, check_spool};

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
    let mut failed: Option<Refusal> = None;
    let mut n_jobs = 0;
    loop {
        let (jobs, is_more) = portion(options)?;
        n_jobs += jobs.len();
        // Nobody asks again for what is refused.
        let goes_on = is_more && jobs.iter().any(|job| job.result.is_ok());
        for job in jobs {
            tell(options.action, job, &mut failed)?;
        }
        if !goes_on {
            break;
        }
    }
    if n_jobs == 0 {
        print("there is no such job")?;
    }
    failed.map_or(Ok(()), |refusal| Err(refusal.into()))
}

/// What is done at once, and whether there is more to do.
fn portion(options: &OperateOptions) -> Result<(Vec<Acted>, bool), OperatorError> {
    let names = options.names.clone().map(|names| names.into_iter().map(JobName).collect());
    let order = Order::Act { action: options.action, names };
    match ask(&options.spool, &order)? {
        Some(Reply::Acted { jobs, is_more }) => Ok((jobs, is_more)),
        Some(_) => Err(OperatorError::other_version()),
        None => alone(options),
    }
}

fn tell(action: Action, job: Acted, failed: &mut Option<Refusal>) -> Result<(), OperatorError> {
    let (code, message) = match job.result {
        Ok(from) => return print(&format!("{}: {} from {from}/", job.name, action.past())).map(drop),
        Err(Refusal { code, message }) => (code, message),
    };
    let name = job.name.to_string();
    let message = if message.starts_with(&name) { message } else { format!("{name}: {message}") };
    if let Some(earlier) = failed.replace(Refusal { code, message }) {
        tracing::error!("{earlier}");
    }
    Ok(())
}

/// Without a daemon: under the lock, as the user whose spool it is.
fn alone(options: &OperateOptions) -> Result<(Vec<Acted>, bool), OperatorError> {
    let mut spool = open(&options.spool)?;
    let names: Option<Vec<&OsStr>> =
        options.names.as_ref().map(|names| names.iter().map(OsString::as_os_str).collect());
    let Chosen { jobs, missing, is_more } = spool.chosen(options.action, names.as_deref())?;
    let mut acted: Vec<Acted> = missing.iter().map(|(name, error)| Acted::failed(name, error)).collect();
    for job in jobs {
        let result = spool.act(options.action, &job).map(drop).map_err(|error| Refusal::of(&error));
        acted.push(Acted::of(&job, result));
    }
    Ok((acted, is_more))
}

/// Makes the daemon look at the spool now.
///
/// # Errors
/// [`OperatorError`] when none runs.
pub fn flush(spool: &Path) -> Result<(), OperatorError> {
    match ask(spool, &Order::Flush)? {
        Some(Reply::Flushed) => print("the daemon has looked at the spool").map(drop),
        Some(_) => Err(OperatorError::other_version()),
        None => Err(SpoolError::NoDaemon { root: spool.to_owned() }.into()),
    }
}

fn open(root: &Path) -> Result<Spool, OperatorError> {
    check_spool(root)?;
    let found = std::fs::metadata(root).map_err(OperatorError::system("look at the spool"))?;
    if geteuid().is_root() && found.uid() != 0 {
        // What is made here must be the service's, the lock above all.
        let refused =
            |errno: nix::errno::Errno| OperatorError::system("become the spool's user")(errno.into());
        setegid(Gid::from_raw(found.gid())).map_err(refused)?;
        seteuid(Uid::from_raw(found.uid())).map_err(refused)?;
    }
    match Spool::open(root, SpoolConfig::default()) {
        Ok((spool, _)) => Ok(spool),
        Err(SpoolError::Io { path, source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
            Err(OperatorError::NotOperator { path })
        }
        Err(error) => Err(error.into()),
    }
}
