//! `config.json` of an ONNX directory: what the graph does not say of the decoder.

use serde_json::json;

use crate::format::FormatError;
use crate::format::bounds::check_architecture;
use crate::format::json::{Object, parse_object, sorted_text};
use crate::format::rope::read_rope_scaling;
use crate::format::workflow::workflow_json;
use crate::numbers::architecture::{Architecture, Rope};
use crate::numbers::family::{Activation, Family, Norms};

const FILE: &str = "config.json";

/// The file, as the workflow's exporters and this program's write it; every size is in range.
#[derive(Debug, Clone, PartialEq)]
pub struct OnnxConfig {
    /// The graph decides over eps, biases, norms of heads and the head; here they are those of no graph.
    pub architecture: Architecture,
    /// Empty where the file does not say.
    pub eos_token_ids: Vec<u32>,
    pub bos_token_id: Option<u32>,
}

impl OnnxConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// [`FormatError`] with the key.
    pub fn from_json(bytes: &[u8]) -> Result<Self, FormatError> {
        let map = parse_object(FILE, bytes)?;
        let top = Object { file: FILE, path: "", map: &map };
        for key in ["num_deepstack_features", "reduced_vocab_size"] {
            if let Some(found) = top.optional_size(key)?.filter(|size| *size > 0) {
                let supported = "a plain language model".to_owned();
                return Err(FormatError::Unsupported { what: key, found: found.to_string(), supported });
            }
        }
        let architecture = Architecture {
            family: Family::from_name(top.text("model")?)?,
            vocab_size: top.size("vocab_size")?,
            hidden_size: top.size("hidden_size")?,
            intermediate_size: top.size("intermediate_size")?,
            n_layers: top.size("num_hidden_layers")?,
            n_heads: top.size("num_attention_heads")?,
            n_kv_heads: top.size("num_key_value_heads")?,
            head_dim: top.size("head_dim")?,
            rms_norm_eps: 1e-6,
            rope: Rope {
                theta: top.number("rope_theta")?,
                partial_factor: top.optional_number("partial_rotary_factor")?.unwrap_or(1.0),
                scaling: read_rope_scaling(top, "rope_scaling")?,
            },
            max_positions: top.size("max_position_embeddings")?,
            tied_head: false,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
            // Only this program's exporter writes these; the graph's masks and inputs hold them.
            sliding_window: top.optional_size("sliding_window")?,
            full_layers: top.layer_list("full_layers")?,
            local_rope_theta: top.optional_number("local_rope_theta")?,
            attention_scalar: top.optional_number("attention_scalar")?,
            activation: Activation::Silu,
            norms: Norms::Before,
            scaled_embedding: false,
            experts: None,
        };
        check_architecture(&architecture, FILE)?;
        let eos_token_ids = top.token_ids("eos_token_id")?;
        Ok(Self {
            architecture,
            eos_token_ids,
            bos_token_id: top.token_ids("bos_token_id")?.first().copied(),
        })
    }
}

/// The file for an exported decoder: the workflow's keys, and those that this program needs.
pub fn onnx_config_json(
    a: &Architecture,
    eos_token_ids: &[u32],
    bos_token_id: Option<u32>,
    dtype: &str,
) -> String {
    let mut value = workflow_json(a, eos_token_ids, bos_token_id);
    value["sliding_window"] = a.sliding_window.into();
    if !a.full_layers.is_empty() {
        value["full_layers"] = json!(a.full_layers);
    }
    for (key, number) in [("local_rope_theta", a.local_rope_theta), ("attention_scalar", a.attention_scalar)]
    {
        if let Some(number) = number {
            value[key] = json!(number);
        }
    }
    value["onnx"] = json!({ "producer": "jetspool", "dtype": dtype });
    sorted_text(&value)
}
