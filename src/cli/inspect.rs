//! `inspect`: what a path holds.

use std::path::PathBuf;

use clap::Args;

const HELP: &str = "\
The path is a directory (engine, checkpoint, PEFT adapter), a safetensors file or a GGUF file.

Examples:
  jetspool inspect engine
  jetspool inspect processed/french/processed_adapter_model.safetensors
  jetspool inspect model-Q4_K_M.gguf";

/// Show on one screen what an engine, adapter or checkpoint holds.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct InspectArgs {
    /// Directory or file.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}
