//! The directory around the weights: what may be read and written over, and what comes along.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::checkpoint::module_of;
use super::config::Described;
use super::model::Linear;
use super::options::{Cache, QuantizeOptions};
use super::report::QuantizeReport;
use crate::format::checkpoint::naming::{Beside, beside};
use crate::format::engine::{EMBEDDING, HEAD};
use crate::store::weight_files::INDEX_FILE;
use crate::store::{Checkpoint, read_small_optional};
use crate::tools::ToolError;
use crate::tools::companions::Companions;
use crate::tools::place;
use crate::tools::staging::Staging;

/// The weights.
pub const WEIGHTS_FILE: &str = "model.safetensors";
const SIDECAR_FILE: &str = "hf_quant_config.json";
const CONFIG_FILE: &str = "config.json";
const REPORT_FILE: &str = "quantization_report.json";

/// The output must not be the input, nor hold something that an earlier call did not write.
///
/// # Errors
/// [`ToolError::Output`].
pub fn check_output(options: &QuantizeOptions) -> Result<(), ToolError> {
    place::check_output(&options.output_dir, &[&options.model_dir], None, |real| {
        let sidecar = read_small_optional(&real.join(SIDECAR_FILE))?.unwrap_or_default();
        let sidecar: Value = serde_json::from_slice(&sidecar).unwrap_or_default();
        let is_ours = sidecar.pointer("/producer/name").and_then(Value::as_str) == Some("jetspool");
        let may_write = is_ours || place::is_empty(real)?;
        Ok((!may_write).then(|| "holds files that are not a checkpoint quantized by this program".to_owned()))
    })
}

/// What comes along: all but the weights and what is written anew.
///
/// # Errors
/// [`ToolError`] when the directory cannot be listed.
pub fn companions(model_dir: &Path, checkpoint: &Checkpoint) -> Result<Companions, ToolError> {
    let ours = [CONFIG_FILE, SIDECAR_FILE, REPORT_FILE, INDEX_FILE];
    let is_shard = |name: &str| checkpoint.shards().any(|(shard, _)| shard == name);
    Companions::list(model_dir, |name| ours.contains(&name) || is_shard(name))
}

/// What to know of adapters that the checkpoint has inside.
pub fn note_of_adapters(checkpoint: &Checkpoint) -> Option<String> {
    let family = checkpoint.config.architecture.family;
    let adapter = |name| match beside(family, name)? {
        Beside::OwnAdapter(adapter) => Some(adapter),
        Beside::Tower(_) => None,
    };
    let adapters: BTreeSet<&str> = checkpoint.names().filter_map(adapter).collect();
    let names = adapters.into_iter().collect::<Vec<_>>().join(", ");
    (!names.is_empty()).then(|| {
        format!(
            "the checkpoint's own adapters ({names}) come along as they are, and no engine uses them; merge-lora makes a \
             checkpoint with one of them merged, which can be quantized then"
        )
    })
}

/// Writes all but the weights; the configuration comes last.
///
/// # Errors
/// [`ToolError`] when a file cannot be read or written.
pub fn write_configs(
    options: &QuantizeOptions,
    staging: &mut Staging,
    checkpoint: &Checkpoint,
    companions: &Companions,
    linears: &[Linear],
    report: &QuantizeReport,
) -> Result<(), ToolError> {
    companions.copy(&options.model_dir, staging)?;
    let mut excluded: Vec<String> = linears
        .iter()
        .filter(|linear| linear.method.is_none())
        .map(|linear| module_of(&linear.name).to_owned())
        .chain([stored_module(checkpoint, EMBEDDING)])
        .collect();
    if options.head.is_none() {
        excluded.push(stored_module(checkpoint, HEAD));
    }
    let family = checkpoint.config.architecture.family;
    excluded.extend(checkpoint.names().filter_map(|name| beside(family, name)).map(|beside| match beside {
        Beside::Tower(tower) => format!("{tower}*"),
        Beside::OwnAdapter(_) => "*.lora_*".to_owned(),
    }));
    excluded.sort();
    excluded.dedup();
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

/// The module of a tensor where the checkpoint has it.
fn stored_module(checkpoint: &Checkpoint, name: &str) -> String {
    let place = checkpoint.place(name).map(|place| place.tensor);
    module_of(place.as_deref().unwrap_or(name)).to_owned()
}
