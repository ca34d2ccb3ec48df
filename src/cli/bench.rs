//! `bench`: the workflow's llm_bench.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::numbers::{count, device_choice, kv_cache_dtype};
use crate::config::MAX_THREADS;
use crate::numbers::{DeviceChoice, KvCacheDtype};
use crate::probe::{BenchMode, BenchOptions};

const HELP: &str = "\
A step is the prompts of a batch (prefill) or one token of each sequence (decode). The report compares \
the bytes moved per second with what the memory of this machine gives, and says what choosing a token costs. \
--sweep times the usual cases in one process: decoding alone and in eight, prompts of 512 and 4096 tokens, as far \
as the engine's limits allow, without adapter and with those given.

Examples:
  jetspool bench --engineDir engine --mode prefill --inputLen 512
  jetspool bench --engineDir engine --mode decode --batchSize 4 \\
    --pastKVLen 512 --json
  jetspool bench --engineDir engine --mode decode --batchSize 2 \\
    --lora processed/french/processed_adapter_model.safetensors \\
    --lora processed/medical/processed_adapter_model.safetensors
  jetspool bench --engineDir engine --sweep \\
    --lora processed/french/processed_adapter_model.safetensors";

/// Time one step of the model.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct BenchArgs {
    /// Engine directory.
    #[arg(long = "engineDir", value_name = "DIR")]
    engine_dir: PathBuf,
    /// What is timed.
    #[arg(long, required_unless_present = "sweep", value_name = "MODE", value_parser = PossibleValuesParser::new(["prefill", "decode"])
        .map(|name| if name == "prefill" { BenchMode::Prefill } else { BenchMode::Decode }))]
    mode: Option<BenchMode>,
    /// Time the usual cases instead of one.
    #[arg(long, conflicts_with_all = ["mode", "batch_size", "input_len"])]
    sweep: bool,
    /// Sequences computed together.
    #[arg(long = "batchSize", value_name = "N", default_value_t = 1, value_parser = count(1, 4096))]
    batch_size: usize,
    /// Tokens of each prompt (prefill).
    #[arg(long = "inputLen", value_name = "N", default_value_t = 128, value_parser = count(1, 1 << 26))]
    input_len: usize,
    /// Tokens that each sequence holds already (decode).
    #[arg(long = "pastKVLen", value_name = "N", default_value_t = 128, value_parser = count(0, 1 << 26))]
    past_kv_len: usize,
    /// Timed steps, after one that is not counted.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = count(1, 1_000_000))]
    iterations: usize,
    /// A processed adapter; may be given more than once: the sequences take them in turn.
    #[arg(long = "lora", value_name = "FILE")]
    loras: Vec<PathBuf>,
    /// Where to compute; auto takes a GPU that the engine has kernels for, or else the processor.
    #[arg(long, value_name = "DEVICE", default_value = DeviceChoice::Auto.name(), value_parser = device_choice())]
    device: DeviceChoice,
    /// What keys and values are kept as; int8 takes half of f16's memory. auto is f16, and f32 for an engine of f32.
    #[arg(long = "kvCacheDtype", value_name = "TYPE", default_value = KvCacheDtype::Auto.name(), value_parser = kv_cache_dtype())]
    kv_cache_dtype: KvCacheDtype,
    /// Threads that compute; 0 is one per processor.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count(0, MAX_THREADS))]
    threads: usize,
    /// Do not measure this machine's read bandwidth: saves a few seconds and 1 GiB of memory.
    #[arg(long = "noReadRate")]
    no_read_rate: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

impl BenchArgs {
    /// The flags as the probe takes them.
    pub fn options(&self) -> BenchOptions {
        BenchOptions {
            engine_dir: self.engine_dir.clone(),
            mode: self.mode,
            batch_size: self.batch_size,
            input_len: self.input_len,
            past_kv_len: self.past_kv_len,
            iterations: self.iterations,
            loras: self.loras.clone(),
            threads: self.threads,
            kv_cache_dtype: self.kv_cache_dtype,
            device: self.device,
            measures_read_rate: !self.no_read_rate,
        }
    }
}
