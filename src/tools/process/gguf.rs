//! Adapters in GGUF, as llama.cpp's `convert_lora_to_gguf.py` writes them: what PEFT's files would say.
//!
//! A tensor of the base model has two beside it, `NAME.lora_a` `[rank, in]` and `NAME.lora_b` `[out, rank]`; the rows of
//! the latter stand in the order of the base's. The scale is `adapter.lora.alpha / rank`, 1 where alpha is 0.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;

use super::matrix::AdapterMatrix;
use crate::count::Count;
use crate::format::adapter::listed;
use crate::format::gguf::{GgufFile, GgufPlace, RowOrder, gguf_module_place};
use crate::format::{Bytes, EngineConfig, FormatError};
use crate::numbers::Module;
use crate::numbers::architecture::Architecture;
use crate::numbers::family::Family;
use crate::store::engine::CONFIG_FILE;
use crate::store::{Expected, StoreError, map_file, read_small};
use crate::tools::ToolError;
use crate::tools::weights::gguf::gguf_rows;

/// An adapter's file and the engine that it is for, which knows how heads lie.
#[derive(Debug)]
pub struct GgufAdapter {
    /// adapter_config.json that says the same.
    pub config_json: Vec<u8>,
    /// A and B of each module, by its path.
    pub pairs: BTreeMap<String, (AdapterMatrix, AdapterMatrix)>,
}

/// Reads an adapter.
///
/// # Errors
/// [`ToolError::Refused`] for another kind of file, another architecture than the engine's, and tensors of no linear
/// layer; [`ToolError::Format`].
pub fn read_gguf_adapter(path: &Path, engine_dir: &Path) -> Result<GgufAdapter, ToolError> {
    let config = engine_config(engine_dir).map_err(ToolError::explained(engine_dir, Expected::Engine))?;
    let wrong = |source| ToolError::Format { path: path.to_owned(), source };
    let bytes = map_file(path)?;
    let file = GgufFile::parse((*bytes).as_ref()).map_err(wrong)?;
    let text = |key: &str| file.metadata.text(key).map_err(wrong);
    if !file.is_adapter() || text("adapter.type")? != Some("lora") {
        return Err(ToolError::Refused {
            path: path.to_owned(),
            what: "is a GGUF file, but not of a LoRA adapter".to_owned(),
            advice: "make an engine of a model with jetspool build --ggufFile",
        });
    }
    let architecture = &config.architecture;
    check_architecture(path, text("general.architecture")?, architecture)?;
    let alpha = file.metadata.number("adapter.lora.alpha").map_err(wrong)?.unwrap_or_default();
    let mut unused: BTreeSet<&str> = file.tensors().map(|(name, _)| name).collect();
    let mut pairs = BTreeMap::new();
    let mut ranks = BTreeMap::new();
    for layer in 0..architecture.n_layers {
        for module in Module::of_layer(architecture.family) {
            let Some(place) = gguf_module_place(architecture, layer, module) else { continue };
            let [a, b] = ["a", "b"].map(|part| format!("{}.lora_{part}", place.tensor));
            let is_there = [&a, &b].map(|name| unused.remove(name.as_str()));
            if is_there == [false; 2] {
                continue;
            }
            let path_in_model = format!("model.layers.{layer}.{}", module.path());
            let shape = module.shape(architecture);
            let pair =
                Pair { file: &file, bytes: &bytes, a, b, order: place.order }.read(shape).map_err(wrong)?;
            ranks.insert(path_in_model.clone(), pair.0.shape()[0]);
            pairs.insert(path_in_model, pair);
        }
    }
    refuse_unused(path, &unused)?;
    if pairs.is_empty() {
        let (what, advice) =
            ("has no tensors of linear layers".to_owned(), "check that it was converted whole");
        return Err(ToolError::Refused { path: path.to_owned(), what, advice });
    }
    Ok(GgufAdapter { config_json: adapter_config(&ranks, alpha), pairs })
}

fn engine_config(engine_dir: &Path) -> Result<EngineConfig, ToolError> {
    let path = engine_dir.join(CONFIG_FILE);
    Ok(EngineConfig::from_json(&read_small(&path)?).map_err(StoreError::format(&path))?)
}

/// The two tensors of a module.
struct Pair<'f, 'a> {
    file: &'f GgufFile<'a>,
    bytes: &'f Bytes,
    a: String,
    b: String,
    order: RowOrder,
}

impl Pair<'_, '_> {
    /// `[rank, in]` and `[out, rank]`, rows as checkpoints have them.
    fn read(
        self,
        (n_outputs, n_inputs): (usize, usize),
    ) -> Result<(AdapterMatrix, AdapterMatrix), FormatError> {
        let missing = |name: &str| FormatError::MissingTensor { name: name.to_owned() };
        let found = self.file.tensor(&self.a).ok_or_else(|| missing(&self.a))?;
        let rank = found.shape.first().copied().unwrap_or_default();
        let source = |name: String, order, shape: [usize; 2]| {
            let place = GgufPlace { tensor: name, fused: None, order };
            let rows = gguf_rows(self.file, self.bytes, &place, &shape)?;
            Ok::<_, FormatError>(AdapterMatrix::of(place.tensor, rows, shape))
        };
        Ok((
            source(self.a, RowOrder::Same, [rank, n_inputs])?,
            source(self.b, self.order, [n_outputs, rank])?,
        ))
    }
}

fn refuse_unused(path: &Path, unused: &BTreeSet<&str>) -> Result<(), ToolError> {
    if unused.is_empty() {
        return Ok(());
    }
    let unused: Vec<&str> = unused.iter().copied().collect();
    Err(ToolError::Refused {
        path: path.to_owned(),
        what: format!(
            "{} for no linear layer of the engine: {}",
            Count(unused.len(), "tensor"),
            listed(&unused)
        ),
        advice: "merge it into the model with llama.cpp's llama-export-lora and build an engine of that",
    })
}

fn check_architecture(path: &Path, found: Option<&str>, engine: &Architecture) -> Result<(), ToolError> {
    let Some(found) = found else { return Ok(()) };
    // Two families are called as what they compute like.
    let name = match engine.family {
        Family::Mistral => Family::Llama.name(),
        Family::Phi4Multimodal => Family::Phi3.name(),
        other => other.name(),
    };
    if found == name {
        return Ok(());
    }
    Err(ToolError::Refused {
        path: path.to_owned(),
        what: format!("is for models of architecture {found:.60}, the engine is of {name}"),
        advice: "give the engine of the model that the adapter was trained on with --engineDir",
    })
}

/// PEFT's configuration: one scale for all, ranks by module where they differ.
fn adapter_config(ranks: &BTreeMap<String, usize>, alpha: f64) -> Vec<u8> {
    let rank = ranks.values().copied().max().unwrap_or(1);
    let others: BTreeMap<&str, usize> = ranks
        .iter()
        .filter(|(_, found)| **found != rank)
        .map(|(name, found)| (name.as_str(), *found))
        .collect();
    let mut config = json!({ "peft_type": "LORA", "r": rank, "rank_pattern": others, "bias": "none" });
    config["target_modules"] = ranks.keys().map(String::as_str).collect();
    if alpha == 0.0 {
        config["lora_alpha"] = rank.into();
        config["alpha_pattern"] = json!(others);
    } else {
        config["lora_alpha"] = alpha.into();
    }
    config.to_string().into_bytes()
}
