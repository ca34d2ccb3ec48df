//! `process-lora`: an adapter of PEFT's, or in GGUF, to the run-time form: f16, `[k, r]` and `[r, n]`, the scale in lora_B.
//!
//! Orientation comes from PEFT's layout, never from the shape. What two matrices per layer cannot say is refused,
//! with the tensors' names. The file is written tensor after tensor: one of them is in memory at a time.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use super::gguf::{GgufAdapter, read_gguf_adapter};
use super::matrix::AdapterMatrix;
pub use super::pairs::Dropping;
use super::pairs::{Sorted, sort_tensors};
use crate::format::adapter::Mark;
use crate::format::header::Header;
use crate::format::{PeftConfig, TensorFile};
use crate::store::adapter_files::{
    PEFT_CONFIG_FILE, PEFT_PICKLE_FILE, PEFT_WEIGHTS_FILE, PROCESSED_CONFIG_FILE, PROCESSED_WEIGHTS_FILE,
};
use crate::store::{AtomicFile, Expected, Losses, StoreError, map_file, read_small, read_small_optional};
use crate::tools::ToolError;

const PRODUCER: &str = concat!("jetspool ", env!("CARGO_PKG_VERSION"), " process-lora");

/// What to process.
#[derive(Debug, Clone)]
pub struct ProcessOptions {
    pub input: ProcessInput,
    pub output_dir: PathBuf,
    pub dropping: Dropping,
}

/// Where an adapter comes from.
#[derive(Debug, Clone)]
pub enum ProcessInput {
    /// A directory with `adapter_config.json` and `adapter_model.safetensors`.
    Peft(PathBuf),
    /// A file as llama.cpp has it, and an engine of its base model.
    Gguf { file: PathBuf, engine_dir: PathBuf },
}

impl ProcessOptions {
    /// PEFT's, with nothing left out.
    pub fn new(input_dir: PathBuf, output_dir: PathBuf) -> Self {
        Self { input: ProcessInput::Peft(input_dir), output_dir, dropping: Dropping::Nothing }
    }
}

/// What is known of an adapter, whatever it comes from.
struct Found {
    /// For errors.
    path: PathBuf,
    config: PeftConfig,
    config_json: Vec<u8>,
    /// A and B by module.
    pairs: BTreeMap<String, (AdapterMatrix, AdapterMatrix)>,
    dropped: Vec<String>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessReport {
    /// The processed weights.
    pub path: PathBuf,
    pub n_pairs: usize,
    pub max_rank: usize,
    /// Names of tensors that were left out as asked.
    pub dropped: Vec<String>,
    /// For people.
    pub notes: Vec<String>,
}

/// A tensor that is written, and the factor of its values.
type Planned = (AdapterMatrix, Option<f64>);

/// Processes an adapter.
///
/// # Errors
/// [`ToolError`]; the output files are then as they were.
pub fn process_lora(options: &ProcessOptions) -> Result<ProcessReport, ToolError> {
    let losses = Losses::now();
    let Found { path: weights_path, config, config_json, pairs, dropped } = match &options.input {
        ProcessInput::Peft(input_dir) => read_peft(input_dir, options.dropping)?,
        ProcessInput::Gguf { file, engine_dir } => read_gguf(file, engine_dir)?,
    };
    // By the name in the output, which is the order of the file.
    let mut planned: BTreeMap<String, Planned> = BTreeMap::new();
    let (n_pairs, mut max_rank) = (pairs.len(), 0);
    for (module, (a, b)) in pairs {
        max_rank = max_rank.max(config.rank_of(&module));
        for (part, source, scale) in [("lora_A", a, None), ("lora_B", b, Some(config.scale_of(&module)))] {
            planned.insert(format!("{}.{part}.weight", output_name(&module)), (source, scale));
        }
    }
    let mark = Mark { producer: PRODUCER, dropped: &dropped };
    let marked = mark.put_into(&config, &config_json);
    check_place(&options.output_dir, &config_json)?;
    write_output(&options.output_dir, &weights_path, &planned, &marked, &losses)?;
    let path = options.output_dir.join(PROCESSED_WEIGHTS_FILE);
    Ok(ProcessReport { path, n_pairs, max_rank, dropped, notes: notes(&config) })
}

fn read_peft(input_dir: &Path, dropping: Dropping) -> Result<Found, ToolError> {
    let Opened { config_json, config, weights_path, file } =
        open(input_dir).map_err(ToolError::explained(input_dir, Expected::PeftAdapter))?;
    let Sorted { pairs, dropped } = sort_tensors(&file, &config, &weights_path, dropping)?;
    let checked = pairs.into_iter().map(|(module, pair)| {
        let sources = pair.check(config.rank_of(&module)).map_err(ToolError::format(&weights_path))?;
        Ok((module, sources))
    });
    let pairs = checked.collect::<Result<_, ToolError>>()?;
    Ok(Found { path: weights_path, config, config_json, pairs, dropped })
}

fn read_gguf(file: &Path, engine_dir: &Path) -> Result<Found, ToolError> {
    let GgufAdapter { config_json, pairs } = read_gguf_adapter(file, engine_dir)?;
    let config = PeftConfig::parse(&config_json).map_err(ToolError::format(file))?;
    Ok(Found { path: file.to_owned(), config, config_json, pairs, dropped: Vec::new() })
}

/// An adapter as it comes.
struct Opened {
    config_json: Vec<u8>,
    config: PeftConfig,
    weights_path: PathBuf,
    file: TensorFile,
}

fn open(input_dir: &Path) -> Result<Opened, ToolError> {
    let config_path = input_dir.join(PEFT_CONFIG_FILE);
    let config_json = read_small(&config_path)?;
    let config = PeftConfig::parse(&config_json).map_err(ToolError::format(&config_path))?;
    let weights_path = weights_path(input_dir)?;
    let file = TensorFile::parse(map_file(&weights_path)?).map_err(ToolError::format(&weights_path))?;
    Ok(Opened { config_json, config, weights_path, file })
}

/// What the configuration promises and the tensors do not hold.
fn notes(config: &PeftConfig) -> Vec<String> {
    let mut notes = Vec::new();
    if config.bias != "none" {
        let bias = &config.bias;
        notes.push(format!("bias is {bias:?}, but no biases were saved: the engine's stay as they are"));
    }
    notes
}

fn weights_path(input_dir: &Path) -> Result<PathBuf, ToolError> {
    let path = input_dir.join(PEFT_WEIGHTS_FILE);
    let pickle = input_dir.join(PEFT_PICKLE_FILE);
    if !path.exists() && pickle.exists() {
        let advice = "save the adapter as safetensors first: save_pretrained(DIR, safe_serialization=True)";
        return Err(StoreError::WrongWeights { path: pickle, advice }.into());
    }
    Ok(path)
}

/// Refuses a directory whose config.json is something else's.
fn check_place(output_dir: &Path, config_json: &[u8]) -> Result<(), ToolError> {
    let Some(there) = read_small_optional(&output_dir.join(PROCESSED_CONFIG_FILE))? else { return Ok(()) };
    let value: serde_json::Value = serde_json::from_slice(&there).unwrap_or_default();
    if there != config_json && value.get("peft_type").is_none() && value.get("lora_alpha").is_none() {
        let why = "holds a config.json that is not an adapter's".to_owned();
        return Err(ToolError::Output { path: output_dir.to_owned(), why });
    }
    Ok(())
}

/// The weights first: a configuration with our mark never lies beside weights that are not ours.
fn write_output(
    output_dir: &Path,
    weights_path: &Path,
    planned: &BTreeMap<String, Planned>,
    config_json: &[u8],
    losses: &Losses,
) -> Result<(), ToolError> {
    let is_new = !output_dir.exists();
    fs::create_dir_all(output_dir).map_err(StoreError::io(output_dir, "create"))?;
    let written = write_weights(&output_dir.join(PROCESSED_WEIGHTS_FILE), weights_path, planned, losses)
        .and_then(|()| Ok(AtomicFile::write(&output_dir.join(PROCESSED_CONFIG_FILE), config_json)?));
    if written.is_err() && is_new {
        // Fails where something lies in it by now.
        let _ = fs::remove_dir(output_dir);
    }
    written
}

fn write_weights(
    path: &Path,
    weights_path: &Path,
    planned: &BTreeMap<String, Planned>,
    losses: &Losses,
) -> Result<(), ToolError> {
    let mut header = Header::bare();
    for (name, (source, _)) in planned {
        let [n_rows, n_columns] = source.shape();
        header.add(name, Dtype::F16, &[n_columns, n_rows]);
    }
    let mut file = AtomicFile::create(path)?;
    file.write_all(&header.finish(8)).map_err(StoreError::io(path, "write"))?;
    for (source, scale) in planned.values() {
        let bytes = source.transposed_f16(*scale).map_err(|found| ToolError::Range {
            path: weights_path.to_owned(),
            name: source.name.clone(),
            found,
            precision: "f16",
        })?;
        file.write_all(&bytes).map_err(StoreError::io(path, "write"))?;
    }
    losses.check()?;
    Ok(file.commit()?)
}

/// `layers.0.x` and `model.layers.0.x` both become `model.layers.0.x`.
fn output_name(module: &str) -> String {
    if module.starts_with("model.") { module.to_owned() } else { format!("model.{module}") }
}
