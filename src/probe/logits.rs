//! Logits of every position of a token sequence, as a safetensors file.

use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use super::error::ProbeError;
use crate::device::Opened;
use crate::format::header::Header;
use crate::load::{AdapterLoadError, BoundAdapter, load_adapter, load_decoder};
use crate::model::{BLOCK_LEN, Decoder, LogitRows, Segment, block_ids};
use crate::numbers::{DeviceChoice, KvCacheDtype};
use crate::store::{AtomicFile, Engine, FileMap, Losses, StoreError, processed_file};

/// Tokens of one forward pass; bounds the memory of the logits held at once.
const CHUNK: usize = 32;

/// The flags of `logits`.
#[derive(Debug, Clone)]
pub struct LogitsOptions {
    pub engine_dir: PathBuf,
    /// Processed adapters, whose updates are added in this order.
    pub loras: Vec<PathBuf>,
    /// How much of each; 1 where there is none.
    pub lora_scales: Vec<f32>,
    pub tokens: Vec<u32>,
    pub output_file: PathBuf,
    /// 0 means one per processor.
    pub threads: usize,
    pub kv_cache_dtype: KvCacheDtype,
    pub device: DeviceChoice,
}

/// Writes the f32 tensor `logits` `[n_tokens, vocab_size]`.
///
/// # Errors
/// [`ProbeError`] with the file or token that is wrong.
pub fn logits(options: &LogitsOptions) -> Result<(), ProbeError> {
    let losses = Losses::now();
    let (decoder, engine) =
        open_decoder(&options.engine_dir, options.device, options.threads, options.kv_cache_dtype)?;
    let (tokens, architecture) = (&options.tokens, decoder.architecture());
    let (capacity, vocab_size) = (engine.config.limits.max_kv_cache_capacity, architecture.vocab_size);
    if tokens.is_empty() || tokens.len() > capacity {
        let (what, flag) = ("tokens", "maxKVCacheCapacity");
        return Err(ProbeError::OutOfRange { what, found: tokens.len(), max: capacity, flag });
    }
    for (position, &token) in tokens.iter().enumerate() {
        if token as usize >= vocab_size {
            return Err(ProbeError::Token { token, position, vocab_size });
        }
    }
    let (n_loras, n_scales) = (options.loras.len(), options.lora_scales.len());
    if n_scales > n_loras {
        return Err(ProbeError::Scales { n_scales, n_loras });
    }
    let loras = options.loras.iter().map(|path| Ok(open_lora(&decoder, &engine, path)?.lora));
    let loras = loras.collect::<Result<Vec<_>, ProbeError>>()?;
    let scales = options.lora_scales.iter().copied().chain(std::iter::repeat(1.0));
    let path = &options.output_file;
    let failed = |source| StoreError::Io { path: path.clone(), action: "write", source };
    let mut file = AtomicFile::create(path)?;
    let mut header = Header::new(&serde_json::json!({ "format": "pt" }));
    header.add("logits", Dtype::F32, &[tokens.len(), vocab_size]);
    file.write_all(&header.finish(8)).map_err(failed)?;
    let n_blocks = tokens.len().div_ceil(BLOCK_LEN);
    let blocks = block_ids(0..n_blocks);
    let no_cache = |source| ProbeError::System { action: "reserve the key-value cache", source };
    let mut cache = decoder.cache(n_blocks).map_err(no_cache)?;
    let mut workspace = decoder.workspace();
    for (chunk_idx, chunk) in tokens.chunks(CHUNK).enumerate() {
        let segment = Segment {
            tokens: chunk,
            start: chunk_idx * CHUNK,
            blocks: &blocks,
            loras: loras.iter().zip(scales.clone()).collect(),
            logits: LogitRows::All,
        };
        let n_rows = decoder.forward(&[segment], &mut cache, &mut workspace)?;
        for row_idx in 0..n_rows {
            let row = decoder.logits(&workspace, row_idx);
            file.write_all(bytemuck::cast_slice(row)).map_err(failed)?;
        }
    }
    losses.check()?;
    Ok(file.commit()?)
}

/// Opens an engine without its text.
pub fn open_decoder(
    directory: &Path,
    wanted: DeviceChoice,
    n_threads: usize,
    kv_cache_dtype: KvCacheDtype,
) -> Result<(Decoder<Opened>, Engine), ProbeError> {
    let engine = Engine::open(directory)?;
    let decoder = load_decoder(&engine, directory, wanted, n_threads, kv_cache_dtype)?;
    Ok((decoder, engine))
}

/// Opens a processed adapter for an engine.
pub fn open_lora(
    decoder: &Decoder<Opened>,
    engine: &Engine,
    path: &Path,
) -> Result<BoundAdapter, ProbeError> {
    let path = processed_file(path)?;
    load_adapter(&FileMap::open(&path)?, decoder, engine.config.limits.max_lora_rank).map_err(|source| {
        match source {
            // Says which file it is.
            AdapterLoadError::Store(error) => error.into(),
            AdapterLoadError::Adapter(source) => ProbeError::Adapter { path, source },
        }
    })
}
