//! `insert-lora`: the workflow's tensorrt-edgellm-insert-lora.

use std::path::PathBuf;

use clap::Args;

use crate::tools::InsertOptions;

const HELP: &str = "\
In: model.onnx, as export-llm or the workflow's own exporter writes it. Out: lora_model.onnx beside it, \
with the inputs MODULE.lora_A.weight and MODULE.lora_B.weight of any rank for every projection; the weights \
are shared. The tensors of a processed adapter have the same names.

Examples:
  jetspool insert-lora --onnx_dir onnx
  jetspool build --onnxDir onnx --engineDir engine --maxLoraRank 16";

/// Add inputs for adapters to an exported graph.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct InsertArgs {
    /// Directory with model.onnx.
    #[arg(long = "onnx_dir", value_name = "DIR")]
    onnx_dir: PathBuf,
}

impl InsertArgs {
    /// The flags as the tool takes them.
    pub fn options(&self) -> InsertOptions {
        InsertOptions { onnx_dir: self.onnx_dir.clone() }
    }
}
