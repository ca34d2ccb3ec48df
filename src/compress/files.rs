//! The directory around the weights: what may be read and written over, and what comes along.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::checkpoint::module_of;
use super::config::Described;
use super::model::Linear;
use super::options::{Cache, QuantizeOptions};
use super::report::QuantizeReport;
use crate::format::engine::{EMBEDDING, HEAD};
use crate::store::{Checkpoint, StoreError, read_small_optional};
use crate::tools::ToolError;
use crate::tools::staging::Staging;

/// The weights.
pub const WEIGHTS_FILE: &str = "model.safetensors";
const SIDECAR_FILE: &str = "hf_quant_config.json";
const CONFIG_FILE: &str = "config.json";
const REPORT_FILE: &str = "quantization_report.json";
/// Larger files beside the weights are not carried along.
const MAX_CARRIED: u64 = 64 << 20;
const WEIGHT_EXTENSIONS: [&str; 7] = ["safetensors", "bin", "pth", "pt", "gguf", "onnx", "data"];

/// The output must not be the input, nor hold something that an earlier call did not write.
///
/// # Errors
/// [`ToolError::Output`].
pub fn check_output(options: &QuantizeOptions) -> Result<(), ToolError> {
    let path = &options.output_dir;
    let refuse = |why: &str| Err(ToolError::Output { path: path.clone(), why: why.to_owned() });
    let real = |path: &Path| fs::canonicalize(path).ok();
    if real(path).is_some_and(|output| Some(output) == real(&options.model_dir)) {
        return refuse("is the checkpoint that is quantized");
    }
    if path.exists() && !path.is_dir() {
        return refuse("is not a directory");
    }
    let sidecar = read_small_optional(&path.join(SIDECAR_FILE))?.unwrap_or_default();
    let sidecar: Value = serde_json::from_slice(&sidecar).unwrap_or_default();
    let is_ours = sidecar.pointer("/producer/name").and_then(Value::as_str) == Some("jetspool");
    let is_empty = fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
    if is_ours || is_empty {
        Ok(())
    } else {
        refuse("holds files that are not a checkpoint quantized by this program")
    }
}

/// Writes all but the weights; the configuration comes last.
///
/// # Errors
/// [`ToolError`] when a file cannot be read or written.
pub fn write_configs(
    options: &QuantizeOptions,
    staging: &mut Staging,
    checkpoint: &Checkpoint,
    linears: &[Linear],
    report: &QuantizeReport,
) -> Result<(), ToolError> {
    for path in carried_files(&options.model_dir)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let bytes = fs::read(&path).map_err(StoreError::io(&path, "read"))?;
        staging.write_bytes(name, &bytes)?;
    }
    let mut excluded: Vec<String> = linears
        .iter()
        .filter(|linear| linear.method.is_none())
        .map(|linear| module_of(&linear.name).to_owned())
        .chain([module_of(EMBEDDING).to_owned()])
        .collect();
    if options.head.is_none() && !excluded.iter().any(|name| name == module_of(HEAD)) {
        excluded.push(module_of(HEAD).to_owned());
    }
    excluded.sort();
    let quantized =
        linears.iter().filter_map(|linear| Some((module_of(&linear.name).to_owned(), linear.method?)));
    let described = Described {
        quantized: quantized.collect(),
        excluded,
        has_fp8_cache: options.quantizes_cache == Cache::Fp8,
    };
    let pretty = |value: &Value| format!("{value:#}\n");
    staging.write_bytes(REPORT_FILE, pretty(&report.to_json()).as_bytes())?;
    staging.write_bytes(SIDECAR_FILE, pretty(&described.sidecar()).as_bytes())?;
    let mut config: Value = serde_json::from_slice(&checkpoint.config_json).unwrap_or_default();
    if let Some(config) = config.as_object_mut() {
        let type_key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(type_key.into(), json!("float16"));
        config.insert("quantization_config".into(), described.embedded());
    }
    staging.write_bytes(CONFIG_FILE, pretty(&config).as_bytes())
}

/// Tokenizer, templates, generation settings and what else is no weight file.
fn carried_files(model_dir: &Path) -> Result<Vec<PathBuf>, ToolError> {
    let entries = fs::read_dir(model_dir).map_err(StoreError::io(model_dir, "read"))?;
    let is_carried = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let is_own = [CONFIG_FILE, SIDECAR_FILE, REPORT_FILE].contains(&name);
        let is_weights = WEIGHT_EXTENSIONS.contains(&extension) || name.ends_with(".index.json");
        let is_small = fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() <= MAX_CARRIED);
        is_small && !is_own && !is_weights && !name.starts_with('.')
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_carried).collect();
    files.sort();
    Ok(files)
}
