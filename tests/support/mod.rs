//! What several tests need: the reference fixtures, engines built of them, tensors read from them.
#![allow(dead_code, reason = "each test program uses a part")]

#[cfg(target_arch = "x86_64")]
pub mod amx;
pub mod cost;
#[cfg(feature = "fleet")]
pub mod fleet;
#[cfg(feature = "fleet")]
pub mod network;
pub mod panels;
pub mod random;
pub mod service;
pub mod serving;
pub mod standin;
pub mod terminal;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jetspool::device::Cpu;
use jetspool::device::cpu::{Lora, Weights};
use jetspool::format::engine::Item;
use jetspool::format::{Adapter, Limits, StoredMatrix, Tensor, TensorFile};
use jetspool::kernels::Kernels;
use jetspool::model::{BLOCK_LEN, Decoder, LogitRows, Segment, block_ids};
use jetspool::numbers::{KvCacheDtype, Precision};
use jetspool::store::{Engine, map_file};
use jetspool::tools::build::{EngineText, Progress};
use jetspool::tools::{BuildOptions, ProcessOptions, build, process_lora};

/// A path below tests/data.
pub fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(path)
}

/// A path below tests/data/references.
pub fn reference(path: &str) -> PathBuf {
    data("references").join(path)
}

pub fn json(path: &Path) -> serde_json::Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// Every table of kernels that can be tried: those of this processor, and that of AMX by an emulator where it has none.
pub fn tables() -> Vec<Kernels> {
    let tables = Kernels::all().into_iter();
    #[cfg(target_arch = "x86_64")]
    let tables = amx::emulated().into_iter().chain(tables);
    tables.collect()
}

/// Reference models, each with the adapters that must work and have logits.
pub fn models() -> BTreeMap<String, Vec<String>> {
    let index = json(&reference("index.json"));
    let models = index["models"].as_object().unwrap();
    models
        .iter()
        .map(|(name, model)| {
            let adapters = model["adapters"].as_object().unwrap();
            let good = adapters
                .iter()
                .filter(|(_, adapter)| adapter["refused"].is_null() && adapter["logits"] != false);
            (name.clone(), good.map(|(name, _)| name.clone()).collect())
        })
        .collect()
}

pub fn tensors(path: &Path) -> TensorFile {
    TensorFile::parse(map_file(path).unwrap()).unwrap()
}

pub fn limits() -> Limits {
    Limits { max_batch_size: 8, max_input_len: 512, max_kv_cache_capacity: 1024, max_lora_rank: 64 }
}

/// Options for a small engine of what lies at `source`.
pub fn build_options(
    source: &Path,
    engine_dir: &Path,
    precision: Precision,
    max_lora_rank: usize,
) -> BuildOptions {
    BuildOptions {
        model_dir: source.to_owned(),
        engine_dir: engine_dir.to_owned(),
        limits: Limits { max_kv_cache_capacity: 512, max_input_len: 256, max_lora_rank, ..Limits::default() },
        precision,
        head: None,
        text: EngineText::Optional,
        gpu: None,
        n_threads: 2,
        progress: Progress::Quiet,
    }
}

/// An engine's tensors, fillers left out.
pub fn contents(engine_dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let engine = Engine::open(engine_dir).unwrap();
    let names = engine.tensors.names().filter(|name| !name.starts_with("pad."));
    names.map(|name| (name.to_owned(), engine.tensors.get(name).unwrap().data().to_vec())).collect()
}

/// Builds an engine of a checkpoint into `directory`.
pub fn build_engine(checkpoint: &Path, directory: &Path, precision: Precision) {
    build_engine_with(checkpoint, directory, precision, None);
}

/// The same with the tables as wanted.
fn build_engine_with(checkpoint: &Path, directory: &Path, precision: Precision, head: Option<Precision>) {
    let options = build_options(checkpoint, directory, precision, limits().max_lora_rank);
    build(&BuildOptions { limits: limits(), head, ..options })
        .unwrap_or_else(|error| panic!("{}: {error}", checkpoint.display()));
}

/// What the workflow's process-lora makes of an adapter of the references, where it is not what ours makes.
fn workflow_numbers(adapter: &Path) -> Option<PathBuf> {
    let model = adapter.parent()?.parent()?.file_name()?.to_str()?;
    let name = adapter.file_name()?.to_str()?;
    let path = |end: &str| reference(&format!("process/{model}/{name}{end}"));
    path(".once.safetensors").exists().then(|| path(".safetensors"))
}

/// An engine built in a scratch folder, opened.
pub struct Built {
    pub folder: tempfile::TempDir,
    pub decoder: Decoder<Cpu>,
}

impl Built {
    pub fn new(checkpoint: &Path, precision: Precision, n_threads: usize) -> Self {
        Self::with_head(checkpoint, precision, None, n_threads)
    }

    /// With the embedding table and the head as wanted.
    pub fn with_head(
        checkpoint: &Path,
        precision: Precision,
        head: Option<Precision>,
        n_threads: usize,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("engine");
        build_engine_with(checkpoint, &directory, precision, head);
        Self::open(folder, n_threads)
    }

    /// The engine that lies in `engine` of the folder.
    pub fn open(folder: tempfile::TempDir, n_threads: usize) -> Self {
        let engine = Engine::open(&folder.path().join("engine")).unwrap();
        let cpu = Cpu::new(Kernels::detect(), n_threads).unwrap();
        let decoder = Decoder::new(cpu, &engine.config, &engine.tensors).unwrap();
        Self { folder, decoder }
    }

    /// The same with keys and values kept so.
    pub fn with_kv_cache(self, dtype: KvCacheDtype) -> Self {
        Self { decoder: self.decoder.with_kv_cache(dtype), ..self }
    }

    /// Processes a PEFT adapter and binds it. Logits of adapters that the workflow's tool rounds otherwise (bf16) are
    /// those of its numbers, which are then taken.
    pub fn lora(&self, adapter: &Path) -> Arc<Lora> {
        if let Some(file) = workflow_numbers(adapter) {
            let adapter =
                Adapter::bind(tensors(&file), self.decoder.architecture(), limits().max_lora_rank).unwrap();
            return Arc::new(self.decoder.lora(&adapter).unwrap());
        }
        let output_dir = self.folder.path().join(adapter.file_name().unwrap());
        process_lora(&ProcessOptions::new(adapter.to_owned(), output_dir.clone()))
            .unwrap_or_else(|error| panic!("{}: {error}", adapter.display()));
        let file = tensors(&output_dir.join("processed_adapter_model.safetensors"));
        let adapter = Adapter::bind(file, self.decoder.architecture(), limits().max_lora_rank).unwrap();
        Arc::new(self.decoder.lora(&adapter).unwrap())
    }

    /// Logits of every position, `[n_tokens][vocab]`, computed in chunks of `chunk` tokens.
    pub fn logits(&self, tokens: &[u32], lora: Option<&Arc<Lora>>, chunk: usize) -> Vec<Vec<f32>> {
        self.logits_with(tokens, &lora.map(|lora| (lora, 1.0)).into_iter().collect::<Vec<_>>(), chunk)
    }

    /// The same with several adapters.
    pub fn logits_with(&self, tokens: &[u32], loras: &[(&Arc<Lora>, f32)], chunk: usize) -> Vec<Vec<f32>> {
        let n_blocks = tokens.len().div_ceil(BLOCK_LEN);
        let mut blocks = block_ids(0..n_blocks);
        blocks.reverse();
        let mut cache = self.decoder.cache(n_blocks).unwrap();
        let mut workspace = self.decoder.workspace();
        let mut rows = Vec::new();
        for (chunk_idx, part) in tokens.chunks(chunk).enumerate() {
            let segment = Segment {
                tokens: part,
                start: chunk_idx * chunk,
                blocks: &blocks,
                loras: loras.to_vec(),
                logits: LogitRows::All,
            };
            let n_rows = self.decoder.forward(&[segment], &mut cache, &mut workspace).unwrap();
            rows.extend((0..n_rows).map(|row_idx| self.decoder.logits(&workspace, row_idx).to_vec()));
        }
        rows
    }
}

/// A tensor of token ids.
pub fn ids(file: &TensorFile, name: &str) -> Vec<u32> {
    let tensor = file.require(name).unwrap();
    tensor.as_slice::<i32>().unwrap().iter().map(|&id| u32::try_from(id).unwrap()).collect()
}

/// The id of a token.
pub fn token(id: usize) -> u32 {
    u32::try_from(id).unwrap()
}

pub fn argmax(row: &[f32]) -> u32 {
    token((0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best }))
}

/// The journal of the job of that name, under way or held: `ID.journal` beside `ID.NAME`. Empty if there is none.
pub fn journal_of(spool: &Path, job: &str) -> String {
    let files = ["work", "hold"].into_iter().filter_map(|place| std::fs::read_dir(spool.join(place)).ok());
    let names = files.flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut ids = names.filter_map(|name| Some(name.strip_suffix(job)?.strip_suffix('.')?.to_owned()));
    let journal = ids.next().map(|id| spool.join(format!("work/{id}.journal")));
    journal.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default()
}

/// A matrix's numbers, `[rows, columns]`, each multiplied by the factor of its input.
pub fn matrix_numbers(engine: &Engine, item: &Item) -> Option<Vec<f32>> {
    let Item::Matrix { name, shape, .. } = item else { return None };
    let stored = StoredMatrix::find(&engine.tensors, name, *shape).unwrap();
    let of_inputs = |tensor: &Option<Tensor>| tensor.as_ref().map(|tensor| tensor.data().to_vec());
    let (order, factors) = (of_inputs(&stored.input_order), of_inputs(&stored.input_scale));
    let word = |bytes: &[u8], i: usize| <[u8; 4]>::try_from(&bytes[i * 4..][..4]).unwrap();
    let weights = Weights::new(name, stored).unwrap();
    let mut row = vec![0.0; weights.as_matrix().stride()];
    let mut all = vec![0.0; shape.rows * shape.columns];
    for (row_idx, out) in all.chunks_exact_mut(shape.columns).enumerate() {
        weights.as_matrix().read_row(row_idx, &mut row);
        for (column, value) in row[..shape.columns].iter().enumerate() {
            let input =
                order.as_ref().map_or(column, |order| u32::from_le_bytes(word(order, column)) as usize);
            out[input] = value * factors.as_ref().map_or(1.0, |f| f32::from_le_bytes(word(f, input)));
        }
    }
    Some(all)
}
