//! `tune`: which launches of an engine's products are the fastest on the GPU at hand.

use std::fmt;
use std::path::PathBuf;

use super::error::ProbeError;
use super::logits::open_decoder;
use crate::device::cuda::{Cuda, Timed};
use crate::device::{DeviceFault, Either, Opened};
use crate::format::TunedProduct;
use crate::kernels::tile::TILE_ROWS;
use crate::load::EngineLoadError;
use crate::model::{BLOCK_LEN, Decoder, LogitRows, Segment};
use crate::numbers::{DeviceChoice, KvCacheDtype};
use crate::progress::{Bar, Progress};
use crate::store::{Engine, write_tuning};

/// The flags of `tune`.
#[derive(Debug, Clone)]
pub struct TuneOptions {
    pub engine_dir: PathBuf,
    /// What the file would hold is told, and not written.
    pub is_dry: bool,
}

/// What was chosen, and where it lies.
#[derive(Debug, Clone)]
pub struct TuneReport {
    device: String,
    products: Vec<TunedProduct>,
    /// None where nothing was written.
    path: Option<PathBuf>,
}

/// Rows of the steps that are timed: those of a tile's block of threads, and about where tensor cores take over.
const N_ROWS: [usize; 9] = [1, 2, 4, 8, 16, 24, 32, 48, 64];

/// Times the products of steps of some sizes with the engine's own matrices, and leaves the choice in its directory.
///
/// # Errors
/// [`ProbeError::NoGpu`] where there is none that the engine has kernels for; others as of `bench`.
pub fn tune(options: &TuneOptions) -> Result<TuneReport, ProbeError> {
    let opened = open_decoder(&options.engine_dir, DeviceChoice::Cuda, 1, KvCacheDtype::Auto);
    let (decoder, engine) = opened.map_err(|error| match error {
        ProbeError::Engine(EngineLoadError::Device { source: why, .. }) => ProbeError::NoGpu { why },
        error => error,
    })?;
    let Either::Cuda(gpu) = decoder.device() else { unreachable!("a GPU was asked for") };
    let timed = time(&decoder, &engine, gpu)?;
    let (name, architecture) = gpu.device();
    let kernels = engine.kernels_digest(architecture).unwrap_or_default();
    let tuning = gpu.tuning_of(&timed, kernels);
    Ok(TuneReport {
        device: format!("{name}, {architecture}"),
        products: tuning.products.clone(),
        path: if options.is_dry { None } else { Some(write_tuning(&options.engine_dir, tuning)?) },
    })
}

fn time(decoder: &Decoder<Opened>, engine: &Engine, gpu: &Cuda) -> Result<Vec<Timed>, ProbeError> {
    let limits = &engine.config.limits;
    let most = limits.max_input_len.min(limits.max_kv_cache_capacity);
    let n_rows: Vec<usize> = N_ROWS.into_iter().filter(|&n| n <= most).collect();
    let tokens: Vec<u32> = vec![0; most.min(N_ROWS[N_ROWS.len() - 1])];
    let blocks: Vec<u32> = (0..).take(tokens.len().div_ceil(BLOCK_LEN)).collect();
    let no_cache = |source| ProbeError::System { action: "reserve the key-value cache", source };
    let mut cache = decoder.cache(blocks.len()).map_err(no_cache)?;
    let mut workspace = decoder.workspace();
    let bar = Bar::of(Progress::Bar, n_rows.len() as u64, "sizes");
    let mut timed = Vec::new();
    for n in n_rows {
        bar.say(format!("{n} rows"));
        let tokens = &tokens[..n];
        let step = Segment { tokens, start: 0, blocks: &blocks, loras: Vec::new(), logits: LogitRows::All };
        let mut forward = || decoder.forward(std::slice::from_ref(&step), &mut cache, &mut workspace);
        // Once so that all memory is taken, then as what is timed.
        forward()?;
        gpu.forget_steps();
        forward()?;
        timed.extend(gpu.time_products().map_err(|error| DeviceFault(error.to_string()))?);
        bar.add(1);
    }
    Ok(timed)
}

impl fmt::Display for TuneReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.device)?;
        let mut line = |cells: [&str; 5]| {
            let [kernel, inputs, outputs, threads, tensor_cores] = cells;
            writeln!(f, "{kernel:<20} {inputs:>7} {outputs:>8}  {threads:<26}  {tensor_cores}")
        };
        line(["kernel", "inputs", "outputs", "threads at 1, 2, 4, 8 rows", "tensor cores"])?;
        for product in &self.products {
            let [inputs, outputs] = [product.inputs, product.tiles * TILE_ROWS].map(|n| n.to_string());
            let threads = product.threads.map(|threads| threads.to_string()).join(", ");
            let from = product.tensor_cores_from.map_or("never".to_owned(), |n| format!("from {n} rows on"));
            line([&product.kernel, &inputs, &outputs, &threads, &from])?;
        }
        match &self.path {
            Some(path) => write!(f, "{}: used from now on by whoever opens the engine", path.display()),
            None => write!(f, "nothing was written"),
        }
    }
}
