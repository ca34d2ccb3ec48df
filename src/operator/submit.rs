//! `submit`: a request file into the spool, and its answer.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::IgnoredAny;

use super::error::OperatorError;
use super::output::print;
use crate::spool::submit::{submit as drop_in, wait_for_answer};
use crate::spool::wire::RequestFile;
use crate::store::read_small;

/// The flags of `submit`.
#[derive(Debug, Clone)]
pub struct SubmitOptions {
    pub file: PathBuf,
    pub spool: PathBuf,
    /// Waits for the answer, prints its path and fails if the file was rejected.
    pub wait: bool,
    pub timeout: Duration,
}

/// Drops a request file into the spool under its own name and prints the name, or the answer's path.
///
/// # Errors
/// [`OperatorError::Rejected`] for a file that no daemon would take.
pub fn submit(options: &SubmitOptions) -> Result<(), OperatorError> {
    let path = &options.file;
    let bytes = read_small(path)?;
    RequestFile::parse(bytes.clone())
        .map_err(|fault| OperatorError::Rejected { path: path.clone(), fault })?;
    let name = path.file_name().unwrap_or(path.as_os_str());
    let name = drop_in(&options.spool, name, &bytes)?;
    if !options.wait {
        return print(&name.display().to_string()).map(drop);
    }
    let answer = wait_for_answer(&options.spool, &name, options.timeout)?;
    print(&answer.display().to_string())?;
    check_answer(answer)
}

/// An answer file, of which only the faults matter.
#[derive(serde::Deserialize)]
struct Outcome {
    error: Option<IgnoredAny>,
    responses: Vec<Response>,
}

#[derive(serde::Deserialize)]
struct Response {
    error: Option<IgnoredAny>,
}

fn check_answer(output: PathBuf) -> Result<(), OperatorError> {
    let failed = OperatorError::system("read the answer");
    let outcome: Outcome = match File::open(&output) {
        Ok(file) => serde_json::from_reader(BufReader::new(file)).map_err(|error| failed(error.into()))?,
        Err(error) => return Err(failed(error)),
    };
    let n_requests = outcome.responses.len();
    let n_failed = outcome.responses.iter().filter(|response| response.error.is_some()).count();
    match (outcome.error, n_failed) {
        (None, 0) => Ok(()),
        _ => Err(OperatorError::SomeFailed { n_failed, n_requests, output }),
    }
}
