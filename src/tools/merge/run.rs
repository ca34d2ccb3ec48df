//! From the options to the finished directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::adapter::AdapterTensors;
use super::element::Element;
use super::output::{CONFIG_FILE, RECORD_FILE, check_place, config_json, earlier_files, record_json};
use super::plan::{ModelFacts, OutTensor, Plan, plan, stored_element};
use super::rows::Arithmetic;
use super::write::{file_size, write_file};
use crate::format::ShardIndex;
use crate::format::json::parse_object;
use crate::kernels::Kernels;
use crate::progress::{Bar, Progress};
use crate::store::weight_files::INDEX_FILE;
use crate::store::{Expected, StoreError, WeightFiles, read_small};
use crate::tools::build::run::check_space;
use crate::tools::companions::Companions;
use crate::tools::staging::Staging;
use crate::tools::{ToolError, WriteError};

/// The type of the merged weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeType {
    F16,
    Bf16,
    F32,
    /// That of the checkpoint.
    Auto,
}

/// What to merge.
#[derive(Debug, Clone)]
pub struct MergeOptions {
    /// Checkpoint directory.
    pub model_dir: PathBuf,
    /// Adapter directory, as PEFT saves it, or a folder like `vision-lora` inside the checkpoint.
    pub lora_dir: PathBuf,
    pub output_dir: PathBuf,
    pub element: MergeType,
    /// Threads that compute; the bytes do not depend on it.
    pub n_threads: usize,
    pub progress: Progress,
    /// The home directory, which is never written over.
    pub home: Option<PathBuf>,
}

/// What was written.
#[derive(Debug, Clone)]
pub struct MergeReport {
    pub output_dir: PathBuf,
    /// Matrices with the adapter's low-rank change.
    pub n_merged: usize,
    /// Other tensors that the adapter replaces or changes.
    pub n_replaced: usize,
    /// All tensors.
    pub n_tensors: usize,
    /// Type of the floats, as torch calls it.
    pub dtype: &'static str,
    pub n_bytes: u64,
    pub warnings: Vec<String>,
}

/// Merges an adapter into a checkpoint. The directory of an earlier merge is replaced, its config last.
///
/// # Errors
/// [`ToolError`]; nothing is left behind then.
pub fn merge_lora(options: &MergeOptions) -> Result<MergeReport, ToolError> {
    check_place(&options.output_dir, [&options.model_dir, &options.lora_dir], options.home.as_deref())?;
    let opened = read_config(&options.model_dir)
        .and_then(|config| Ok((config, WeightFiles::open(&options.model_dir)?)))
        .map_err(ToolError::explained(&options.model_dir, Expected::Checkpoint));
    let (config, weights) = opened?;
    let element = element(options, &config, &weights)?;
    let adapter = AdapterTensors::open(&options.lora_dir, &weights)?;
    let inner = config.get("text_config").and_then(Value::as_object);
    let flag = |object: &Map<String, Value>| object.get("tie_word_embeddings").and_then(Value::as_bool);
    let facts = ModelFacts {
        model_type: config.get("model_type").and_then(Value::as_str).unwrap_or_default(),
        ties_head: flag(&config).or_else(|| inner.and_then(flag)),
    };
    let plan = plan(&weights, &facts, adapter, element)?;
    let is_ours =
        |name: &str| [CONFIG_FILE, RECORD_FILE, INDEX_FILE].contains(&name) || plan.shards.contains_key(name);
    let companions = Companions::list(&options.model_dir, is_ours)?;
    let config = config_json(&config, element, plan.is_untied);
    write_output(options, element, plan, companions, &config, weights.is_sharded())
}

/// `config.json` as an object; a quantized checkpoint is refused.
fn read_config(model_dir: &Path) -> Result<Map<String, Value>, ToolError> {
    let path = model_dir.join(CONFIG_FILE);
    let config = parse_object("config.json", &read_small(&path)?).map_err(ToolError::format(&path))?;
    let quantized = model_dir.join("hf_quant_config.json");
    let is_quantized = config.get("quantization_config").is_some_and(|value| !value.is_null());
    if is_quantized || quantized.exists() {
        let path = if is_quantized { path } else { quantized };
        let what = "the checkpoint is quantized".to_owned();
        let advice = "merge into the original f32, f16 or bf16 checkpoint, and quantize the result";
        return Err(ToolError::Refused { path, what, advice });
    }
    Ok(config)
}

fn element(
    options: &MergeOptions,
    config: &Map<String, Value>,
    weights: &WeightFiles,
) -> Result<Element, ToolError> {
    let named = ["dtype", "torch_dtype"].iter().find_map(|key| config.get(*key)?.as_str());
    match options.element {
        MergeType::F16 => Ok(Element::F16),
        MergeType::Bf16 => Ok(Element::Bf16),
        MergeType::F32 => Ok(Element::F32),
        MergeType::Auto => stored_element(weights, named, &options.model_dir.join(CONFIG_FILE)),
    }
}

/// Everything aside, then in its place: the record first, the configuration last.
fn write_output(
    options: &MergeOptions,
    element: Element,
    plan: Plan,
    companions: Companions,
    config: &str,
    is_sharded: bool,
) -> Result<MergeReport, ToolError> {
    let mut files: Vec<String> = plan.shards.keys().cloned().collect();
    files.extend(is_sharded.then(|| INDEX_FILE.to_owned()));
    files.extend(companions.names.iter().cloned());
    files.extend([CONFIG_FILE.to_owned(), RECORD_FILE.to_owned()]);
    let n_bytes = plan.shards.values().map(|tensors| file_size(tensors)).sum::<u64>();

    let mut staging = Staging::create(&options.output_dir)?;
    check_space(staging.target(), n_bytes + companions.n_bytes)?;
    let record = record_json(&options.lora_dir, element, plan.n_merged, &files);
    staging.write_bytes(RECORD_FILE, record.as_bytes())?;
    write_weights(&mut staging, options, element, &plan, n_bytes)?;
    if is_sharded {
        staging.write_bytes(INDEX_FILE, index_json(&plan.shards).as_bytes())?;
    }
    companions.copy(&options.model_dir, &mut staging)?;
    staging.write_bytes(CONFIG_FILE, config.as_bytes())?;

    let output_dir = staging.target().to_owned();
    let earlier = earlier_files(&output_dir)?;
    // Without it a directory that is half replaced is no checkpoint.
    match fs::remove_file(output_dir.join(CONFIG_FILE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StoreError::io(&output_dir.join(CONFIG_FILE), "remove")(error).into());
        }
        _ => {}
    }
    staging.publish(&earlier.iter().map(String::as_str).collect::<Vec<_>>())?;
    let n_tensors = plan.shards.values().map(Vec::len).sum();
    let warnings = [plan.notes, companions.notes].concat();
    let Plan { n_merged, n_replaced, .. } = plan;
    Ok(MergeReport { output_dir, n_merged, n_replaced, n_tensors, dtype: element.name(), n_bytes, warnings })
}

fn write_weights(
    staging: &mut Staging,
    options: &MergeOptions,
    element: Element,
    plan: &Plan,
    n_bytes: u64,
) -> Result<(), ToolError> {
    let bar = Bar::of_bytes(options.progress, n_bytes);
    let progress = |name: &str, n_bytes: u64| {
        bar.say(name.to_owned());
        bar.add(n_bytes);
    };
    let arithmetic = Arithmetic { kernels: Kernels::detect(), element };
    let mut result = Ok(());
    for (name, tensors) in &plan.shards {
        let failed = |error: WriteError| {
            // Of a sum that is too large nobody knows whose fault it is, but the base alone is the base's.
            let is_changed = matches!(&error, WriteError::Range { name, .. }
                if tensors.iter().any(|tensor| tensor.name == *name && tensor.is_changed));
            let source = if is_changed { &plan.adapter_path } else { &options.model_dir };
            error.at(source, &options.output_dir, n_bytes)
        };
        result = staging.write(name, |out| {
            write_file(out, tensors, &arithmetic, options.n_threads, &progress).map_err(failed)
        });
        if result.is_err() {
            break;
        }
    }
    result
}

fn index_json(shards: &BTreeMap<String, Vec<OutTensor>>) -> String {
    let all = || shards.iter().flat_map(|(shard, tensors)| tensors.iter().map(move |tensor| (shard, tensor)));
    let map = all().map(|(shard, tensor)| (tensor.name.as_str(), shard.as_str())).collect();
    ShardIndex::to_json(&map, all().map(|(_, tensor)| tensor.n_bytes()).sum())
}
