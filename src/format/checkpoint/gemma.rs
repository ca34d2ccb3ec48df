//! What the configuration of Gemma 3 says in its own way: nested text, defaults, two kinds of layers.
//!
//! Source: `Gemma3TextConfig` and `Gemma3Config` of transformers 4.57, `rope_parameters` of transformers 5.

use serde_json::{Map, Value, json};

use crate::format::FormatError;
use crate::format::error::unsupported;
use crate::format::json::Object;
use crate::format::rope::read_rope_scaling;
use crate::numbers::architecture::{Rope, RopeScaling};

/// The keys of the text model, with the class's own values where the file says nothing. Small files rely on them.
pub(super) fn with_defaults(text: &Map<String, Value>) -> Map<String, Value> {
    let mut map = text.clone();
    let defaults = json!({
        "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "max_position_embeddings": 131_072, "tie_word_embeddings": true, "sliding_window": 4096,
        "query_pre_attn_scalar": 256, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
        "hidden_activation": "gelu_pytorch_tanh", "eos_token_id": 1, "bos_token_id": 2,
    });
    for (key, value) in defaults.as_object().into_iter().flatten() {
        map.entry(key.clone()).or_insert_with(|| value.clone());
    }
    map
}

/// Values that would change the arithmetic and that no code here computes.
pub(super) fn refuse_unsupported(text: Object) -> Result<(), FormatError> {
    let activation = text.text("hidden_activation")?;
    if activation != "gelu_pytorch_tanh" {
        return Err(unsupported("hidden_activation", activation, "gelu_pytorch_tanh"));
    }
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if let Some(cap) = text.optional_number(key)? {
            return Err(unsupported(key, cap, "null"));
        }
    }
    if text.optional_flag("use_bidirectional_attention")?.unwrap_or(false) {
        return Err(unsupported("use_bidirectional_attention", true, "false"));
    }
    Ok(())
}

/// The rotation of layers that see everything, and theta of those with a window.
pub(super) fn read_ropes(text: Object) -> Result<(Rope, f64), FormatError> {
    const SLIDING: &str = "sliding_attention";
    const FULL: &str = "full_attention";
    let (theta, local_theta) = (text.number("rope_theta")?, text.number("rope_local_base_freq")?);
    let Some(tables) = text.optional_object("rope_parameters", "rope_parameters.")? else {
        let rope = Rope { theta, partial_factor: 1.0, scaling: read_rope_scaling(text, "rope_scaling")? };
        return Ok((rope, local_theta));
    };
    let theta_of = |kind: &str, otherwise: f64| -> Result<f64, FormatError> {
        match tables.optional_object(kind, "rope_parameters.")? {
            Some(table) => Ok(table.optional_number("rope_theta")?.unwrap_or(otherwise)),
            None => Ok(otherwise),
        }
    };
    if read_rope_scaling(tables, SLIDING)? != RopeScaling::None {
        return Err(unsupported("rope_type of sliding_attention", "a scaled one", "default"));
    }
    let scaling = read_rope_scaling(tables, FULL)?;
    Ok((
        Rope { theta: theta_of(FULL, theta)?, partial_factor: 1.0, scaling },
        theta_of(SLIDING, local_theta)?,
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::format::{FormatError, parse_checkpoint_config};
    use crate::numbers::architecture::{Architecture, Rope, RopeScaling};
    use crate::numbers::family::{Activation, Norms};

    fn parse(text: Value) -> Result<Architecture, FormatError> {
        let config = json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
            "eos_token_id": [1, 106], "text_config": text});
        let config = parse_checkpoint_config(config.to_string().as_bytes())?;
        assert_eq!((config.eos_token_ids, config.bos_token_id), (vec![1, 106], Some(2)));
        Ok(config.architecture)
    }

    /// The text part of a published 4B checkpoint's file, which leaves nearly everything to the class.
    fn short() -> Value {
        json!({"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
            "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024})
    }

    fn with(changes: Value) -> Value {
        let mut text = short();
        text.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        text
    }

    #[test]
    fn a_short_file_means_the_values_of_the_class() {
        let a = parse(short()).unwrap();
        assert_eq!((a.vocab_size, a.n_heads, a.n_kv_heads, a.head_dim), (262_208, 8, 4, 256));
        assert_eq!(
            a.rope,
            Rope { theta: 1e6, partial_factor: 1.0, scaling: RopeScaling::Linear { factor: 8.0 } }
        );
        assert_eq!(a.rope_of(0), Rope { theta: 1e4, partial_factor: 1.0, scaling: RopeScaling::None });
        assert_eq!(a.rope_of(5), a.rope);
        assert_eq!((a.window_of(4), a.window_of(5), a.window_of(6)), (Some(1024), None, Some(1024)));
        assert_eq!((a.activation, a.norms), (Activation::GeluTanh, Norms::BeforeAndAfter));
        assert!(a.tied_head && a.scaled_embedding && a.qk_norm && !a.qkv_bias);
        assert_eq!(
            (a.attention_scale(), a.embedding_scale()),
            (0.0625, Some(crate::numbers::round_to_f32(2560.0_f64.sqrt())))
        );
    }

    #[test]
    fn layers_and_rotations_are_told_in_several_ways() {
        let a = parse(with(json!({"sliding_window_pattern": 2}))).unwrap();
        assert_eq!((a.window_of(0), a.window_of(1)), (Some(1024), None));
        let types = json!(["full_attention", "sliding_attention"]);
        let a = parse(with(json!({"num_hidden_layers": 2, "layer_types": types}))).unwrap();
        assert_eq!(a.full_layers, [0]);
        let types = json!(["full_attention", "full_attention"]);
        let a = parse(with(json!({"num_hidden_layers": 2, "layer_types": types}))).unwrap();
        assert_eq!((a.sliding_window, a.local_rope_theta), (None, None));
        let tables = json!({"full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 3e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4}});
        let a = parse(with(json!({"rope_parameters": tables}))).unwrap();
        assert_eq!(
            a.rope,
            Rope { theta: 3e6, partial_factor: 1.0, scaling: RopeScaling::Linear { factor: 4.0 } }
        );
        assert_eq!(a.local_rope_theta, Some(2e4));
    }

    #[test]
    fn refuses_by_name() {
        let cases = [
            (json!({"final_logit_softcapping": 30.0}), "final_logit_softcapping"),
            (json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
            (json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
            (json!({"hidden_activation": "gelu"}), "hidden_activation"),
            (json!({"sliding_window_pattern": 0}), "sliding_window_pattern"),
            (json!({"query_pre_attn_scalar": -1}), "query_pre_attn_scalar"),
            (json!({"rope_local_base_freq": 0}), "rope_local_base_freq"),
            (json!({"layer_types": ["chunked_attention"]}), "layer_types"),
            (
                json!({"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2}}}),
                "sliding",
            ),
        ];
        for (changes, name) in cases {
            let error = parse(with(changes.clone())).unwrap_err().to_string();
            assert!(error.contains(name), "{changes}: {error}");
        }
    }
}
