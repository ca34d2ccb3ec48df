//! `run`: the workflow's llm_inference.

use std::path::PathBuf;

use clap::Args;

use super::numbers::{count, device_choice, kv_cache_dtype};
use crate::answer::RunOptions;
use crate::config::MAX_THREADS;
use crate::numbers::{DeviceChoice, KvCacheDtype};

const HELP: &str = "\
Requests of one file may name different adapters and are computed together. A request that cannot be \
answered gets an `error` in its answer; the others do not suffer, and the exit code is 65.

A file that ends in .jsonl is a batch file as OpenAI's Batch API and vllm run-batch take it: one request a line, one \
answer a line. Its `model` is the name of the engine's directory, one of --servedModelName, or an adapter of \
--loraModules.

Ctrl-C or SIGTERM: the answers that are whole are written, the others get the error `cancelled`, and the exit code \
is 130. The same command with --resume goes on from there: it keeps the whole answers byte for byte and computes the \
others; the file is then that of an uninterrupted run (but for `usage.cached_tokens`). An output that \
answers other requests is refused.

Examples:
  jetspool run --engineDir engine --inputFile in.json --outputFile out.json
  jetspool run --engineDir engine --inputFile in.json --outputFile out.json \\
    --maxGenerateLength 64 --dumpOutput --dumpProfile
  jetspool run --engineDir engine \\
    --inputFile batch.jsonl --outputFile results.jsonl \\
    --servedModelName my-model --loraModules french=adapters/french";

/// Answer the requests of one file, without a daemon.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct RunArgs {
    /// Engine directory.
    #[arg(long = "engineDir", value_name = "DIR")]
    engine_dir: PathBuf,
    /// Request file.
    #[arg(long = "inputFile", value_name = "FILE")]
    input_file: PathBuf,
    /// Answer file to write.
    #[arg(long = "outputFile", value_name = "FILE")]
    output_file: PathBuf,
    /// Go on with the output file of an interrupted run; start a new one if there is none.
    #[arg(long)]
    resume: bool,
    /// Instead of the file's batch_size.
    #[arg(long = "batchSize", value_name = "N", value_parser = count(1, 16))]
    batch_size: Option<usize>,
    /// Instead of the file's max_generate_length.
    #[arg(long = "maxGenerateLength", value_name = "N", value_parser = count(1, 1 << 26))]
    max_generate_length: Option<usize>,
    /// Instead of the file's num_logprobs.
    #[arg(long = "numLogprobs", value_name = "N", value_parser = count(0, 50))]
    num_logprobs: Option<usize>,
    /// Runs before the clock starts.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count(0, 1_000_000))]
    warmup: usize,
    /// Print every answer.
    #[arg(long = "dumpOutput")]
    dump_output: bool,
    /// Measure, and print what the run cost.
    #[arg(long = "dumpProfile")]
    dump_profile: bool,
    /// Write what --dumpProfile measured as JSON.
    #[arg(long = "profileOutputFile", value_name = "FILE")]
    profile_output_file: Option<PathBuf>,
    /// Take adapters only from this directory; may be given more than once.
    #[arg(long = "allowedRoot", value_name = "DIR")]
    allowed_roots: Vec<PathBuf>,
    /// What batch files may call the model, beside the name of its directory; may be given more than once.
    #[arg(long = "servedModelName", value_name = "NAME")]
    served_model_names: Vec<String>,
    /// An adapter that requests may name beside those of the file; may be given more than once.
    #[arg(long = "loraModules", value_name = "NAME=PATH", value_parser = named_path, num_args = 1..)]
    lora_modules: Vec<(String, PathBuf)>,
    /// Tokens that one step computes at most.
    #[arg(long = "maxStepRows", value_name = "N", default_value_t = 128, value_parser = count(1, 65_536))]
    max_step_rows: usize,
    /// Blocks of 16 tokens that are kept for requests that begin with the same tokens; 0 shares none. Without it
    /// 256 MiB are kept.
    #[arg(long = "contextCacheMaxRecords", value_name = "N", value_parser = count(0, 1 << 26))]
    context_cache_max_records: Option<usize>,
    /// Where to compute; auto takes a GPU that the engine has kernels for, or else the processor.
    #[arg(long, value_name = "DEVICE", default_value = DeviceChoice::Auto.name(), value_parser = device_choice())]
    device: DeviceChoice,
    /// What keys and values are kept as; int8 takes half of f16's memory. auto is f16, and f32 for an engine of f32.
    #[arg(long = "kvCacheDtype", value_name = "TYPE", default_value = KvCacheDtype::Auto.name(), value_parser = kv_cache_dtype())]
    kv_cache_dtype: KvCacheDtype,
    /// Threads that compute; 0 is one per processor.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count(0, MAX_THREADS))]
    threads: usize,
}

impl RunArgs {
    /// The flags as the daemon takes them.
    pub fn options(&self) -> RunOptions {
        RunOptions {
            engine_dir: self.engine_dir.clone(),
            input_file: self.input_file.clone(),
            output_file: self.output_file.clone(),
            resume: self.resume,
            batch_size: self.batch_size,
            max_generate_length: self.max_generate_length,
            num_logprobs: self.num_logprobs,
            warmup: self.warmup,
            dump_output: self.dump_output,
            dump_profile: self.dump_profile,
            profile_output_file: self.profile_output_file.clone(),
            threads: self.threads,
            max_step_rows: self.max_step_rows,
            max_cached_blocks: self.context_cache_max_records,
            kv_cache_dtype: self.kv_cache_dtype,
            device: self.device,
            allowed_roots: self.allowed_roots.clone(),
            served_model_names: self.served_model_names.clone(),
            lora_modules: self.lora_modules.clone(),
        }
    }
}

fn named_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), path.into())),
        _ => Err("wanted NAME=PATH".to_owned()),
    }
}
