//! `process-lora`: the workflow's tensorrt-edgellm-process-lora.

use std::path::PathBuf;

use clap::Args;

use crate::tools::{Dropping, ProcessOptions};

const HELP: &str = "\
In: adapter_config.json and adapter_model.safetensors. Out: processed_adapter_model.safetensors and \
config.json. An adapter that this form cannot hold is refused with the names of its tensors.

Examples:
  jetspool process-lora --input_dir adapters/french --output_dir processed/french
  jetspool inspect processed/french/processed_adapter_model.safetensors";

/// Bring a PEFT adapter into the form that is used at run time.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ProcessLoraArgs {
    /// Adapter directory, as PEFT saves it.
    #[arg(long = "input_dir", value_name = "DIR")]
    input_dir: PathBuf,
    /// Directory to write to.
    #[arg(long = "output_dir", value_name = "DIR")]
    output_dir: PathBuf,
    /// Leave out tensors of norms, the head and value heads, and list them. The workflow's own tool leaves out norms
    /// and the head without a word; the answers are then not quite the trained ones.
    #[arg(long = "drop-unsupported")]
    drop_unsupported: bool,
}

impl ProcessLoraArgs {
    /// The flags as the tool takes them.
    pub fn options(&self) -> ProcessOptions {
        let dropping = if self.drop_unsupported { Dropping::Unsupported } else { Dropping::Nothing };
        ProcessOptions { input_dir: self.input_dir.clone(), output_dir: self.output_dir.clone(), dropping }
    }
}
