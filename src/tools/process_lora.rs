//! `process-lora`: a PEFT adapter to the run-time form: f16, `[k, r]` and `[r, n]`, the scale in lora_B.
//!
//! The numbers are those of the workflow's own tool: lora_B is multiplied in its own type, rounded there,
//! then rounded to f16. Orientation comes from PEFT's layout, never from the shape. What two matrices per
//! layer cannot say is refused, with the tensors' names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::format::adapter::{Mark, listed};
use crate::format::{FormatError, LoraPart, PeftConfig, PeftName, Tensor, TensorFile};
use crate::store::{AtomicFile, Losses, StoreError, map_file, read_small, read_small_optional};
use crate::tools::ToolError;
use crate::tools::weights::source::{Decoder, decoder};

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
const PICKLE_FILE: &str = "adapter_model.bin";
const OUTPUT_WEIGHTS_FILE: &str = "processed_adapter_model.safetensors";
const OUTPUT_CONFIG_FILE: &str = "config.json";
const PRODUCER: &str = concat!("jetspool ", env!("CARGO_PKG_VERSION"), " process-lora");
const MERGE: &str = "merge it into the checkpoint with merge-lora";

/// What to process.
#[derive(Debug, Clone)]
pub struct ProcessOptions {
    /// Holds `adapter_config.json` and `adapter_model.safetensors`.
    pub input_dir: PathBuf,
    pub output_dir: PathBuf,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessReport {
    /// The processed weights.
    pub path: PathBuf,
    pub n_pairs: usize,
    pub max_rank: usize,
}

/// Processes an adapter.
///
/// # Errors
/// [`ToolError`]; the output files are then as they were.
pub fn process_lora(options: &ProcessOptions) -> Result<ProcessReport, ToolError> {
    let losses = Losses::now();
    let config_path = options.input_dir.join(CONFIG_FILE);
    let config_json = read_small(&config_path)?;
    let config = PeftConfig::parse(&config_json).map_err(ToolError::format(&config_path))?;
    let weights_path = weights_path(&options.input_dir)?;
    let format_error = |source| ToolError::Format { path: weights_path.clone(), source };
    let file = TensorFile::parse(map_file(&weights_path)?).map_err(format_error)?;
    let pairs = sort_tensors(&file, &config, &weights_path)?;

    let mut processed = BTreeMap::new();
    let mut max_rank = 0;
    for (module, pair) in &pairs {
        let rank = config.rank_of(module);
        max_rank = max_rank.max(rank);
        let (a, b) = pair.check(rank).map_err(format_error)?;
        let parts = [("lora_A", a, None), ("lora_B", b, Some(config.scale_of(module)))];
        for (part, source, scale) in parts {
            let half = source.transposed_f16(scale).map_err(|found| ToolError::Range {
                path: weights_path.clone(),
                name: source.name.to_owned(),
                found,
                precision: "f16",
            })?;
            processed.insert(format!("{}.{part}.weight", output_name(module)), half);
        }
    }
    let bytes = serialize(&processed).map_err(format_error)?;
    losses.check()?;
    drop(processed);
    let mark = Mark { producer: PRODUCER, dropped: &[] };
    write_output(&options.output_dir, &bytes, &mark.put_into(&config, &config_json))?;
    let path = options.output_dir.join(OUTPUT_WEIGHTS_FILE);
    Ok(ProcessReport { path, n_pairs: pairs.len(), max_rank })
}

fn weights_path(input_dir: &Path) -> Result<PathBuf, ToolError> {
    let path = input_dir.join(WEIGHTS_FILE);
    let pickle = input_dir.join(PICKLE_FILE);
    if !path.exists() && pickle.exists() {
        let advice = "save the adapter as safetensors first: save_pretrained(DIR, safe_serialization=True)";
        return Err(StoreError::WrongWeights { path: pickle, advice }.into());
    }
    Ok(path)
}

fn write_output(output_dir: &Path, weights: &[u8], config_json: &[u8]) -> Result<(), ToolError> {
    let config_path = output_dir.join(OUTPUT_CONFIG_FILE);
    if let Some(there) = read_small_optional(&config_path)? {
        let value: serde_json::Value = serde_json::from_slice(&there).unwrap_or_default();
        if there != config_json && value.get("peft_type").is_none() {
            let why = "holds a config.json that is not an adapter's".to_owned();
            return Err(ToolError::Output { path: output_dir.to_owned(), why });
        }
    }
    fs::create_dir_all(output_dir).map_err(StoreError::io(output_dir, "create"))?;
    AtomicFile::write(&output_dir.join(OUTPUT_WEIGHTS_FILE), weights)?;
    AtomicFile::write(&config_path, config_json)?;
    Ok(())
}

/// Modules that the run time does not adapt: embeddings, norms, the head.
fn is_outside_layers(module: &str) -> bool {
    module.split('.').any(|part| {
        matches!(part, "norm" | "lm_head" | "embed_tokens")
            || part.ends_with("_norm")
            || part.ends_with("layernorm")
    })
}

/// `layers.0.x` and `model.layers.0.x` both become `model.layers.0.x`.
fn output_name(module: &str) -> String {
    if module.starts_with("model.") { module.to_owned() } else { format!("model.{module}") }
}

/// The two tensors of a module with their names in the file.
#[derive(Default)]
struct Pair {
    a: Option<(String, Tensor)>,
    b: Option<(String, Tensor)>,
}

impl Pair {
    /// Both matrices, `[rank, k]` and `[n, rank]`.
    fn check(&self, rank: usize) -> Result<(Source<'_>, Source<'_>), FormatError> {
        let ((a_name, a), (b_name, b)) = match (&self.a, &self.b) {
            (Some(a), Some(b)) => (a, b),
            (Some((name, _)), None) => return Err(missing(name.replace(".lora_A", ".lora_B"))),
            (None, Some((name, _))) => return Err(missing(name.replace(".lora_B", ".lora_A"))),
            (None, None) => return Err(missing("lora_A".to_owned())),
        };
        let (a, b) = (Source::new(a_name, a)?, Source::new(b_name, b)?);
        if a.n_rows != rank {
            return Err(a.wrong_rank(rank, [rank, a.n_columns]));
        }
        if b.n_columns != rank {
            return Err(b.wrong_rank(rank, [b.n_rows, rank]));
        }
        Ok((a, b))
    }
}

/// A matrix of the PEFT file whose type can be read.
struct Source<'a> {
    name: &'a str,
    tensor: &'a Tensor,
    decode: Decoder,
    n_rows: usize,
    n_columns: usize,
}

impl<'a> Source<'a> {
    fn new(name: &'a str, tensor: &'a Tensor) -> Result<Self, FormatError> {
        let decode = decoder(tensor.dtype()).ok_or_else(|| FormatError::Dtype {
            name: name.to_owned(),
            wanted: "F32, F16 or BF16",
            found: format!("{:?}", tensor.dtype()),
        })?;
        match *tensor.shape() {
            [n_rows, n_columns] if n_rows > 0 && n_columns > 0 => {
                Ok(Self { name, tensor, decode, n_rows, n_columns })
            }
            _ => Err(FormatError::Damaged {
                what: "adapter",
                why: format!("tensor {name} has shape {:?}, wanted a matrix", tensor.shape()),
            }),
        }
    }

    fn wrong_rank(&self, rank: usize, wanted: [usize; 2]) -> FormatError {
        FormatError::Shape {
            name: format!("{} (rank {rank} by {CONFIG_FILE})", self.name),
            wanted: wanted.to_vec(),
            found: self.tensor.shape().to_vec(),
        }
    }

    /// `[rows, columns]` to f16 `[columns, rows]`, first multiplied by `scale` in the source's own type.
    /// The error is the first value that f16 cannot hold.
    fn transposed_f16(&self, scale: Option<f64>) -> Result<HalfMatrix, f32> {
        let round: fn(f32) -> f32 = match self.tensor.dtype() {
            Dtype::BF16 => |value| bf16::from_f32(value).to_f32(),
            Dtype::F16 => |value| f16::from_f32(value).to_f32(),
            _ => |value| value,
        };
        #[expect(clippy::cast_possible_truncation)]
        let scale = scale.map(|scale| scale as f32);
        let mut row = vec![0.0_f32; self.n_columns];
        let mut values = vec![0_u8; self.n_rows * self.n_columns * 2];
        let rows = self.tensor.data().chunks(self.tensor.data().len() / self.n_rows);
        for (row_idx, bytes) in rows.enumerate() {
            (self.decode)(bytes, &mut row);
            for (column_idx, value) in row.iter().enumerate() {
                let scaled = scale.map_or(*value, |scale| round(value * scale));
                let half = f16::from_f32(scaled);
                if !half.is_finite() {
                    return Err(scaled);
                }
                let at = (column_idx * self.n_rows + row_idx) * 2;
                values[at..at + 2].copy_from_slice(&half.to_le_bytes());
            }
        }
        Ok(HalfMatrix { shape: [self.n_columns, self.n_rows], values })
    }
}

fn missing(name: String) -> FormatError {
    FormatError::MissingTensor { name }
}

/// Groups the tensors by module; whatever is no plain LoRA pair is refused, all of it in one message.
fn sort_tensors(
    file: &TensorFile,
    config: &PeftConfig,
    path: &Path,
) -> Result<BTreeMap<String, Pair>, ToolError> {
    let refused = |what: String, advice| ToolError::Refused { path: path.to_owned(), what, advice };
    let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
    let (mut others, mut outside) = (Vec::new(), Vec::new());
    for name in file.names() {
        let tensor = (name.to_owned(), file.require(name).map_err(ToolError::format(path))?);
        let (module, is_a) = match PeftName::parse(name) {
            PeftName::Lora { module, part: LoraPart::A, .. } => (module, true),
            PeftName::Lora { module, part: LoraPart::B, .. } => (module, false),
            _ => {
                others.push(name);
                continue;
            }
        };
        if is_outside_layers(module) {
            outside.push(name);
            continue;
        }
        let pair = pairs.entry(module.to_owned()).or_default();
        let half = if is_a { &mut pair.a } else { &mut pair.b };
        if let Some((first, _)) = half.replace(tensor) {
            let what = format!("tensors {first} and {name} are for the same module");
            return Err(refused(what, "keep one adapter per file"));
        }
    }
    let mut obstacles: Vec<String> = config.obstacles.iter().map(ToString::to_string).collect();
    if !others.is_empty() {
        obstacles.push(format!("{} tensors are not lora_A or lora_B: {}", others.len(), listed(&others)));
    }
    if !outside.is_empty() {
        let what = "tensors adapt an embedding, a norm or the head";
        obstacles.push(format!("{} {what}: {}", outside.len(), listed(&outside)));
    }
    if !obstacles.is_empty() {
        let what = format!("this adapter cannot be applied at run time: {}", obstacles.join("; "));
        return Err(refused(what, MERGE));
    }
    if pairs.is_empty() {
        return Err(refused("no lora_A and lora_B tensors".to_owned(), "check that training saved them"));
    }
    Ok(pairs)
}

/// An f16 matrix, row-major.
struct HalfMatrix {
    shape: [usize; 2],
    values: Vec<u8>,
}

fn serialize(tensors: &BTreeMap<String, HalfMatrix>) -> Result<Vec<u8>, FormatError> {
    let damaged = |error: safetensors::SafeTensorError| FormatError::Damaged {
        what: "processed adapter",
        why: error.to_string(),
    };
    let mut views = Vec::with_capacity(tensors.len());
    for (name, matrix) in tensors {
        let view = TensorView::new(Dtype::F16, matrix.shape.to_vec(), &matrix.values).map_err(damaged)?;
        views.push((name, view));
    }
    safetensors::serialize(views, None).map_err(damaged)
}
