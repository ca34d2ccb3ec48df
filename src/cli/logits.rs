//! `logits`: a forward pass for comparison with another program.

use std::path::PathBuf;

use clap::Args;

use super::numbers::{count, device_choice, kv_cache_dtype, scale, token_id};
use crate::config::MAX_THREADS;
use crate::numbers::{DeviceChoice, KvCacheDtype};
use crate::probe::LogitsOptions;

const HELP: &str = "\
The output is a safetensors file with one f32 tensor, `logits`, of shape [tokens, vocabulary]: for \
comparison with another program, or for perplexity.

Examples:
  jetspool logits --engineDir engine --tokens 151644,872,198 \\
    --outputFile logits.safetensors
  jetspool logits --engineDir engine --tokens 1,2 --outputFile a.safetensors \\
    --lora french/processed_adapter_model.safetensors
  jetspool logits --engineDir engine --tokens 1,2 --outputFile b.safetensors \\
    --lora french/processed_adapter_model.safetensors --loraScale 0.7 \\
    --lora polite/processed_adapter_model.safetensors --loraScale 0.4";

/// Write the logits after each of the given tokens.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct LogitsArgs {
    /// Engine directory.
    #[arg(long = "engineDir", value_name = "DIR")]
    engine_dir: PathBuf,
    /// A processed adapter; may be given more than once: their updates are added in this order.
    #[arg(long = "lora", value_name = "FILE")]
    loras: Vec<PathBuf>,
    /// Factor on an adapter, 1 if not given; the first one belongs to the first adapter.
    #[arg(long = "loraScale", value_name = "NUMBER", value_parser = scale)]
    lora_scales: Vec<f32>,
    /// Token ids.
    #[arg(long, value_name = "ID,ID,..", required = true, value_delimiter = ',',
        value_parser = token_id)]
    tokens: Vec<u32>,
    /// File to write.
    #[arg(long = "outputFile", value_name = "FILE")]
    output_file: PathBuf,
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

impl LogitsArgs {
    /// The flags as the probe takes them.
    pub fn options(&self) -> LogitsOptions {
        LogitsOptions {
            engine_dir: self.engine_dir.clone(),
            loras: self.loras.clone(),
            lora_scales: self.lora_scales.clone(),
            tokens: self.tokens.clone(),
            output_file: self.output_file.clone(),
            threads: self.threads,
            kv_cache_dtype: self.kv_cache_dtype,
            device: self.device,
        }
    }
}
