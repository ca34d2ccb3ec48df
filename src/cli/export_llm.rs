//! `export-llm`: the workflow's tensorrt-edgellm-export-llm, and tensorrt-edgellm-export with its two directories.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use crate::numbers::Precision;
use crate::tools::ExportOptions;

const HELP: &str = "\
Out: model.onnx with onnx_model.data (the weights), embedding.safetensors, config.json, the tokenizer's \
files and processed_chat_template.json. The graph uses operators of the standard alone (opset 23), so \
that onnxruntime runs it: it takes inputs_embeds, past_key_values_N, rope_rotary_cos_sin, last_token_ids \
and kvcache_start_index (Gemma 3 also local_rope_rotary_cos_sin, for its layers with a window), and gives logits \
and present_key_values_N.

Examples:
  jetspool export-llm --model_dir Qwen2.5-0.5B-Instruct --output_dir onnx
  jetspool insert-lora --onnx_dir onnx
  jetspool build --onnxDir onnx --engineDir engine --maxLoraRank 16";

/// Export a Hugging Face checkpoint as ONNX.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ExportArgs {
    /// Checkpoint directory.
    #[arg(long = "model_dir", value_name = "DIR", required_unless_present = "model")]
    model_dir: Option<PathBuf>,
    /// Directory to write to.
    #[arg(long = "output_dir", value_name = "DIR", required_unless_present = "model")]
    output_dir: Option<PathBuf>,
    /// The same without flags, as tensorrt-edgellm-export takes it: MODEL OUT writes OUT/llm.
    #[arg(value_name = "MODEL", requires = "out", conflicts_with_all = ["model_dir", "output_dir"])]
    model: Option<PathBuf>,
    #[arg(value_name = "OUT", hide = true)]
    out: Option<PathBuf>,
    /// Type of weights, activations and caches.
    #[arg(long, value_name = "TYPE", default_value = "f16",
        value_parser = PossibleValuesParser::new([
            PossibleValue::new("f16").aliases(["fp16", "float16"]),
            PossibleValue::new("f32").aliases(["fp32", "float32"]),
        ]).map(|name| precision(&name)))]
    dtype: Precision,
}

impl ExportArgs {
    /// The flags as the tool takes them.
    pub fn options(&self) -> ExportOptions {
        let below_out = self.out.as_ref().map(|out| out.join("llm"));
        ExportOptions {
            model_dir: self.model_dir.clone().or(self.model.clone()).unwrap_or_default(),
            output_dir: self.output_dir.clone().or(below_out).unwrap_or_default(),
            precision: self.dtype,
        }
    }
}

fn precision(name: &str) -> Precision {
    if name.ends_with("32") { Precision::F32 } else { Precision::F16 }
}
