//! The workflow's llm_bench: prefill and decoding steps, timed over and over.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::case::{BenchMode, Case};
use super::error::ProbeError;
use super::logits::{open_decoder, open_lora};
use super::report::{BenchReport, CaseReport};
use super::sampling::time_sampling;
use crate::device::{Opened, OpenedLora};
use crate::format::TensorFile;
use crate::format::engine::EMBEDDING;
use crate::kernels::tile::TILE_ROWS;
use crate::model::{BLOCK_LEN, Decoder, LogitRows, Segment, block_ids};
use crate::numbers::Precision;
use crate::numbers::precision::scale_name;
use crate::numbers::{DeviceChoice, KvCacheDtype};
use crate::progress::{Bar, Progress};
use crate::store::Engine;

/// The flags of `bench`.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    pub engine_dir: PathBuf,
    /// None: the usual cases, as far as the engine's limits allow.
    pub mode: Option<BenchMode>,
    pub batch_size: usize,
    pub input_len: usize,
    pub past_kv_len: usize,
    /// Timed steps, after one that is not counted.
    pub iterations: usize,
    /// Processed adapters, given to the sequences in turn.
    pub loras: Vec<PathBuf>,
    /// 0 means one per processor.
    pub threads: usize,
    pub kv_cache_dtype: KvCacheDtype,
    pub device: DeviceChoice,
    /// Whether the machine's read rate is measured too: takes 1 GiB for a few seconds.
    pub measures_read_rate: bool,
}

/// An engine and adapters, opened once for all cases.
struct Bench {
    decoder: Decoder<Opened>,
    engine: Engine,
    loras: Vec<Arc<OpenedLora>>,
    lora_bytes: Vec<usize>,
}

/// Times steps. The cache's content is zeros: it does not change the work.
///
/// # Errors
/// [`ProbeError`] when engine or adapters cannot be used, or the shape exceeds the engine's limits.
pub fn bench(options: &BenchOptions) -> Result<BenchReport, ProbeError> {
    let begin = Instant::now();
    let bench = Bench::open(options)?;
    let load_ms = begin.elapsed().as_secs_f64() * 1e3;
    let cases = match options.mode {
        Some(mode) => vec![single(options, mode)],
        None => sweep(options, &bench.engine),
    };
    let mut logits = Vec::new();
    let mut reports = Vec::new();
    // With one more of each, which is not counted.
    let n_steps: usize = cases.iter().map(|case| case.iterations.saturating_add(1)).sum();
    let bar = Bar::of(Progress::Bar, n_steps as u64, "steps");
    for case in cases {
        bar.say(case.label());
        reports.push(bench.time(case, &bar, &mut logits)?);
    }
    bar.say("reading memory");
    let device = bench.decoder.device().name();
    let n_threads = device.n_threads;
    Ok(BenchReport {
        is_sweep: options.mode.is_none(),
        n_threads,
        kernels: device.kernels,
        load_ms,
        cases: reports,
        sampling: time_sampling(&logits),
        read_bandwidth: if options.measures_read_rate { bench.decoder.device().read_rate() } else { None },
    })
}

fn single(options: &BenchOptions, mode: BenchMode) -> Case {
    Case {
        mode,
        batch_size: options.batch_size,
        len: if mode == BenchMode::Prefill { options.input_len } else { options.past_kv_len },
        n_loras: options.loras.len(),
        iterations: options.iterations,
    }
}

/// Decoding alone and in eight, prompts of 512 and 4096; without an adapter, with the first one, with all of them.
fn sweep(options: &BenchOptions, engine: &Engine) -> Vec<Case> {
    let limits = &engine.config.limits;
    let eight = limits.max_batch_size.min(8);
    let past = options.past_kv_len.min(limits.max_kv_cache_capacity - 1);
    let max_input = limits.max_input_len.min(limits.max_kv_cache_capacity);
    // A step of a prompt takes long: fewer of them say as much.
    let n_prompts = options.iterations.div_ceil(5);
    let decode = |batch_size, n_loras| Case {
        mode: BenchMode::Decode,
        batch_size,
        len: past,
        n_loras,
        iterations: options.iterations,
    };
    let prefill =
        |len, n_loras| Case { mode: BenchMode::Prefill, batch_size: 1, len, n_loras, iterations: n_prompts };
    let mut cases = Vec::new();
    for n_loras in 0..=options.loras.len().min(1) {
        cases.push(decode(1, n_loras));
        cases.extend((eight > 1).then(|| decode(eight, n_loras)));
        cases.extend([512, 4096].iter().filter(|len| **len <= max_input).map(|len| prefill(*len, n_loras)));
    }
    cases.extend((options.loras.len() > 1 && eight > 1).then(|| decode(eight, options.loras.len())));
    cases
}

impl Bench {
    fn open(options: &BenchOptions) -> Result<Self, ProbeError> {
        let (decoder, engine) =
            open_decoder(&options.engine_dir, options.device, options.threads, options.kv_cache_dtype)?;
        let mut loras = Vec::new();
        let mut lora_bytes = Vec::new();
        for path in &options.loras {
            let bound = open_lora(&decoder, &engine, path)?;
            lora_bytes.push(tensor_bytes(&bound.tensors, |_| true));
            loras.push(bound.lora);
        }
        Ok(Self { decoder, engine, loras, lora_bytes })
    }

    fn check(&self, case: Case) -> Result<(), ProbeError> {
        let limits = &self.engine.config.limits;
        let (n_tokens, start) = case.tokens_and_start();
        let checks = [
            ("sequences", case.batch_size, limits.max_batch_size, "maxBatchSize"),
            ("input tokens", n_tokens, limits.max_input_len, "maxInputLen"),
            ("positions", start + n_tokens, limits.max_kv_cache_capacity, "maxKVCacheCapacity"),
            ("iterations", case.iterations, 1_000_000, "iterations"),
        ];
        for (what, found, max, flag) in checks {
            if !(1..=max).contains(&found) {
                return Err(ProbeError::OutOfRange { what, found, max, flag });
            }
        }
        Ok(())
    }

    /// Times a case; leaves a row of its logits.
    fn time(&self, case: Case, bar: &Bar, logits: &mut Vec<f32>) -> Result<CaseReport, ProbeError> {
        self.check(case)?;
        let (n_tokens, start) = case.tokens_and_start();
        let vocab_size = self.decoder.architecture().vocab_size;
        let tokens: Vec<u32> = (0..n_tokens).map(|i| spread_token(i, vocab_size)).collect();
        let per_sequence = (start + n_tokens).div_ceil(BLOCK_LEN);
        let blocks: Vec<Vec<u32>> = (0..case.batch_size)
            .map(|sequence| block_ids(sequence * per_sequence..(sequence + 1) * per_sequence))
            .collect();
        let no_cache = |source| ProbeError::System { action: "reserve the key-value cache", source };
        let mut cache = self.decoder.cache(case.batch_size * per_sequence).map_err(no_cache)?;
        let mut workspace = self.decoder.workspace();
        let loras = &self.loras[..case.n_loras];
        let mut times_ms = Vec::new();
        for _ in 0..=case.iterations {
            let segments: Vec<Segment<'_, Opened>> = blocks
                .iter()
                .enumerate()
                .map(|(index, blocks)| Segment {
                    tokens: &tokens,
                    start,
                    blocks,
                    loras: loras
                        .get(index % loras.len().max(1))
                        .map(|lora| (lora, 1.0))
                        .into_iter()
                        .collect(),
                    logits: LogitRows::Last,
                })
                .collect();
            let begin = Instant::now();
            self.decoder.forward(&segments, &mut cache, &mut workspace)?;
            times_ms.push(begin.elapsed().as_secs_f64() * 1e3);
            bar.add(1);
        }
        logits.clear();
        logits.extend_from_slice(self.decoder.logits(&workspace, 0));
        let tokens_per_step = case.batch_size * n_tokens;
        Ok(CaseReport::new(case, &times_ms, tokens_per_step, self.bytes_per_step(case)))
    }

    /// Weights once, each adapter once, the cache of every sequence once.
    fn bytes_per_step(&self, case: Case) -> usize {
        let config = &self.engine.config;
        let architecture = &config.architecture;
        let scale = scale_name(EMBEDDING);
        // Of an untied embedding a step reads a few rows only.
        let is_read = |name: &str| architecture.tied_head || (name != EMBEDDING && name != scale);
        let weights = tensor_bytes(&self.engine.tensors, is_read);
        let adapters: usize = self.lora_bytes[..case.n_loras].iter().take(case.batch_size).sum();
        let element = if config.precision == Precision::F32 { 4 } else { 2 };
        let position = architecture.n_layers
            * 2
            * architecture.n_kv_heads
            * architecture.head_dim.next_multiple_of(TILE_ROWS)
            * element;
        let (_, past) = case.tokens_and_start();
        weights + adapters + case.batch_size * past * position
    }
}

fn tensor_bytes(file: &TensorFile, is_read: impl Fn(&str) -> bool) -> usize {
    file.names().filter(|name| is_read(name)).filter_map(|name| file.get(name)).map(|t| t.data().len()).sum()
}

/// Tokens from all over a vocabulary.
fn spread_token(idx: usize, vocab_size: usize) -> u32 {
    u32::try_from(idx * 7919 % vocab_size).expect("token ids have 32 bits")
}
