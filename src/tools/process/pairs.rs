//! The tensors of a PEFT file by module; whatever is no plain LoRA pair is refused with its way out, all of it in one
//! message, or left out where that was asked for.

use std::collections::BTreeMap;
use std::path::Path;

use super::matrix::AdapterMatrix;
use crate::count::Count;
use crate::format::adapter::{listed, without_wrappers_of_training};
use crate::format::{FormatError, LoraPart, PeftConfig, PeftName, Tensor, TensorFile};
use crate::store::adapter_files::PEFT_CONFIG_FILE;
use crate::tools::ToolError;
use crate::tools::ways_out::{Refusals, is_of_other_method, is_value_head, way_of_tensor};

/// What happens to tensors of norms, the head and value heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropping {
    /// They are refused.
    Nothing,
    /// They are left out, as the workflow's own tool does with norms and the head.
    Unsupported,
}

/// The pairs, by module, and what was left out.
pub struct Sorted {
    pub pairs: BTreeMap<String, Pair>,
    /// Names in the file.
    pub dropped: Vec<String>,
}

/// The two tensors of a module with their names in the file.
#[derive(Default)]
pub struct Pair {
    a: Option<(String, Tensor)>,
    b: Option<(String, Tensor)>,
}

impl Pair {
    /// Both matrices, `[rank, k]` and `[n, rank]`.
    ///
    /// # Errors
    /// [`FormatError`] where one is missing or has another shape.
    pub fn check(&self, rank: usize) -> Result<(AdapterMatrix, AdapterMatrix), FormatError> {
        let ((a_name, a), (b_name, b)) = match (&self.a, &self.b) {
            (Some(a), Some(b)) => (a, b),
            (Some((name, _)), None) => return Err(missing(name.replace(".lora_A", ".lora_B"))),
            (None, Some((name, _))) => return Err(missing(name.replace(".lora_B", ".lora_A"))),
            (None, None) => return Err(missing("lora_A".to_owned())),
        };
        let (a, b) = (AdapterMatrix::new(a_name, a)?, AdapterMatrix::new(b_name, b)?);
        let ([a_rows, n_inputs], [n_outputs, b_columns]) = (a.shape(), b.shape());
        if a_rows != rank {
            return Err(wrong_rank(&a, rank, [rank, n_inputs]));
        }
        if b_columns != rank {
            return Err(wrong_rank(&b, rank, [n_outputs, rank]));
        }
        Ok((a, b))
    }
}

fn wrong_rank(source: &AdapterMatrix, rank: usize, wanted: [usize; 2]) -> FormatError {
    FormatError::Shape {
        name: format!("{} (rank {rank} by {PEFT_CONFIG_FILE})", source.name),
        wanted: wanted.to_vec(),
        found: source.shape().to_vec(),
    }
}

fn missing(name: String) -> FormatError {
    FormatError::MissingTensor { name }
}

/// What a tensor is here.
enum Place {
    Half {
        module: String,
        part: LoraPart,
    },
    /// Of a norm or the head.
    Outside,
    ValueHead,
    Other,
}

fn place(plain_name: &str) -> Place {
    match PeftName::parse(plain_name) {
        PeftName::Lora { module, .. } if is_norm_or_head(module) => Place::Outside,
        PeftName::Lora { module, part: part @ (LoraPart::A | LoraPart::B), .. } if !is_embedding(module) => {
            Place::Half { module: module.to_owned(), part }
        }
        PeftName::Lora { .. } => Place::Other,
        PeftName::Whole { tensor } if is_value_head(&tensor) => Place::ValueHead,
        PeftName::Whole { tensor } if is_norm_or_head(&tensor) => Place::Outside,
        PeftName::Whole { .. } => Place::Other,
    }
}

/// The parts of a model that the workflow's own tool leaves out.
fn is_norm_or_head(name: &str) -> bool {
    name.split('.').any(|part| {
        matches!(part, "norm" | "lm_head") || part.ends_with("_norm") || part.ends_with("layernorm")
    })
}

fn is_embedding(module: &str) -> bool {
    module.split('.').any(|part| part == "embed_tokens")
}

/// Groups the tensors by module.
///
/// # Errors
/// [`ToolError::Refused`] for all that cannot be applied at run time, and for a file without pairs.
pub fn sort_tensors(
    file: &TensorFile,
    config: &PeftConfig,
    path: &Path,
    dropping: Dropping,
) -> Result<Sorted, ToolError> {
    let refused = |what: String, advice| ToolError::Refused { path: path.to_owned(), what, advice };
    let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
    let (mut outside, mut heads, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for name in file.names() {
        let (module, part) = match place(&without_wrappers_of_training(name)) {
            Place::Half { module, part } => (module, part),
            Place::Outside => {
                outside.push(name);
                continue;
            }
            Place::ValueHead => {
                heads.push(name);
                continue;
            }
            Place::Other => {
                others.push(name);
                continue;
            }
        };
        let tensor = (name.to_owned(), file.require(name).map_err(ToolError::format(path))?);
        let pair = pairs.entry(module).or_default();
        let half = if part == LoraPart::A { &mut pair.a } else { &mut pair.b };
        if let Some((first, _)) = half.replace(tensor) {
            let what = format!("tensors {first} and {name} are for the same module");
            return Err(refused(what, "keep one adapter per file"));
        }
    }
    let mut dropped: Vec<String> = Vec::new();
    if dropping == Dropping::Unsupported {
        dropped.extend(outside.drain(..).chain(heads.drain(..)).map(str::to_owned));
    }
    let refusals = refusals(config, &outside, &heads, &others);
    if let Some((what, advice)) = refusals.sum_up() {
        return Err(refused(format!("this adapter cannot be applied at run time: {what}"), advice));
    }
    if pairs.is_empty() {
        return Err(refused("no lora_A and lora_B tensors".to_owned(), "check that training saved them"));
    }
    Ok(Sorted { pairs, dropped })
}

/// All that stands in the way, with the ways out.
fn refusals(config: &PeftConfig, outside: &[&str], heads: &[&str], others: &[&str]) -> Refusals {
    let mut refusals = Refusals::default();
    // What some keys mean lies in tensors of its own; without them the key means nothing.
    let has_other = |what: fn(&PeftName) -> bool| {
        let names = outside.iter().chain(heads).chain(others);
        names.map(|name| without_wrappers_of_training(name)).any(|name| what(&PeftName::parse(&name)))
    };
    let is_told = |key: &str| match key {
        "lora_bias" => has_other(|name| matches!(name, PeftName::Lora { part: LoraPart::BBias, .. })),
        "modules_to_save" => has_other(|name| matches!(name, PeftName::Whole { .. })),
        "trainable_token_indices" => {
            has_other(|name| matches!(name, PeftName::Whole { tensor } if is_of_other_method(tensor)))
        }
        _ => true,
    };
    let is_whole =
        |name: &str| matches!(PeftName::parse(&without_wrappers_of_training(name)), PeftName::Whole { .. });
    // Beside those that may be left out.
    let has_other_modules = others.iter().any(|name| is_whole(name));
    for obstacle in config.obstacles.iter().filter(|obstacle| is_told(obstacle.key)) {
        let has_magnitudes = others.iter().any(|name| name.contains("lora_magnitude_vector"));
        if obstacle.key == "use_dora" && !has_magnitudes {
            refusals.add_damaged(format!("{obstacle}, but no lora_magnitude_vector was saved"));
        } else if obstacle.key == "modules_to_save" && !has_other_modules {
            refusals.add_outside(obstacle.to_string());
        } else {
            refusals.add_obstacle(obstacle);
        }
    }
    if !outside.is_empty() {
        let what = format!("{} for a norm or the head: {}", Count(outside.len(), "tensor"), listed(outside));
        refusals.add_outside(what);
    }
    if !heads.is_empty() {
        let what = format!("{} of a value head: {}", Count(heads.len(), "tensor"), listed(heads));
        refusals.add_outside(what);
    }
    let mut by_way: BTreeMap<&'static str, Vec<&str>> = BTreeMap::new();
    for name in others {
        by_way.entry(way_of_tensor(&without_wrappers_of_training(name))).or_default().push(name);
    }
    for (way, names) in by_way {
        let what = format!("{} neither lora_A nor lora_B: {}", Count(names.len(), "tensor"), listed(&names));
        refusals.add(what, way);
    }
    refusals
}
