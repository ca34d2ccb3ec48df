//! Where a tool may write: an empty place, or one that an earlier call of the same tool has filled.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};

use super::error::ToolError;
use crate::store::StoreError;

/// Refuses a place that must not be written to: an input, the root, the home directory (`home`, or that of the user),
/// the current directory. What is not there yet may be; `is_taken` says why another directory that is there may not.
///
/// # Errors
/// [`ToolError::Output`], and what `is_taken` says.
pub fn check_output(
    output: &Path,
    inputs: &[&Path],
    home: Option<&Path>,
    is_taken: impl FnOnce(&Path) -> Result<Option<String>, ToolError>,
) -> Result<(), ToolError> {
    let refuse = |why: String| Err(ToolError::Output { path: output.to_owned(), why });
    let Ok(real) = fs::canonicalize(output) else { return Ok(()) };
    if !real.is_dir() {
        return refuse("is not a directory".to_owned());
    }
    if inputs.iter().any(|input| fs::canonicalize(input).is_ok_and(|input| input == real)) {
        return refuse("is an input's directory".to_owned());
    }
    if real.parent().is_none() {
        return refuse("is the root of the file system".to_owned());
    }
    let is_real = |path: Option<PathBuf>| {
        path.and_then(|path| fs::canonicalize(path).ok()).is_some_and(|path| path == real)
    };
    if is_real(home.map(Path::to_owned).or_else(home_of_user)) {
        return refuse("is the home directory".to_owned());
    }
    if is_real(std::env::current_dir().ok()) {
        return refuse("is the current directory".to_owned());
    }
    is_taken(&real)?.map_or(Ok(()), refuse)
}

fn home_of_user() -> Option<PathBuf> {
    User::from_uid(geteuid()).ok().flatten().map(|user| user.dir)
}

/// Whether nothing lies in a directory.
///
/// # Errors
/// [`StoreError::Io`].
pub fn is_empty(directory: &Path) -> Result<bool, ToolError> {
    Ok(fs::read_dir(directory).map_err(StoreError::io(directory, "list"))?.next().is_none())
}
