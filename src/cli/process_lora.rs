//! `process-lora`: the workflow's tensorrt-edgellm-process-lora.

use std::path::PathBuf;

use clap::Args;

use crate::tools::{Dropping, ProcessInput, ProcessOptions};

const HELP: &str = "\
In: adapter_config.json and adapter_model.safetensors, or a GGUF file of llama.cpp's convert_lora_to_gguf.py. Out: processed_adapter_model.safetensors and \
config.json. An adapter that this form cannot hold is refused with the names of its tensors.

Examples:
  jetspool process-lora --input_dir adapters/french \\
    --output_dir processed/french
  jetspool process-lora --ggufFile french.gguf --engineDir engine \\
    --output_dir processed/french
  jetspool inspect processed/french/processed_adapter_model.safetensors";

/// Convert an adapter into the form that engines use.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ProcessLoraArgs {
    /// Adapter directory, as PEFT saves it.
    #[arg(long = "input_dir", value_name = "DIR", required_unless_present = "gguf_file")]
    input_dir: Option<PathBuf>,
    /// Adapter in a GGUF file, instead of a directory.
    #[arg(long = "ggufFile", value_name = "FILE", conflicts_with = "input_dir", requires = "engine_dir")]
    gguf_file: Option<PathBuf>,
    /// Engine of the model that the adapter in a GGUF file was trained on.
    #[arg(long = "engineDir", value_name = "DIR", requires = "gguf_file")]
    engine_dir: Option<PathBuf>,
    /// Directory to write to.
    #[arg(long = "output_dir", value_name = "DIR")]
    output_dir: PathBuf,
    /// Leave out tensors of norms, the head and value heads, and list them. The workflow's own tool leaves out norms
    /// and the head without a word; the answers are then not quite the trained ones.
    #[arg(long = "drop-unsupported", conflicts_with = "gguf_file")]
    drop_unsupported: bool,
}

impl ProcessLoraArgs {
    /// The flags as the tool takes them.
    pub fn options(&self) -> ProcessOptions {
        let dropping = if self.drop_unsupported { Dropping::Unsupported } else { Dropping::Nothing };
        let input = match (&self.gguf_file, &self.engine_dir) {
            (Some(file), Some(engine_dir)) => {
                ProcessInput::Gguf { file: file.clone(), engine_dir: engine_dir.clone() }
            }
            _ => ProcessInput::Peft(self.input_dir.clone().unwrap_or_default()),
        };
        ProcessOptions { input, output_dir: self.output_dir.clone(), dropping }
    }
}
