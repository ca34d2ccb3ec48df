//! `export-llm`: a Hugging Face checkpoint to an ONNX directory that any runtime of the standard can run.

use std::fs;
use std::path::{Path, PathBuf};

use super::data::{DATA_FILE, EMBEDDING_FILE, ExportPlan};
use super::graph::export_graph;
use super::template::processed_template;
use crate::format::json::sorted_text;
use crate::format::onnx::ElementType;
use crate::format::onnx::config::onnx_config_json;
use crate::numbers::Precision;
use crate::progress::{Bar, Progress};
use crate::store::engine::{CHAT_TEMPLATE_FILE, TOOL_TEMPLATE_FILE};
use crate::store::{Checkpoint, read_small_optional};
use crate::tools::build::precision::{has_quantized_head, quantization_notes, resolve_precision};
use crate::tools::build::run::beside_warnings;
use crate::tools::place;
use crate::tools::staging::Staging;
use crate::tools::templates::CheckpointTemplate;
use crate::tools::{ToolError, WriteError};

/// The graph; written last, so that a directory with it is whole.
pub const MODEL_FILE: &str = "model.onnx";
/// The graph with adapter inputs, made by insert-lora.
pub const LORA_MODEL_FILE: &str = "lora_model.onnx";
const CONFIG_FILE: &str = "config.json";
const PROCESSED_FILE: &str = "processed_chat_template.json";
/// Files that come along where the checkpoint has them.
const TEXT_FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    CHAT_TEMPLATE_FILE,
    TOOL_TEMPLATE_FILE,
    "generation_config.json",
    "added_tokens.json",
    "tokenizer.model",
];

/// What to export.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    pub model_dir: PathBuf,
    pub output_dir: PathBuf,
    /// Of weights, activations and caches: f16 or f32.
    pub precision: Precision,
}

/// What was written.
#[derive(Debug, Clone)]
pub struct ExportReport {
    pub output_dir: PathBuf,
    pub n_layers: usize,
    /// Bytes of all weights.
    pub n_bytes: u64,
    pub warnings: Vec<String>,
}

/// Exports a checkpoint. A directory of an earlier export is replaced file by file, the graph last.
///
/// # Errors
/// [`ToolError`]; nothing is left behind then.
pub fn export(options: &ExportOptions) -> Result<ExportReport, ToolError> {
    let element = match options.precision {
        Precision::F16 => ElementType::F16,
        Precision::F32 => ElementType::F32,
        Precision::Int8 | Precision::Int4 | Precision::Stored => {
            return Err(ToolError::Options(format!("--dtype {}: wanted f16 or f32", options.precision)));
        }
    };
    let checkpoint = Checkpoint::open_any(&options.model_dir)?;
    resolve_precision(options.precision, &checkpoint)?;
    check_output(options)?;
    let config = &checkpoint.config;
    let mut architecture = config.architecture.clone();
    architecture.tied_head &= !has_quantized_head(&checkpoint);
    let plan = ExportPlan::new(&checkpoint, &architecture, element)?;
    let mut names: Vec<&str> = checkpoint.names().collect();
    let mut warnings = beside_warnings(config.architecture.family, &mut names);
    let template = CheckpointTemplate::read(&options.model_dir)?;
    warnings.extend(template.note());
    let mut staging = Staging::create(&options.output_dir)?;
    let failed = |error: WriteError| error.at(&options.model_dir, &options.output_dir, plan.n_data_bytes);
    let n_embedding_bytes = plan.embedding.n_bytes() as u64;
    let bar = Bar::of_bytes(Progress::Bar, plan.n_data_bytes + n_embedding_bytes);
    staging.write(DATA_FILE, |out| plan.write_data(out, &|n_bytes| bar.add(n_bytes)).map_err(failed))?;
    staging.write(EMBEDDING_FILE, |out| plan.write_embedding(out).map_err(failed))?;
    bar.add(n_embedding_bytes);
    for name in TEXT_FILES {
        let bytes = match name {
            // Whichever place they stood in.
            CHAT_TEMPLATE_FILE | TOOL_TEMPLATE_FILE => {
                template.files().find(|(file, _)| *file == name).map(|(_, text)| text)
            }
            _ => read_small_optional(&options.model_dir.join(name))?,
        };
        if let Some(bytes) = bytes {
            staging.write_bytes(name, &bytes)?;
        }
    }
    match processed_chat_template(&options.model_dir, &template) {
        Ok(bytes) => staging.write_bytes(PROCESSED_FILE, &bytes)?,
        Err(why) => warnings.push(format!(
            "{PROCESSED_FILE} is not written: {why}; a chat template of the checkpoint's comes along as it is"
        )),
    }
    warnings.extend(quantization_notes(&checkpoint));
    let json =
        onnx_config_json(&architecture, &config.eos_token_ids, config.bos_token_id, options.precision.name());
    staging.write_bytes(CONFIG_FILE, json.as_bytes())?;
    let model = export_graph(&architecture, element, &plan);
    staging.write_bytes(MODEL_FILE, &model)?;
    let output_dir = staging.target().to_owned();
    staging.publish(&[&TEXT_FILES[..], &[PROCESSED_FILE, LORA_MODEL_FILE, MODEL_FILE]].concat())?;
    let n_bytes = plan.n_data_bytes + file_size(&output_dir.join(EMBEDDING_FILE));
    Ok(ExportReport { output_dir, n_layers: config.architecture.n_layers, n_bytes, warnings })
}

fn file_size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Only an empty place or an earlier export is written to.
fn check_output(options: &ExportOptions) -> Result<(), ToolError> {
    place::check_output(&options.output_dir, &[&options.model_dir], None, |real| {
        let has = |name: &str| real.join(name).exists();
        let is_taken = has(CONFIG_FILE) && !has(MODEL_FILE) && !has(DATA_FILE);
        Ok(is_taken.then(|| "holds a config.json that is not an exported model's".to_owned()))
    })
}

/// The checkpoint's own file, or what its template says; the error is why there is none.
fn processed_chat_template(model_dir: &Path, template: &CheckpointTemplate) -> Result<Vec<u8>, String> {
    if let Some(bytes) = &template.processed {
        return Ok(bytes.clone());
    }
    let layout = processed_template(&template.source, &model_dir.display().to_string())?;
    Ok(sorted_text(&layout).into_bytes())
}
