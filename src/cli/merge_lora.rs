//! `merge-lora`: the workflow's tensorrt-edgellm-merge-lora.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::numbers::count;
use crate::config;
use crate::tools::build::Progress;
use crate::tools::{MergeOptions, MergeType};

const HELP: &str = "\
Out: a checkpoint like the one that came in, with the adapter in its weights: the same files and shards, the \
tokenizer's and processor's files, config.json. All that PEFT can merge is merged: LoRA, rsLoRA, DoRA, rank \
and alpha patterns, biases, modules that were trained whole, embeddings and heads. An adapter tensor that \
matches nothing is an error. A head that is tied to the embedding is written on its own when only one of the \
two changes. The output directory must be new, empty, or the result of an earlier merge.

Examples:
  jetspool merge-lora --model_dir Qwen2.5-0.5B-Instruct \\
    --lora_dir adapters/french --output_dir merged
  jetspool merge-lora --model_dir Phi-4-multimodal \\
    --lora_dir Phi-4-multimodal/vision-lora --output_dir merged
  jetspool build --modelDir merged --engineDir engine";

/// Merge a PEFT adapter into a checkpoint's weights.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct MergeLoraArgs {
    /// Checkpoint directory.
    #[arg(long = "model_dir", value_name = "DIR")]
    model_dir: PathBuf,
    /// Adapter directory, as PEFT saves it.
    #[arg(long = "lora_dir", value_name = "DIR")]
    lora_dir: PathBuf,
    /// Directory to write to.
    #[arg(long = "output_dir", value_name = "DIR")]
    output_dir: PathBuf,
    /// Type of the merged weights; auto is the checkpoint's.
    #[arg(long = "torch-dtype", value_name = "TYPE", default_value = "float16",
        value_parser = PossibleValuesParser::new([
            PossibleValue::new("float16").aliases(["fp16", "f16", "half"]),
            PossibleValue::new("bfloat16").aliases(["bf16"]),
            PossibleValue::new("float32").aliases(["fp32", "f32", "float"]),
            PossibleValue::new("auto"),
        ]).map(|name| merge_type(&name)))]
    torch_dtype: MergeType,
    /// Threads that compute; 0 is one per processor. The result does not depend on it.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count(0, 1024))]
    threads: usize,
}

impl MergeLoraArgs {
    /// The flags as the tool takes them.
    pub fn options(&self) -> MergeOptions {
        let n_processors = || std::thread::available_parallelism().map_or(1, |number| number.get());
        MergeOptions {
            model_dir: self.model_dir.clone(),
            lora_dir: self.lora_dir.clone(),
            output_dir: self.output_dir.clone(),
            element: self.torch_dtype,
            n_threads: if self.threads == 0 { n_processors() } else { self.threads },
            progress: Progress::Bar,
            home: config::home_directory(),
        }
    }
}

/// The parser has turned aliases away from nothing but these.
fn merge_type(name: &str) -> MergeType {
    match name {
        "auto" => MergeType::Auto,
        "bfloat16" | "bf16" => MergeType::Bf16,
        "float32" | "fp32" | "f32" | "float" => MergeType::F32,
        _ => MergeType::F16,
    }
}
