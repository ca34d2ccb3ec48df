//! The workflow's llm_bench: one prefill or one decoding step, timed over and over.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::bandwidth::read_bandwidth;
use super::error::ProbeError;
use super::logits::{open_decoder, open_lora};
use crate::backend::Cpu;
use crate::format::engine::EMBEDDING;
use crate::format::precision::scale_name;
use crate::format::{Precision, TensorFile};
use crate::kernels::simd::LANES;
use crate::model::{BLOCK_LEN, Decoder, LogitRows, Lora, Segment};
use crate::store::{Engine, map_file};

/// What a step computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BenchMode {
    /// `batch_size` prompts of `input_len` tokens.
    Prefill,
    /// One token of each of `batch_size` sequences that hold `past_kv_len` positions.
    Decode,
}

/// The flags of `bench`.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    pub engine_dir: PathBuf,
    pub mode: BenchMode,
    pub batch_size: usize,
    pub input_len: usize,
    pub past_kv_len: usize,
    /// Timed steps, after one that is not counted.
    pub iterations: usize,
    /// Processed adapters, given to the sequences in turn.
    pub loras: Vec<PathBuf>,
    /// 0 means one per processor.
    pub threads: usize,
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct BenchReport {
    mode: BenchMode,
    batch_size: usize,
    n_threads: usize,
    kernels: &'static str,
    /// Milliseconds of a step: smallest, median, largest.
    step_ms: [f64; 3],
    tokens_per_step: usize,
    /// Weights, adapters and cache that a step reads.
    bytes_per_step: usize,
    /// Bytes per second.
    read_bandwidth: f64,
}

struct Setup {
    decoder: Decoder<Cpu>,
    loras: Vec<Arc<Lora<Cpu>>>,
    /// `[batch_size][n_blocks]`
    blocks: Vec<Vec<u32>>,
    /// Tokens of each sequence in a step.
    tokens: Vec<u32>,
    start: usize,
}

/// Times steps of the given shape. The cache's content is zeros: it does not change the work.
///
/// # Errors
/// [`ProbeError`] when engine or adapters cannot be used, or the shape exceeds the engine's limits.
pub fn bench(options: &BenchOptions) -> Result<BenchReport, ProbeError> {
    let (setup, bytes_per_step) = prepare(options)?;
    let decoder = &setup.decoder;
    let n_blocks = setup.blocks.iter().map(Vec::len).sum();
    let no_cache = |source| ProbeError::System { action: "reserve the key-value cache", source };
    let mut cache = decoder.cache(n_blocks).map_err(no_cache)?;
    let mut workspace = decoder.workspace();
    let mut times_ms = Vec::new();
    for iteration in 0..=options.iterations {
        let segments: Vec<Segment<'_, Cpu>> = setup
            .blocks
            .iter()
            .enumerate()
            .map(|(index, blocks)| Segment {
                tokens: &setup.tokens,
                start: setup.start,
                blocks,
                lora: (!setup.loras.is_empty()).then(|| (&setup.loras[index % setup.loras.len()], 1.0)),
                logits: LogitRows::Last,
            })
            .collect();
        let begin = Instant::now();
        decoder.forward(&segments, &mut cache, &mut workspace);
        if iteration > 0 {
            times_ms.push(begin.elapsed().as_secs_f64() * 1e3);
        }
    }
    times_ms.sort_by(f64::total_cmp);
    let (n, n_threads) = (times_ms.len(), decoder.backend().n_threads());
    Ok(BenchReport {
        mode: options.mode,
        batch_size: options.batch_size,
        n_threads,
        kernels: decoder.backend().kernels().name,
        step_ms: [times_ms[0], times_ms[n / 2], times_ms[n - 1]],
        tokens_per_step: setup.blocks.len() * setup.tokens.len(),
        bytes_per_step,
        read_bandwidth: read_bandwidth(n_threads),
    })
}

fn prepare(options: &BenchOptions) -> Result<(Setup, usize), ProbeError> {
    let (decoder, engine) = open_decoder(&options.engine_dir, options.threads)?;
    let limits = &engine.config.limits;
    let (n_tokens, start) = match options.mode {
        BenchMode::Prefill => (options.input_len, 0),
        BenchMode::Decode => (1, options.past_kv_len),
    };
    let checks = [
        ("sequences", options.batch_size, limits.max_batch_size, "maxBatchSize"),
        ("input tokens", n_tokens, limits.max_input_len, "maxInputLen"),
        ("positions", start + n_tokens, limits.max_kv_cache_capacity, "maxKVCacheCapacity"),
        ("iterations", options.iterations, 1_000_000, "iterations"),
    ];
    for (what, found, max, flag) in checks {
        if !(1..=max).contains(&found) {
            return Err(ProbeError::OutOfRange { what, found, max, flag });
        }
    }
    let loras =
        options.loras.iter().map(|path| open_lora(&decoder, &engine, path)).collect::<Result<Vec<_>, _>>()?;
    let per_sequence = (start + n_tokens).div_ceil(BLOCK_LEN) as u32;
    let blocks = (0..options.batch_size as u32)
        .map(|sequence| (sequence * per_sequence..(sequence + 1) * per_sequence).collect())
        .collect();
    let vocab_size = decoder.architecture().vocab_size;
    let tokens = (0..n_tokens).map(|i| (i * 7919 % vocab_size) as u32).collect();
    let bytes = bytes_per_step(&engine, options, start)?;
    Ok((Setup { decoder, loras, blocks, tokens, start }, bytes))
}

/// Weights once, each adapter once, the cache of every sequence once.
fn bytes_per_step(engine: &Engine, options: &BenchOptions, past: usize) -> Result<usize, ProbeError> {
    let architecture = &engine.config.architecture;
    let scale = scale_name(EMBEDDING);
    // Of an untied embedding a step reads a few rows only.
    let is_read = |name: &str| architecture.tied_head || (name != EMBEDDING && name != scale);
    let weights = tensor_bytes(&engine.tensors, is_read);
    let mut adapters = 0;
    for path in options.loras.iter().take(options.batch_size) {
        let wrong = |source: crate::format::FormatError| ProbeError::Adapter {
            path: path.clone(),
            source: source.into(),
        };
        adapters += tensor_bytes(&TensorFile::parse(map_file(path)?).map_err(wrong)?, |_| true);
    }
    let element = if engine.config.precision == Precision::F32 { 4 } else { 2 };
    let position = architecture.n_layers
        * 2
        * architecture.n_kv_heads
        * architecture.head_dim.next_multiple_of(LANES)
        * element;
    Ok(weights + adapters + options.batch_size * past * position)
}

fn tensor_bytes(file: &TensorFile, is_read: impl Fn(&str) -> bool) -> usize {
    file.names().filter(|name| is_read(name)).filter_map(|name| file.get(name)).map(|t| t.data().len()).sum()
}

impl BenchReport {
    /// Tokens per second of the median step.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens_per_step as f64 / self.step_ms[1] * 1e3
    }

    fn gb_per_second(&self) -> f64 {
        self.bytes_per_step as f64 / self.step_ms[1] / 1e6
    }

    /// The report for programs.
    pub fn to_json(&self) -> Value {
        json!({
            "mode": self.mode_name(),
            "batch_size": self.batch_size,
            "threads": self.n_threads,
            "kernels": self.kernels,
            "step_ms": { "min": self.step_ms[0], "median": self.step_ms[1], "max": self.step_ms[2] },
            "tokens_per_second": self.tokens_per_second(),
            "bytes_per_step": self.bytes_per_step,
            "gb_per_second": self.gb_per_second(),
            "read_bandwidth_gb_per_second": self.read_bandwidth / 1e9,
            "bandwidth_share": self.gb_per_second() * 1e9 / self.read_bandwidth,
        })
    }

    fn mode_name(&self) -> &'static str {
        match self.mode {
            BenchMode::Prefill => "prefill",
            BenchMode::Decode => "decode",
        }
    }
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [min, median, max] = self.step_ms;
        writeln!(
            f,
            "{}, batch {}, {} threads, {} kernels",
            self.mode_name(),
            self.batch_size,
            self.n_threads,
            self.kernels
        )?;
        writeln!(f, "  step        {median:.3} ms (median; {min:.3} to {max:.3})")?;
        writeln!(f, "  speed       {:.1} tokens/s", self.tokens_per_second())?;
        writeln!(
            f,
            "  moved       {:.1} MB per step, {:.2} GB/s",
            self.bytes_per_step as f64 / 1e6,
            self.gb_per_second()
        )?;
        write!(
            f,
            "  bandwidth   {:.0}% of the {:.1} GB/s that this machine reads",
            self.gb_per_second() * 1e11 / self.read_bandwidth,
            self.read_bandwidth / 1e9
        )
    }
}
