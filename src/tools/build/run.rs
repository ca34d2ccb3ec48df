//! `build`: a Hugging Face checkpoint directory to an engine directory, and what every source of an engine shares.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::statvfs::statvfs;
use sha2::{Digest, Sha256};

use super::engine_file::{EnginePlan, EngineWriter};
use super::kernels::{GpuTarget, cubins};
use super::precision::{
    has_quantized_head, is_quantization_part, numbers_note, quantization_notes, resolve_precision,
};
use super::text_files::{TEXT_FILES, TextFiles};
use crate::count::Count;
use crate::format::adapter::listed;
use crate::format::checkpoint::naming::{Beside, beside, places};
use crate::format::engine::{EMBEDDING, FORMAT_VERSION, HEAD, Item, checkpoint_names, items};
use crate::format::{EngineConfig, FormatError, Limits, Quantization, Target, Tensor};
use crate::numbers::architecture::{Architecture, RopeScaling};
use crate::numbers::family::Family;
use crate::numbers::int4::Spread;
use crate::numbers::kind::kinds_text;
use crate::numbers::{Kind, Precision, Storage};
use crate::progress::{Bar, Progress};
use crate::store::digest::{Sha256Writer, sha256};
use crate::store::engine::{
    CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_TABLE_FILE, WEIGHTS_FILE, cubin_file, cubin_files,
};
use crate::store::{Checkpoint, read_small_optional};
use crate::tools::place;
use crate::tools::staging::Staging;
use crate::tools::weights::quantized_source::{Quantized, quantized_rows};
use crate::tools::weights::source::RowSource;
use crate::tools::{ToolError, WriteError};

/// Room for the text files and the file system's own needs.
const SPARE_BYTES: u64 = 32 << 20;

/// How rounding errors spread over the inputs of matrices, by the names of their weights.
pub type Spreads = BTreeMap<String, Arc<Spread>>;

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// The checkpoint, the ONNX directory, or the GGUF file.
    pub model_dir: PathBuf,
    pub engine_dir: PathBuf,
    pub limits: Limits,
    pub precision: Precision,
    /// Of the embedding table and the head; else it follows from the precision.
    pub head: Option<Precision>,
    /// Whether it must be able to read and write text.
    pub text: EngineText,
    /// None: it is for the processor alone.
    pub gpu: Option<GpuTarget>,
    /// Threads that encode rows; the bytes do not depend on it.
    pub n_threads: usize,
    pub progress: Progress,
}

/// Whether an engine without a tokenizer is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineText {
    Needed,
    /// Token ids are enough, as for `logits` and `bench`.
    Optional,
}

/// What was built.
#[derive(Debug, Clone)]
pub struct BuildReport {
    pub engine_dir: PathBuf,
    pub config: EngineConfig,
    /// Size of `llm.engine`.
    pub n_bytes: u64,
    /// Tensors taken from the checkpoint.
    pub n_tensors: usize,
    /// How many matrices are stored in which way.
    pub kinds: String,
    pub warnings: Vec<String>,
}

/// Builds an engine. An engine that is there already is replaced, and used until the end.
///
/// # Errors
/// [`ToolError`]; nothing is left behind then.
pub fn build(options: &BuildOptions) -> Result<BuildReport, ToolError> {
    build_spread(options, Spreads::new())
}

/// The same with the way errors spread in what becomes int4.
///
/// # Errors
/// As [`build`].
pub fn build_spread(options: &BuildOptions, spreads: Spreads) -> Result<BuildReport, ToolError> {
    let checkpoint = Checkpoint::open_any(&options.model_dir)?;
    let precision = resolve_precision(options.precision, &checkpoint)?;
    let options = &BuildOptions { precision, ..options.clone() };
    check_output(options)?;
    let mut architecture = checkpoint.config.architecture.clone();
    architecture.tied_head &= !has_quantized_head(&checkpoint);
    let eos_token_ids = checkpoint.config.eos_token_ids.clone();
    let config = engine_config(options, architecture, eos_token_ids, checkpoint.config.bos_token_id)?;
    let (sources, mut items) = find_sources(&checkpoint, &config)?;
    set_head(&mut items, options.head);
    let mut warnings = warnings(&checkpoint, &config, &items);
    warnings.extend(quantization_notes(&checkpoint));
    warnings.extend(numbers_note(&items, &sources, precision));
    let texts = TextFiles::read(&options.model_dir)?;
    let prepared = Prepared { config, items, sources, spreads, warnings };
    write_engine(options, prepared, texts, || source_digest(&checkpoint))
}

/// Stores the embedding table, and the head of a model that has one, as wanted.
pub(crate) fn set_head(items: &mut [Item], head: Option<Precision>) {
    let Some(head) = head else { return };
    for item in items {
        if let Item::Matrix { name, storage, .. } = item
            && [EMBEDDING, HEAD].contains(&name.as_str())
        {
            *storage = Kind::of(head).into();
        }
    }
}

/// The configuration without its digest, checked.
pub(crate) fn engine_config(
    options: &BuildOptions,
    architecture: Architecture,
    eos_token_ids: Vec<u32>,
    bos_token_id: Option<u32>,
) -> Result<EngineConfig, ToolError> {
    let config = EngineConfig {
        architecture,
        limits: options.limits,
        precision: options.precision,
        target: if options.gpu.is_some() { Target::Cuda } else { Target::Cpu },
        eos_token_ids,
        bos_token_id,
        source_digest: String::new(),
        sha256: BTreeMap::new(),
        format_version: FORMAT_VERSION,
    };
    config.check().map_err(|error| ToolError::Options(error.to_string()))?;
    Ok(config)
}

/// What an engine is made of, whatever it comes from.
pub(crate) struct Prepared {
    pub config: EngineConfig,
    pub items: Vec<Item>,
    /// One for each item.
    pub sources: Vec<RowSource>,
    pub spreads: Spreads,
    pub warnings: Vec<String>,
}

/// Writes the directory: weights, the text files, configuration.
pub(crate) fn write_engine(
    options: &BuildOptions,
    prepared: Prepared,
    texts: TextFiles,
    source_digest: impl FnOnce() -> String,
) -> Result<BuildReport, ToolError> {
    let Prepared { mut config, items, sources, spreads, mut warnings } = prepared;
    if options.text == EngineText::Needed && texts.get(TOKENIZER_FILE).is_none() {
        return Err(no_tokenizer(&options.model_dir));
    }
    let token_table = texts.compile_tokenizer()?;
    texts.check_template()?;
    warnings.extend(texts.note());
    let kernels = options.gpu.as_ref().map(cubins).transpose()?.unwrap_or_default();
    config.source_digest = source_digest();
    let plan = EnginePlan::new(items, options.precision, &config.source_digest);

    let mut staging = Staging::create(&options.engine_dir)?;
    check_space(staging.target(), plan.n_bytes())?;
    let mut digests = BTreeMap::new();
    staging.write(WEIGHTS_FILE, |out| {
        let (out, digest) =
            write_weights(Sha256Writer::new(out), &plan, (&sources, &spreads), options)?.finish();
        digests.insert(WEIGHTS_FILE.to_owned(), digest);
        Ok(out)
    })?;
    let mut write_beside = |staging: &mut Staging, name: &str, bytes: &[u8]| {
        digests.insert(name.to_owned(), sha256(bytes));
        staging.write_bytes(name, bytes)
    };
    for name in TEXT_FILES {
        match texts.get(name) {
            Some(bytes) => write_beside(&mut staging, name, bytes)?,
            None if name == TOKENIZER_FILE => {
                warnings
                    .push(format!("{TOKENIZER_FILE} is missing: this engine knows token ids, but no text"));
            }
            None => {}
        }
    }
    if let Some(table) = token_table {
        write_beside(&mut staging, TOKENIZER_TABLE_FILE, &table)?;
    }
    for (architecture, cubin) in kernels {
        write_beside(&mut staging, &cubin_file(&architecture.to_string()), &cubin)?;
    }
    config.sha256 = digests;
    staging.write_bytes(CONFIG_FILE, config.to_json().as_bytes())?;
    let engine_dir = staging.target().to_owned();
    let old_kernels = cubin_files(&engine_dir);
    let old_kernels = old_kernels.iter().map(String::as_str);
    let known: Vec<&str> = TEXT_FILES.into_iter().chain([TOKENIZER_TABLE_FILE]).chain(old_kernels).collect();
    staging.publish(&known)?;
    let kinds = kinds_text(plan.items.iter().filter_map(Item::kind));
    let (n_bytes, n_tensors) = (plan.n_bytes(), sources.len());
    Ok(BuildReport { engine_dir, config, n_bytes, n_tensors, kinds, warnings })
}

fn no_tokenizer(source: &Path) -> ToolError {
    let path = source.to_owned();
    let what = format!("{TOKENIZER_FILE} is not there: the engine would know token ids, but no text");
    let advice = "copy the file from where the model came from; AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) in \
        transformers writes it from older files; --noTokenizer builds without one";
    ToolError::Refused { path, what, advice }
}

/// The output must not be the input, nor a directory with somebody else's `config.json`.
pub(crate) fn check_output(options: &BuildOptions) -> Result<(), ToolError> {
    place::check_output(&options.engine_dir, &[&options.model_dir], None, |real| {
        let Some(bytes) = read_small_optional(&real.join(CONFIG_FILE))? else { return Ok(None) };
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let is_ours = value.get("jetspool").is_some();
        Ok((!is_ours).then(|| "holds a config.json that is not an engine's".to_owned()))
    })
}

type Sources = Vec<RowSource>;

/// Every tensor of the engine in the checkpoint, checked; all missing ones are named at once.
///
/// # Errors
/// [`ToolError::MissingTensors`], [`ToolError::Format`].
pub fn find_sources(
    checkpoint: &Checkpoint,
    config: &EngineConfig,
) -> Result<(Sources, Vec<Item>), ToolError> {
    let mut items = items(&config.architecture, config.precision);
    let path = checkpoint.directory();
    let quantization = checkpoint.config.quantization.as_ref();
    let names: Vec<String> =
        items.iter().flat_map(|item| checkpoint_names(&config.architecture, item)).collect();
    check_missing(checkpoint, names.iter().map(String::as_str))?;
    let mut sources = Vec::with_capacity(items.len());
    for item in &items {
        let found = quantization.map(|quantization| quantized_item(checkpoint, quantization, config, item));
        sources.push(match found.transpose().map_err(ToolError::format(path))?.flatten() {
            Some(rows) => rows,
            None => plain_rows(checkpoint, &config.architecture, item).map_err(ToolError::format(path))?,
        });
    }
    keep_packed(&mut items, &sources, config.precision);
    Ok((sources, items))
}

/// What is quantized as engines have it stays so at [`Precision::Stored`].
pub(crate) fn keep_packed(items: &mut [Item], sources: &[RowSource], precision: Precision) {
    for (item, source) in items.iter_mut().zip(sources) {
        if let (Item::Matrix { storage, .. }, Precision::Stored, Some(packed)) =
            (item, precision, source.packed())
        {
            *storage = packed.storage();
        }
    }
}

/// A matrix that the checkpoint has quantized, or all that a stack holds; none where it is plain.
fn quantized_item(
    checkpoint: &Checkpoint,
    quantization: &Quantization,
    config: &EngineConfig,
    item: &Item,
) -> Result<Option<RowSource>, FormatError> {
    let &Item::Matrix { shape, .. } = item else { return Ok(None) };
    let names = checkpoint_names(&config.architecture, item);
    let mut parts = Vec::with_capacity(names.len());
    for name in &names {
        let place = checkpoint.place(name).expect("none is missing");
        parts.extend(quantized_rows(checkpoint, quantization, &place, (shape.rows, shape.columns))?);
    }
    let is_stack = names.first().is_some_and(|name| name != item.name());
    if is_stack && !parts.is_empty() {
        check_stack(&parts, &names, config.precision)?;
    }
    let parts: Vec<RowSource> = parts.into_iter().map(RowSource::from).collect();
    Ok((!parts.is_empty()).then(|| RowSource::joined(parts, shape.rows)))
}

/// Whether an engine can hold these experts in one stack.
fn check_stack(parts: &[Quantized], names: &[String], precision: Precision) -> Result<(), FormatError> {
    let is_like_first = |rows: &Quantized| rows.storage() == parts[0].storage();
    let changes = |rows: &Quantized| rows.storage().is_some_and(Storage::changes_inputs);
    let found = match () {
        () if parts.len() < names.len() => "some of them plain",
        () if precision != Precision::Stored => return Ok(()),
        () if parts.iter().any(changes) => "scales or an order of their inputs",
        () if !parts.iter().all(is_like_first) => "stored in different ways",
        () => return Ok(()),
    };
    Err(FormatError::Unsupported {
        what: "quantization of experts",
        found: format!("{}: {found}", names[0]),
        supported: "all experts of a layer alike, inputs as they come; build --precision f16 or f32 \
                    dequantizes others"
            .to_owned(),
    })
}

/// One item's rows: those of its tensor, or of all that it stacks. None is missing.
fn plain_rows(
    checkpoint: &Checkpoint,
    architecture: &Architecture,
    item: &Item,
) -> Result<RowSource, FormatError> {
    let names = checkpoint_names(architecture, item);
    let mut shape = item.logical_shape();
    shape[0] /= names.len();
    let one = |name: &String| {
        let missing = || FormatError::MissingTensor { name: name.clone() };
        let place = checkpoint.place(name).ok_or_else(missing)?.tensor;
        RowSource::new(&place, checkpoint.find(name)?.ok_or_else(missing)?, &shape)
    };
    let parts = names.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    let rows = RowSource::joined(parts, shape[0]);
    let is_norm = matches!(item, Item::Vector { .. }) && item.name().ends_with("norm.weight");
    Ok(if is_norm && architecture.family == Family::Gemma3 { RowSource::plus_one(rows) } else { rows })
}

/// Whether the checkpoint has all that engines call so; what is missing is named as the checkpoint should have it.
pub(crate) fn check_missing<'a>(
    checkpoint: &Checkpoint,
    wanted: impl Iterator<Item = &'a str>,
) -> Result<(), ToolError> {
    let missing: BTreeSet<String> = wanted
        .filter(|name| checkpoint.place(name).is_none())
        .filter_map(|name| places(&checkpoint.config.architecture, name).into_iter().next())
        .map(|place| place.tensor)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
    let (path, count) = (checkpoint.directory().to_owned(), missing.len());
    Err(ToolError::MissingTensors { path, count, names: listed(&missing) })
}

fn warnings(checkpoint: &Checkpoint, config: &EngineConfig, items: &[Item]) -> Vec<String> {
    let names = items.iter().flat_map(|item| checkpoint_names(&config.architecture, item));
    let places = names.filter_map(|name| checkpoint.place(&name));
    let used: BTreeSet<String> = places.map(|place| place.tensor).collect();
    let mut unused: Vec<&str> = checkpoint
        .names()
        .filter(|name| !used.contains(*name) && !name.ends_with("rotary_emb.inv_freq"))
        .filter(|name| !is_quantization_part(checkpoint, name, &used))
        .collect();
    let mut warnings = beside_warnings(config.architecture.family, &mut unused);
    let head = checkpoint.place(HEAD).map(|place| place.tensor);
    let head = head.filter(|head| config.architecture.tied_head && unused.contains(&head.as_str()));
    if let Some(head) = head {
        unused.retain(|name| *name != head);
        let table = checkpoint.place(EMBEDDING).and_then(|place| checkpoint.tensor(&place.tensor));
        if checkpoint.tensor(&head).as_ref().map(Tensor::data) != table.as_ref().map(Tensor::data) {
            warnings
                .push(format!("{head} differs from {EMBEDDING}, but the config ties them: it is not used"));
        }
    }
    if !unused.is_empty() {
        warnings.push(format!("{} not used: {}", Count(unused.len(), "tensor"), listed(&unused)));
    }
    warnings.extend(limit_warnings(config));
    warnings
}

/// Takes what belongs to a larger model around the backbone out of `unused`, and tells of it.
pub(crate) fn beside_warnings(family: Family, unused: &mut Vec<&str>) -> Vec<String> {
    let (mut n_tower, mut n_lora, mut adapters) = (0, 0, BTreeSet::new());
    unused.retain(|name| match beside(family, name) {
        None => true,
        Some(Beside::Tower(_)) => {
            n_tower += 1;
            false
        }
        Some(Beside::OwnAdapter(adapter)) => {
            n_lora += 1;
            adapters.insert(adapter.to_owned());
            false
        }
    });
    let mut warnings = Vec::new();
    if n_tower > 0 {
        warnings.push(format!(
            "{} for images and sound left out: the output is for text",
            Count(n_tower, "tensor")
        ));
    }
    if n_lora > 0 {
        let names = adapters.into_iter().collect::<Vec<_>>().join(", ");
        warnings.push(format!(
            "the checkpoint's own adapters ({names}: {n_lora} tensors) are left out, only the weights under \
             them are in the output; merge-lora makes a checkpoint with one of them merged"
        ));
    }
    warnings
}

/// What a configuration may surprise with, whatever it comes from.
pub(crate) fn limit_warnings(config: &EngineConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    let (capacity, positions) = (config.limits.max_kv_cache_capacity, config.architecture.max_positions);
    if capacity > positions {
        warnings.push(format!(
            "max_kv_cache_capacity {capacity} is more than the {positions} positions the model was made for"
        ));
    }
    if let RopeScaling::LongRope { original_max_positions, .. } = config.architecture.rope.scaling
        && capacity > original_max_positions
    {
        warnings.push(format!(
            "max_kv_cache_capacity {capacity} is more than original_max_position_embeddings \
             {original_max_positions}: the long factors of longrope are used at every position, also in short texts"
        ));
    }
    if let RopeScaling::Dynamic { max_positions, .. } = config.architecture.rope.scaling
        && capacity > max_positions
    {
        warnings.push(format!(
            "max_kv_cache_capacity {capacity} is more than max_position_embeddings {max_positions}: the theta of dynamic \
             rope for a text of {capacity} tokens is used at every position, also in short texts"
        ));
    }
    if config.eos_token_ids.is_empty() {
        warnings.push("no eos_token_id is named: answers end only at their length".to_owned());
    }
    warnings
}

/// SHA-256 over the lengths and bytes of config.json and of the weight files by name.
fn source_digest(checkpoint: &Checkpoint) -> String {
    let mut hasher = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    add(&checkpoint.config_json);
    checkpoint.quantization_json.iter().for_each(|bytes| add(bytes));
    for (_, shard) in checkpoint.shards() {
        add(shard.as_bytes());
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn check_space(target: &Path, n_bytes: u64) -> Result<(), ToolError> {
    let parent = target.ancestors().skip(1).find(|path| path.is_dir()).unwrap_or(Path::new("."));
    let Ok(stat) = statvfs(parent) else { return Ok(()) };
    #[expect(clippy::useless_conversion, reason = "the types of both differ between platforms")]
    let free = u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
    let needed = n_bytes + SPARE_BYTES;
    if free < needed {
        return Err(ToolError::Space { path: parent.to_owned(), free, needed });
    }
    Ok(())
}

fn write_weights<W: Write>(
    out: W,
    plan: &EnginePlan,
    (sources, spreads): (&Sources, &Spreads),
    options: &BuildOptions,
) -> Result<W, ToolError> {
    let bar = Bar::of_bytes(options.progress, plan.n_bytes());
    let written = |n_bytes: u64| bar.add(n_bytes);
    let write = || -> Result<W, WriteError> {
        let mut writer = EngineWriter::start(out, plan, options.n_threads, &written)?;
        for (item, source) in plan.items.iter().zip(sources) {
            bar.say(item.name().to_owned());
            writer.add(item, source, spreads.get(item.name()).map(|spread| &**spread))?;
        }
        Ok(writer.finish(plan))
    };
    write().map_err(|error| error.at(&options.model_dir, &options.engine_dir, plan.n_bytes()))
}
