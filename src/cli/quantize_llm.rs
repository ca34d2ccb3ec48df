//! `quantize-llm`: the workflow's tensorrt-edgellm-quantize-llm.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::numbers::count;
use crate::compress::{Cache, Method, QuantizeOptions, Rounding};
use crate::config::MAX_THREADS;
use crate::tools::build::Progress;

/// The default of the workflow's program: a data set that it downloads.
const DATA_SET: &str = "cnn_dailymail";
const HELP: &str = "\
Out: a checkpoint in the layout that ModelOpt exports (hf_quant_config.json, scales beside each weight), \
which the workflow's exporter reads too; the tokenizer's files come along. The scales come from a forward \
pass over a text: plain text, or .jsonl with a text in each line, or a directory of such files. Without one \
a small text is used that comes with this program; text like that of your requests is better. A part of \
the text is held back, and the perplexity on it is shown before and after; quantization_report.json in the \
output holds the error of each matrix.

Examples:
  jetspool quantize-llm --model_dir Qwen2.5-0.5B-Instruct --output_dir int4 \\
    --quantization int4_awq
  jetspool quantize-llm --model_dir checkpoint --output_dir fp8 \\
    --quantization fp8 --kv_cache_quantization fp8 --calib requests.jsonl";

/// Quantize a Hugging Face checkpoint.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct QuantizeArgs {
    /// Checkpoint directory.
    #[arg(long = "model_dir", value_name = "DIR")]
    model_dir: PathBuf,
    /// Directory to write to.
    #[arg(long = "output_dir", value_name = "DIR")]
    output_dir: PathBuf,
    /// How the projections are stored.
    #[arg(long, value_name = "METHOD", value_parser = methods(&Method::ALL))]
    quantization: Method,
    /// How an untied head is stored; without it, f16.
    #[arg(long = "lm_head_quantization", value_name = "METHOD", value_parser = methods(&Method::OF_HEAD))]
    lm_head_quantization: Option<Method>,
    /// Write scales for a key-value cache of this type.
    #[arg(long = "kv_cache_quantization", value_name = "TYPE",
        value_parser = PossibleValuesParser::new(["fp8"]))]
    kv_cache_quantization: Option<String>,
    /// Text to calibrate with; cnn_dailymail, the workflow's default, cannot be downloaded here and stands
    /// for the text that comes with this program.
    #[arg(long = "dataset_dir", value_name = "FILE|DIR", visible_alias = "calib", alias = "dataset")]
    dataset_dir: Option<PathBuf>,
    /// Text for the perplexity; without it, a fifth of the text to calibrate with.
    #[arg(long, value_name = "FILE|DIR")]
    eval: Option<PathBuf>,
    /// Sequences to calibrate with, at most.
    #[arg(long = "calib_size", value_name = "N", default_value_t = 128, value_parser = count(1, 1 << 16))]
    calib_size: usize,
    /// Tokens of a sequence, at most.
    #[arg(long = "calib_len", value_name = "N", default_value_t = 512, value_parser = count(2, 1 << 16))]
    calib_len: usize,
    /// Set each scale by the largest magnitude, as if there was no text: for comparison.
    #[arg(long = "round_to_nearest")]
    round_to_nearest: bool,
    /// Type of what is not quantized.
    #[arg(long, value_name = "TYPE", default_value = "fp16",
        value_parser = PossibleValuesParser::new([PossibleValue::new("fp16").aliases(["f16", "float16"])]))]
    dtype: String,
    /// Where the forward pass runs.
    #[arg(long, value_name = "DEVICE", default_value = "cpu",
        value_parser = device)]
    device: String,
    /// Threads that compute; 0 is one per processor. The bytes written do not depend on it.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count(0, MAX_THREADS))]
    threads: usize,
}

/// `cpu`, or what the workflow's commands say: `cuda`, `cuda:0`.
fn device(text: &str) -> Result<String, String> {
    let number = text.strip_prefix("cuda:").map(|number| number.parse::<u8>().is_ok());
    match text == "cpu" || text == "cuda" || number == Some(true) {
        true => Ok(text.to_owned()),
        false => Err("wanted cpu, cuda or cuda:N, of which each means the CPU here".to_owned()),
    }
}

impl QuantizeArgs {
    /// The flags as the tool takes them.
    pub fn options(&self) -> QuantizeOptions {
        let is_data_set = |path: &&PathBuf| path.as_os_str() == DATA_SET && !path.exists();
        if self.dataset_dir.as_ref().is_some_and(|path| is_data_set(&path)) {
            tracing::warn!(
                "{DATA_SET} is a data set to download; the text that comes with this program is used"
            );
        }
        if self.device != "cpu" {
            tracing::warn!("--device {}: the forward pass runs on the CPU", self.device);
        }
        QuantizeOptions {
            model_dir: self.model_dir.clone(),
            output_dir: self.output_dir.clone(),
            method: self.quantization,
            head: self.lm_head_quantization,
            quantizes_cache: if self.kv_cache_quantization.is_some() { Cache::Fp8 } else { Cache::AsIs },
            calibration_text: self.dataset_dir.clone().filter(|path| !is_data_set(&path)),
            held_text: self.eval.clone(),
            n_sequences: self.calib_size,
            sequence_len: self.calib_len,
            rounding: if self.round_to_nearest { Rounding::Nearest } else { Rounding::Calibrated },
            n_threads: self.threads,
            progress: Progress::Bar,
        }
    }
}

fn methods(methods: &'static [Method]) -> impl TypedValueParser<Value = Method> {
    PossibleValuesParser::new(methods.iter().map(|method| method.name())).map(move |name| {
        let method = methods.iter().find(|method| method.name() == name);
        *method.expect("only these names are taken")
    })
}
