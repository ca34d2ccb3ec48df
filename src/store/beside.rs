//! The configuration that lies beside a processed adapter.

use std::path::Path;

use super::map::read_small_optional;

/// Written by process-lora together with the weights.
const CONFIG_FILE: &str = "config.json";

/// The config.json in the file's directory. None where there is none to be read: then nothing tells how the file was
/// made.
pub fn config_beside(file: &Path) -> Option<Vec<u8>> {
    read_small_optional(&file.with_file_name(CONFIG_FILE)).ok().flatten()
}
