//! The decoder that a GGUF file holds: its metadata as the `config.json` of a checkpoint, then what its tensors show.
//!
//! Source: docs/gguf.md of ggml, llama.cpp's converter. A key that changes the arithmetic is understood or refused.

use serde_json::{Value, json};

use super::file::GgufFile;
use super::metadata::{METADATA, missing};
use super::names::gguf_place;
use super::ropes::{LLAMA3_FACTORS, LONG_FACTORS, SHORT_FACTORS, llama3_factors, rope_scaling};
use crate::format::engine::items;
use crate::format::error::unsupported;
use crate::format::{FormatError, parse_checkpoint_config};
use crate::numbers::Precision;
use crate::numbers::architecture::Architecture;

/// `general.architecture`, and the class of checkpoints that computes the same.
const CLASSES: [(&str, &str); 5] = [
    ("llama", "LlamaForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("phi3", "Phi3ForCausalLM"),
    (GEMMA3, "Gemma3ForCausalLM"),
];
const GEMMA3: &str = "gemma3";
/// Layers of the 27B model, whose queries are scaled by another rule.
const GEMMA3_27B_LAYERS: usize = 62;
/// Every layer of so many has no window, where the file says nothing.
const GEMMA3_PATTERN: usize = 6;

/// Keys that no code here computes, and what they must be where they are there.
const REFUSED: [(&str, f64); 12] = [
    ("expert_count", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("final_logit_softcapping", 0.0),
    ("attention.scale", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attention.temperature_scale", 0.0),
    ("logit_scale", 0.0),
    ("embedding_scale", 0.0),
    ("residual_scale", 0.0),
    ("rope.scaling.yarn_log_multiplier", 0.0),
    ("leading_dense_block_count", 0.0),
];

/// What a file says of its decoder, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufDecoder {
    pub architecture: Architecture,
    /// Tensors that no part of the decoder is, in byte order.
    pub unused: Vec<String>,
}

/// Reads the decoder of a file whose bytes are `all`.
///
/// # Errors
/// [`FormatError::Unsupported`] names what is not computed here, [`FormatError::Key`] a value out of range.
pub fn read_decoder(file: &GgufFile, all: &[u8]) -> Result<GgufDecoder, FormatError> {
    let name = file.metadata.text("general.architecture")?;
    let name = name.ok_or_else(|| missing("general.architecture"))?;
    let Some((_, class)) = CLASSES.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = CLASSES.iter().map(|(known, _)| *known).collect();
        return Err(unsupported("architecture of a GGUF file", format!("{name:.60}"), &known.join(", ")));
    };
    let reader = Reader { file, all, prefix: name };
    reader.refuse_unsupported()?;
    let config = reader.config(class)?;
    let parsed = parse_checkpoint_config(config.to_string().as_bytes()).map_err(of_metadata)?;
    let mut architecture = parsed.architecture;
    let has = |name: &str| file.tensor(name).is_some();
    architecture.qkv_bias = has("blk.0.attn_q.bias");
    architecture.o_bias = has("blk.0.attn_output.bias");
    architecture.mlp_bias = has("blk.0.ffn_gate.bias");
    if let Some(scaling) = llama3_factors(file, all, &architecture)? {
        architecture.rope.scaling = scaling;
    }
    let unused = unused(file, &architecture);
    Ok(GgufDecoder { architecture, unused })
}

/// The configuration's own errors, with the name of what was read.
fn of_metadata(error: FormatError) -> FormatError {
    match error {
        FormatError::Key { key, wanted, found, .. } => {
            FormatError::Key { file: METADATA, key, wanted, found }
        }
        other => other,
    }
}

fn unused(file: &GgufFile, architecture: &Architecture) -> Vec<String> {
    let items = items(architecture, Precision::F32);
    let places = items.iter().filter_map(|item| gguf_place(architecture, item.name()));
    let used: std::collections::BTreeSet<String> = places.map(|place| place.tensor).collect();
    let factors = [LLAMA3_FACTORS, LONG_FACTORS, SHORT_FACTORS];
    let names = file.tensors().map(|(name, _)| name);
    names.filter(|name| !used.contains(*name) && !factors.contains(name)).map(str::to_owned).collect()
}

struct Reader<'f, 'a> {
    file: &'f GgufFile<'a>,
    all: &'f [u8],
    /// Of the architecture's keys.
    prefix: &'f str,
}

impl Reader<'_, '_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn size(&self, name: &str) -> Result<usize, FormatError> {
        let key = self.key(name);
        self.file.metadata.size(&key)?.ok_or_else(|| missing(&key))
    }

    fn optional_size(&self, name: &str) -> Result<Option<usize>, FormatError> {
        self.file.metadata.size(&self.key(name))
    }

    fn optional_number(&self, name: &str) -> Result<Option<f64>, FormatError> {
        self.file.metadata.number(&self.key(name))
    }

    fn refuse_unsupported(&self) -> Result<(), FormatError> {
        for (name, wanted) in REFUSED {
            if let Some(found) = self.optional_number(name)?.filter(|found| *found != wanted) {
                let found = format!("{} = {found}", self.key(name));
                return Err(unsupported("a key of the metadata", found, &wanted.to_string()));
            }
        }
        let causal = self.file.metadata.flag(&self.key("attention.causal"))?;
        if causal == Some(false) {
            return Err(unsupported("attention.causal", false, "true"));
        }
        Ok(())
    }

    /// What config.json would say.
    fn config(&self, class: &str) -> Result<Value, FormatError> {
        let n_heads = self.size("attention.head_count")?;
        let hidden_size = self.size("embedding_length")?;
        let head_dim = match self.optional_size("attention.key_length")? {
            Some(head_dim) => head_dim,
            None => hidden_size / n_heads.max(1),
        };
        if let Some(found) = self.optional_size("attention.value_length")?.filter(|found| *found != head_dim)
        {
            return Err(unsupported(
                "attention.value_length",
                found,
                &format!("attention.key_length {head_dim}"),
            ));
        }
        let rotary_dim = self.optional_size("rope.dimension_count")?.unwrap_or(head_dim);
        let window = self.optional_size("attention.sliding_window")?.filter(|window| *window > 0);
        // Files of both have the same architecture; only Mistral's have a window.
        let class =
            if class == "LlamaForCausalLM" && window.is_some() { "MistralForCausalLM" } else { class };
        let table = self.file.tensor("token_embd.weight");
        let table =
            table.ok_or_else(|| FormatError::MissingTensor { name: "token_embd.weight".to_owned() })?;
        let n_kv_heads = self.optional_size("attention.head_count_kv")?.unwrap_or(n_heads);
        let eps_key = "attention.layer_norm_rms_epsilon";
        let eps = self.optional_number(eps_key)?.ok_or_else(|| missing(&self.key(eps_key)))?;
        let partial = rotary_dim as f64 / head_dim.max(1) as f64;
        let mut config = json!({
            "architectures": [class],
            "vocab_size": table.shape[0],
            "hidden_size": hidden_size,
            "intermediate_size": self.size("feed_forward_length")?,
            "num_hidden_layers": self.size("block_count")?,
            "num_attention_heads": n_heads,
            "num_key_value_heads": n_kv_heads,
            "head_dim": head_dim,
            "rms_norm_eps": eps,
            "rope_theta": self.optional_number("rope.freq_base")?.unwrap_or(10_000.0),
            "partial_rotary_factor": partial,
            "rope_scaling": rope_scaling(self.file, self.all, self.prefix)?,
            "original_max_position_embeddings": self.optional_size("rope.scaling.original_context_length")?,
            "max_position_embeddings": self.size("context_length")?,
            "sliding_window": window,
            "tie_word_embeddings": self.file.tensor("output.weight").is_none(),
        });
        if self.prefix == GEMMA3 {
            let n_layers = self.size("block_count")?;
            let scalar = if n_layers == GEMMA3_27B_LAYERS { hidden_size / n_heads.max(1) } else { head_dim };
            config["query_pre_attn_scalar"] = scalar.into();
            let pattern = self.optional_size("attention.sliding_window_pattern")?.unwrap_or(GEMMA3_PATTERN);
            config["sliding_window_pattern"] = pattern.into();
            let local = self.optional_number("rope.freq_base_swa")?.unwrap_or(10_000.0);
            config["rope_local_base_freq"] = local.into();
        }
        Ok(config)
    }
}
