//! `build --onnxDir`: an ONNX directory to an engine directory, by the decoder that its graph computes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::onnx_architecture::architecture;
use super::run::{
    BuildOptions, BuildReport, Prepared, Spreads, check_output, engine_config, keep_packed, limit_warnings,
    set_head, write_engine,
};
use super::text_files::TextFiles;
use crate::format::engine::{
    EMBEDDING, FINAL_NORM, HEAD, experts_weight, items, projection_bias, projection_weight, router_weight,
};
use crate::format::onnx::{Linear, Model, Norm, OnnxConfig, OnnxDecoder, OnnxMixture, OnnxMlp};
use crate::format::{Bytes, FormatError, TensorFile};
use crate::numbers::architecture::{Architecture, Projection};
use crate::numbers::{Module, Precision};
use crate::store::{Expected, map_file, read_small, read_small_optional};
use crate::tools::ToolError;
use crate::tools::export::data::EMBEDDING_FILE;
use crate::tools::export::run::{LORA_MODEL_FILE, MODEL_FILE};
use crate::tools::templates::CheckpointTemplate;
use crate::tools::weights::onnx::equal_in_f16;
use crate::tools::weights::onnx_files::OnnxFiles;
use crate::tools::weights::source::RowSource;

const CONFIG_FILE: &str = "config.json";

/// Builds an engine from an ONNX directory of this program's exporter or the workflow's: of `model.onnx`,
/// or of `lora_model.onnx` where adapters are wanted.
///
/// # Errors
/// [`ToolError`]; nothing is left behind then.
pub fn build_onnx(options: &BuildOptions) -> Result<BuildReport, ToolError> {
    let directory = &options.model_dir;
    let model_path = model_path(options)?;
    let config_path = directory.join(CONFIG_FILE);
    let explained = || ToolError::explained(directory, Expected::Onnx);
    let read = || -> Result<(Vec<u8>, OnnxConfig), ToolError> {
        let config_json = read_small(&config_path)?;
        let config = OnnxConfig::from_json(&config_json).map_err(ToolError::format(&config_path))?;
        Ok((config_json, config))
    };
    let (config_json, config) = read().map_err(explained())?;
    check_output(options)?;
    let bytes = map_file(&model_path).map_err(ToolError::from).map_err(explained())?;
    let mut model = Model::parse((*bytes).as_ref()).map_err(ToolError::format(&model_path))?;
    let files = OnnxFiles::new(&model_path, bytes.clone());
    let scalars = files.scalars(&model)?;
    model.take_scalars(|name| scalars.get(name).map(|bytes| (**bytes).as_ref()));
    let decoder = OnnxDecoder::recognize(&model.graph).map_err(ToolError::format(&model_path))?;
    let mut architecture =
        architecture(&config.architecture, &decoder).map_err(ToolError::format(&model_path))?;
    let embedding_path = directory.join(EMBEDDING_FILE);
    let embedding = map_file(&embedding_path)?;
    let mut weights = Weights { files: &files, architecture: &architecture, found: BTreeMap::new() };
    weights.add_embedding(&embedding_path, &embedding)?;
    weights.add_decoder(&decoder)?;
    let mut found = weights.found;
    architecture.tied_head = is_tied(&found, &architecture);
    let eos_token_ids = match &config.eos_token_ids[..] {
        [] => eos_of_tokenizer(directory)?,
        ids => ids.to_vec(),
    };
    let asked = options.precision;
    let options = &BuildOptions { precision: resolve_precision(options, &found)?, ..options.clone() };
    let engine_config = engine_config(options, architecture, eos_token_ids, config.bos_token_id)?;
    let mut items = items(&engine_config.architecture, options.precision);
    let mut sources = Vec::with_capacity(items.len());
    for item in &items {
        let missing = || FormatError::MissingTensor { name: item.name().to_owned() };
        sources.push(found.remove(item.name()).ok_or_else(missing).map_err(ToolError::format(&model_path))?);
    }
    keep_packed(&mut items, &sources, options.precision);
    set_head(&mut items, options.head);
    let mut warnings = limit_warnings(&engine_config);
    if options.precision == Precision::Stored && asked != Precision::Stored {
        warnings.push(format!(
            "the graph's weights are {asked} already: they stay as they are (precision stored)"
        ));
    }
    let texts = TextFiles::read(directory)?;
    let digest = || {
        let external = files.external();
        let parts = [&config_json[..], (*bytes).as_ref(), (*embedding).as_ref()];
        digest_of(parts.into_iter().chain(external.values().map(|bytes| (**bytes).as_ref())))
    };
    write_engine(
        options,
        Prepared { config: engine_config, items, sources, spreads: Spreads::new(), warnings },
        texts,
        digest,
    )
}

/// A quantized graph stays as it is, or becomes numbers.
fn resolve_precision(
    options: &BuildOptions,
    found: &BTreeMap<String, RowSource>,
) -> Result<Precision, ToolError> {
    let packed = found.values().filter_map(RowSource::packed);
    let kinds: BTreeSet<&str> = packed.map(|packed| packed.storage().kind.name()).collect();
    let wanted = options.precision;
    match wanted {
        Precision::F32 | Precision::F16 => Ok(wanted),
        Precision::Stored if kinds.is_empty() => Ok(Precision::F16),
        Precision::Stored => Ok(wanted),
        _ if kinds.is_empty() => Ok(wanted),
        _ if kinds.iter().eq([&wanted.name()]) => Ok(Precision::Stored),
        _ => {
            let kinds = kinds.into_iter().collect::<Vec<_>>().join(" and ");
            Err(ToolError::Refused {
                path: options.model_dir.clone(),
                what: format!("the graph's weights are {kinds}, not {wanted}"),
                advice: "leave --precision out to keep them so, or give f16 or f32 to dequantize them",
            })
        }
    }
}

fn model_path(options: &BuildOptions) -> Result<PathBuf, ToolError> {
    let plain = options.model_dir.join(MODEL_FILE);
    let with_inputs = options.model_dir.join(LORA_MODEL_FILE);
    if options.limits.max_lora_rank == 0 {
        return Ok(plain);
    }
    if !with_inputs.exists() && plain.exists() {
        let what = format!("is missing, and --maxLoraRank is {}", options.limits.max_lora_rank);
        let advice = "run insert-lora --onnx_dir on this directory first";
        return Err(ToolError::Refused { path: with_inputs, what, advice });
    }
    Ok(with_inputs)
}

fn digest_of<'a>(parts: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    for bytes in parts {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The sources of an engine's tensors by their names in checkpoints.
struct Weights<'a> {
    files: &'a OnnxFiles,
    architecture: &'a Architecture,
    found: BTreeMap<String, RowSource>,
}

impl Weights<'_> {
    fn add_embedding(&mut self, path: &Path, bytes: &Bytes) -> Result<(), ToolError> {
        let file = TensorFile::parse(bytes.clone()).map_err(ToolError::format(path))?;
        let shape = [self.architecture.vocab_size, self.architecture.hidden_size];
        let source = file.require("embedding").and_then(|tensor| RowSource::new("embedding", tensor, &shape));
        self.found.insert(EMBEDDING.to_owned(), source.map_err(ToolError::format(path))?);
        Ok(())
    }

    fn add_decoder(&mut self, decoder: &OnnxDecoder) -> Result<(), ToolError> {
        let a = self.architecture;
        for (layer_idx, layer) in decoder.layers.iter().enumerate() {
            let attention = &layer.attention;
            let [of_attention, of_mlp] = match &layer.after_norms {
                Some(norms) => norms.each_ref().map(Some),
                None => [None, None],
            };
            let [behind_attention, behind_mlp] = a.norms.after().unwrap_or_default();
            let norms = [
                ("input_layernorm", Some(&layer.input_norm), a.hidden_size),
                (a.norms.before_mlp(), Some(&layer.post_norm), a.hidden_size),
                (behind_attention, of_attention, a.hidden_size),
                (behind_mlp, of_mlp, a.hidden_size),
                ("self_attn.q_norm", attention.q_norm.as_ref(), a.head_dim),
                ("self_attn.k_norm", attention.k_norm.as_ref(), a.head_dim),
            ];
            for (part, norm, len) in norms {
                let name = format!("model.layers.{layer_idx}.{part}.weight");
                norm.map_or(Ok(()), |norm| self.add_norm(name, norm, len))?;
            }
            for (module, linear) in layer.linears() {
                let Module::One(projection) = module else { continue };
                self.add_matrix(projection_weight(layer_idx, projection), linear, module.shape(a))?;
                if let Some(bias) = &linear.bias {
                    let source = self.files.bias(linear, bias)?;
                    self.found.insert(projection_bias(layer_idx, projection), source);
                }
            }
            if let OnnxMlp::Mixture(mixture) = &layer.mlp {
                self.add_mixture(layer_idx, mixture)?;
            }
        }
        self.add_norm(FINAL_NORM.to_owned(), &decoder.final_norm, a.hidden_size)?;
        self.add_matrix(HEAD.to_owned(), &decoder.head, (a.vocab_size, a.hidden_size))
    }

    fn add_mixture(&mut self, layer_idx: usize, mixture: &OnnxMixture) -> Result<(), ToolError> {
        let a = self.architecture;
        self.add_matrix(router_weight(layer_idx), &mixture.router, Module::Router.shape(a))?;
        for projection in Projection::MLP {
            let (n, k) = Module::Expert { expert: 0, projection }.shape(a);
            let parts = mixture.experts.iter().map(|expert| {
                let linear = match projection {
                    Projection::Gate => &expert.gate,
                    Projection::Up => &expert.up,
                    _ => &expert.down,
                };
                self.files.matrix(linear, n, k)
            });
            let parts = parts.collect::<Result<Vec<_>, _>>()?;
            self.found.insert(experts_weight(layer_idx, projection), RowSource::stacked(parts, n));
        }
        Ok(())
    }

    fn add_norm(&mut self, name: String, norm: &Norm, len: usize) -> Result<(), ToolError> {
        self.found.insert(name, self.files.vector(&norm.weight, len)?);
        Ok(())
    }

    fn add_matrix(&mut self, name: String, linear: &Linear, (n, k): (usize, usize)) -> Result<(), ToolError> {
        self.found.insert(name, self.files.matrix(linear, n, k)?);
        Ok(())
    }
}

/// A head that is the embedding table is stored once.
fn is_tied(found: &BTreeMap<String, RowSource>, a: &Architecture) -> bool {
    let both = found.get(EMBEDDING).zip(found.get(HEAD));
    both.is_some_and(|(table, head)| equal_in_f16(table, head, a.vocab_size, a.hidden_size))
}

/// The id of `eos_token` in tokenizer_config.json; older exporters write no ids.
fn eos_of_tokenizer(directory: &Path) -> Result<Vec<u32>, ToolError> {
    let source = CheckpointTemplate::read(directory)?.source;
    let Some(token) = source.variables.token("eos_token") else { return Ok(Vec::new()) };
    let Some(json) = read_small_optional(&directory.join("tokenizer.json"))? else { return Ok(Vec::new()) };
    let tokenizer: serde_json::Value = serde_json::from_slice(&json).unwrap_or_default();
    let added = tokenizer["added_tokens"].as_array().into_iter().flatten();
    let id = added.into_iter().find(|entry| entry["content"] == token).and_then(|entry| entry["id"].as_u64());
    Ok(id.and_then(|id| u32::try_from(id).ok()).into_iter().collect())
}
