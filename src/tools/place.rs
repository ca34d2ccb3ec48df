//! Where a tool may write: an empty place, or one that an earlier call of the same tool has filled.

use std::fs;
use std::path::Path;

use super::error::ToolError;

/// Refuses a place that must not be written to. What is not there yet may be; `is_taken` says why a directory that is
/// there may not.
///
/// # Errors
/// [`ToolError::Output`], and what `is_taken` says.
pub fn check_output(
    output: &Path,
    inputs: &[&Path],
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
    is_taken(&real)?.map_or(Ok(()), refuse)
}

/// Whether nothing lies in a directory, as far as that can be read.
pub fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}
