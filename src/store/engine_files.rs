//! The names of the files in an engine's directory.

use std::path::Path;

pub const WEIGHTS_FILE: &str = "llm.engine";
pub const CONFIG_FILE: &str = "config.json";
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// tokenizer.json compiled by `build`.
pub const TOKENIZER_TABLE_FILE: &str = "tokenizer.table";
pub const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
pub const CHAT_TEMPLATE_FILE: &str = "chat_template.jinja";
pub const PROCESSED_TEMPLATE_FILE: &str = "processed_chat_template.json";
/// The template of requests with tools, where the checkpoint has one of its own for them.
pub const TOOL_TEMPLATE_FILE: &str = "additional_chat_templates/tool_use.jinja";

/// Kernels for the GPUs of one architecture, as compilers name it: `sm_87`.
pub fn cubin_file(architecture: &str) -> String {
    format!("kernels.{architecture}.cubin")
}

/// What `tune` has chosen for the GPUs of one architecture.
pub fn tuning_file(architecture: &str) -> String {
    format!("tuning.{architecture}.json")
}

/// The names of all files with kernels in a directory.
pub fn cubin_files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("kernels.sm_") && name.ends_with(".cubin")).collect()
}
