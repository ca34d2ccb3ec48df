//! `build`: the workflow's llm_build.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args};

use super::numbers::count;
use crate::compress::CalibrationOptions;
use crate::config::MAX_THREADS;
use crate::format::{Limits, Target};
use crate::numbers::Precision;
use crate::tools::BuildOptions;
use crate::tools::build::{EngineText, GpuTarget, Progress};

const HELP: &str = "\
A checkpoint directory holds config.json, model.safetensors (or its parts) and tokenizer.json; an ONNX \
directory is what export-llm or the workflow's own exporter writes, and with --maxLoraRank what \
insert-lora adds to it. The engine is a directory that is later mapped as it lies. One that is there already is replaced at the \
end, file by file; a daemon that has it open goes on with the old one until `systemctl reload jetspool` (SIGHUP) or a \
restart.

Quantized checkpoints: ModelOpt's FP8, W4A16_AWQ, W8A8_SQ_PER_CHANNEL, NVFP4 and MXFP8 (of quantize-llm, also \
mixed), AutoAWQ (gemm, 4 bits), GPTQ and AutoRound (4 and 8 bits), compressed-tensors (int4, int8, fp8, nvfp4), fp8 in \
blocks or for the matrix, bitsandbytes nf4 and fp4. Without --precision their weights stay as they are, with their own \
scales and zeros; what is not quantized is f16, and the embedding and an own head are int8. --precision f16 or \
f32 makes numbers of them. Scales of activations and of the cache are not applied.

A GGUF file is what llama.cpp and Ollama use: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K weights \
of the architectures llama, qwen2, qwen3, phi3 and gemma3, with tokenizer and chat template. Without --precision blocks stay \
as they are, and numbers become f16; with one all are rounded to it: int8 is near the size of files of eight bits, int4 near \
that of those of four.

An engine for GPUs is one for the processor with kernels beside it: --target cuda:sm_87 adds those for Orin, and the \
answers are the same on both.

Examples:
  jetspool build --modelDir Qwen2.5-0.5B-Instruct --engineDir engine \\
    --precision int4 --maxLoraRank 16
  jetspool build --modelDir checkpoint --engineDir engine --maxBatchSize 8
  jetspool build --onnxDir onnx --engineDir engine --maxLoraRank 16
  jetspool build --ggufFile model-Q4_K_M.gguf --engineDir engine \\
    --precision int4";

/// Build an engine from a Hugging Face checkpoint, an ONNX directory or a GGUF file.
#[derive(Debug, Args)]
#[command(after_help = HELP, group = ArgGroup::new("source").required(true))]
pub struct BuildArgs {
    /// Checkpoint directory.
    #[arg(long = "modelDir", value_name = "DIR", group = "source")]
    model_dir: Option<PathBuf>,
    /// ONNX directory.
    #[arg(long = "onnxDir", value_name = "DIR", group = "source")]
    onnx_dir: Option<PathBuf>,
    /// GGUF file.
    #[arg(long = "ggufFile", value_name = "FILE", group = "source")]
    gguf_file: Option<PathBuf>,
    /// Engine directory to write.
    #[arg(long = "engineDir", value_name = "DIR")]
    engine_dir: PathBuf,
    /// Requests that are computed together.
    #[arg(long = "maxBatchSize", value_name = "N", default_value_t = Limits::default().max_batch_size,
        value_parser = count(1, 4096))]
    max_batch_size: usize,
    /// Longest prompt, in tokens.
    #[arg(long = "maxInputLen", value_name = "N", default_value_t = Limits::default().max_input_len,
        value_parser = count(1, 1 << 26))]
    max_input_len: usize,
    /// Prompt and answer of one request, in tokens.
    #[arg(long = "maxKVCacheCapacity", value_name = "N",
        default_value_t = Limits::default().max_kv_cache_capacity, value_parser = count(1, 1 << 26))]
    max_kv_cache_capacity: usize,
    /// Largest rank of an adapter; 0 is an engine without adapters.
    #[arg(long = "maxLoraRank", value_name = "N", default_value_t = Limits::default().max_lora_rank,
        value_parser = count(0, 4096))]
    max_lora_rank: usize,
    /// How the weights are stored. `stored`: as a quantized checkpoint has them, tables as int8; f16 of any other.
    #[arg(long, value_name = "TYPE", default_value = Precision::Stored.name(),
        value_parser = PossibleValuesParser::new(
            Precision::ALL.into_iter().chain([Precision::Stored]).map(Precision::name))
            .try_map(|name| name.parse::<Precision>()))]
    precision: Precision,
    /// How the embedding table and the head are stored; they are one table where the checkpoint ties them. Without it
    /// int8, and as the weights where those are f16 or f32.
    #[arg(long, value_name = "TYPE", value_parser = PossibleValuesParser::new(Precision::ALL.map(Precision::name))
        .try_map(|name| name.parse::<Precision>()))]
    head: Option<Precision>,
    /// Text to calibrate int4 with, like that of your requests: a text file, a .jsonl file, or a directory of them. The
    /// model reads it first; then weights that meet the same inputs make up for each other's rounding.
    #[arg(long, value_name = "FILE|DIR", conflicts_with_all = ["onnx_dir", "gguf_file"])]
    calib: Option<PathBuf>,
    /// Sequences to calibrate with, at most.
    #[arg(long = "calib_size", value_name = "N", default_value_t = 128, value_parser = count(1, 1 << 16))]
    calib_size: usize,
    /// Tokens of a sequence, at most.
    #[arg(long = "calib_len", value_name = "N", default_value_t = 512, value_parser = count(2, 1 << 16))]
    calib_len: usize,
    /// Build though there is no tokenizer.json: `logits` and `bench` take such an engine, `run` and `serve` do not.
    #[arg(long = "noTokenizer")]
    no_tokenizer: bool,
    /// What the engine is to have code for besides the processor: `cuda` for this machine's GPU (for Orin and Thor where
    /// there is none), or `cuda:sm_87,sm_110` for these.
    #[arg(long, value_name = "cpu|cuda[:ARCH,..]", default_value = Target::Cpu.name(), value_parser = gpu_target)]
    target: CodeFor,
    /// The compiler of kernels (libnvrtc.so), where it is not found by itself. Without one the package's kernels are
    /// taken.
    #[arg(long, value_name = "FILE")]
    nvrtc: Option<PathBuf>,
    /// Threads that convert; 0 is one per processor. The engine's bytes do not depend on it.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count(0, MAX_THREADS))]
    threads: usize,
}

/// None: the processor alone.
#[derive(Debug, Clone)]
struct CodeFor(Option<GpuTarget>);

fn gpu_target(text: &str) -> Result<CodeFor, String> {
    let (device, list) = text.split_once(':').map_or((text, None), |(device, list)| (device, Some(list)));
    match (device.parse::<Target>().map_err(|error| error.to_string())?, list) {
        (Target::Cpu, None) => Ok(CodeFor(None)),
        (Target::Cpu, Some(_)) => Err("only cuda takes architectures".into()),
        (Target::Cuda, list) => {
            let names = list.into_iter().flat_map(|list| list.split(','));
            let architectures = names.map(|name| name.parse().map_err(|error| format!("{error}")));
            Ok(CodeFor(Some(GpuTarget {
                architectures: architectures.collect::<Result<_, _>>()?,
                nvrtc: None,
            })))
        }
    }
}

impl BuildArgs {
    /// Whether the source is an ONNX directory.
    pub fn is_onnx(&self) -> bool {
        self.onnx_dir.is_some()
    }

    /// Whether the source is a GGUF file.
    pub fn is_gguf(&self) -> bool {
        self.gguf_file.is_some()
    }

    /// The text to calibrate with, if there is one.
    pub fn calibration(&self) -> Option<CalibrationOptions> {
        let text = self.calib.clone()?;
        Some(CalibrationOptions { text, n_sequences: self.calib_size, sequence_len: self.calib_len })
    }

    /// The flags as the tool takes them.
    pub fn options(&self) -> BuildOptions {
        let source = self.onnx_dir.as_ref().or(self.gguf_file.as_ref()).or(self.model_dir.as_ref());
        let n_processors = || std::thread::available_parallelism().map_or(1, |number| number.get());
        BuildOptions {
            model_dir: source.cloned().unwrap_or_default(),
            engine_dir: self.engine_dir.clone(),
            limits: Limits {
                max_batch_size: self.max_batch_size,
                max_input_len: self.max_input_len,
                max_kv_cache_capacity: self.max_kv_cache_capacity,
                max_lora_rank: self.max_lora_rank,
            },
            precision: self.precision,
            head: self.head,
            text: if self.no_tokenizer { EngineText::Optional } else { EngineText::Needed },
            gpu: self.target.0.clone().map(|gpu| GpuTarget { nvrtc: self.nvrtc.clone(), ..gpu }),
            n_threads: if self.threads == 0 { n_processors() } else { self.threads },
            progress: Progress::Bar,
        }
    }
}
