//! `submit`: a request file into the spool, and its answer.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::AccessFlags;

use super::client::ask_within;
use super::error::OperatorError;
use super::output::{note, print};
use crate::spool::control::{JobName, Order, Reply};
use crate::spool::submit::{submit as drop_in, wait_for_answer};
use crate::spool::wire::{RequestFile, Stamp, count_failures};
use crate::spool::{Place, SpoolError, check_spool, form, is_of_lines, printable};
use crate::store::{Expected, explain, read_small};

/// While no daemon runs, it is asked for so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The flags of `submit`.
#[derive(Debug, Clone)]
pub struct SubmitOptions {
    pub file: PathBuf,
    pub spool: PathBuf,
    /// Waits for the answer, prints its path and fails if the file was rejected.
    pub wait: bool,
    pub timeout: Duration,
}

/// Drops a request file into the spool under its own name and prints the name, or the answer's path once it is there;
/// which name it waits for is said on stderr.
///
/// # Errors
/// [`OperatorError::Rejected`] for a file that no daemon would take.
pub fn submit(options: &SubmitOptions) -> Result<(), OperatorError> {
    let path = &options.file;
    check_spool(&options.spool)?;
    let bytes = read_small(path).map_err(|error| explain(path, Expected::Requests, error))?;
    // Nothing is answered here.
    let form = form(path.as_os_str(), || Stamp { name: String::new(), created: 0 });
    RequestFile::parse_as(bytes.clone(), form)
        .map_err(|fault| OperatorError::Rejected { path: path.clone(), fault })?;
    let name = path.file_name().unwrap_or(path.as_os_str());
    let new = options.spool.join(Place::New.name());
    let closed = OperatorError::closed(new, AccessFlags::W_OK | AccessFlags::X_OK);
    let (name, inode) = drop_in(&options.spool, name, &bytes).map_err(OperatorError::from).map_err(closed)?;
    if !options.wait {
        return print(&printable(&name).to_string()).map(drop);
    }
    note(&format!("waiting for the answer to {}", printable(&name)));
    let answer = wait(options, name, inode)?;
    print(&printable(&answer).to_string())?;
    check_answer(answer)
}

/// Waits for the answer: the daemon says under which name it stands. While none runs, out/ is looked at.
fn wait(options: &SubmitOptions, name: OsString, inode: u64) -> Result<PathBuf, OperatorError> {
    let begin = Instant::now();
    loop {
        let left = options.timeout.saturating_sub(begin.elapsed());
        let order = Order::Follow { name: JobName(name.clone()), inode };
        if left.is_zero() {
            let seconds = options.timeout.as_secs();
            return Err(SpoolError::NoAnswerYet { name, seconds }.into());
        }
        match ask_within(&options.spool, &order, Some(left)) {
            Ok(Some(Reply::Answered { name })) => {
                return Ok(options.spool.join(Place::Out.name()).join(name.0));
            }
            Ok(_) => match wait_for_answer(&options.spool, &name, left.min(LOOK_EVERY)) {
                Err(SpoolError::NoAnswerYet { .. }) => {}
                found => {
                    let closed =
                        OperatorError::closed(options.spool.join(Place::Out.name()), AccessFlags::R_OK);
                    return found.map_err(OperatorError::from).map_err(closed);
                }
            },
            // A read that took as long as there was time.
            Err(OperatorError::System { source, .. }) if source.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn check_answer(output: PathBuf) -> Result<(), OperatorError> {
    let is_of_lines = is_of_lines(output.as_os_str());
    let counted = File::open(&output).and_then(|file| Ok(count_failures(BufReader::new(file), is_of_lines)?));
    match counted.map_err(OperatorError::system("read the answer"))? {
        (_, 0) => Ok(()),
        (n_requests, n_failed) => Err(OperatorError::SomeFailed { n_failed, n_requests, output }),
    }
}
