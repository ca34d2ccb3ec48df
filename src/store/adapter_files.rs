//! The files of adapters: as PEFT saves them, and as process-lora writes them.

use std::path::Path;

use super::map::read_small_optional;

pub const PEFT_CONFIG_FILE: &str = "adapter_config.json";
pub const PEFT_WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// Of older releases.
pub const PEFT_PICKLE_FILE: &str = "adapter_model.bin";
pub const PROCESSED_WEIGHTS_FILE: &str = "processed_adapter_model.safetensors";
/// Written together with the processed weights.
pub const PROCESSED_CONFIG_FILE: &str = "config.json";

/// The config.json in the directory of processed weights. None where there is none to be read: then nothing tells how
/// the file was made.
pub fn config_beside(weights: &Path) -> Option<Vec<u8>> {
    read_small_optional(&weights.with_file_name(PROCESSED_CONFIG_FILE)).ok().flatten()
}
