//! What a configuration says of a mixture of experts (Qwen3-MoE).
//!
//! Source: `Qwen3MoeConfig` of transformers 4.57; where a key is absent, the value of that class holds.

use crate::format::FormatError;
use crate::format::json::Object;
use crate::numbers::architecture::Experts;

/// The mixture and its layers; none when no layer has one.
///
/// # Errors
/// [`FormatError::Key`] for a value of another type.
pub(super) fn read_experts(top: Object, n_layers: usize) -> Result<Option<Experts>, FormatError> {
    let step = top.optional_size("decoder_sparse_step")?.unwrap_or(1);
    if step == 0 {
        return Err(top.wrong("decoder_sparse_step", "a whole number above 0"));
    }
    let dense = top.layer_list("mlp_only_layers")?;
    let experts = Experts {
        n_experts: top.optional_size("num_experts")?.unwrap_or(128),
        n_used: top.optional_size("num_experts_per_tok")?.unwrap_or(8),
        intermediate_size: top.optional_size("moe_intermediate_size")?.unwrap_or(768),
        normalized: top.optional_flag("norm_topk_prob")?.unwrap_or(false),
        dense_layers: (0..n_layers)
            .filter(|layer| dense.contains(layer) || !(layer + 1).is_multiple_of(step))
            .collect(),
    };
    let has_mixture = experts.n_experts > 0 && experts.dense_layers.len() < n_layers;
    Ok(has_mixture.then_some(experts))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::format::{FormatError, parse_checkpoint_config};
    use crate::numbers::architecture::Architecture;

    fn parse_with(changes: Value) -> Result<Architecture, FormatError> {
        let mut config = json!({"architectures": ["Qwen3MoeForCausalLM"], "vocab_size": 100, "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 128});
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        parse_checkpoint_config(config.to_string().as_bytes()).map(|config| config.architecture)
    }

    #[test]
    fn layers_are_sparse_by_step_and_list() {
        let a = parse_with(json!({"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
            "decoder_sparse_step": 2, "mlp_only_layers": [3]}));
        let a = a.unwrap();
        let experts = a.experts_of(1).unwrap();
        assert_eq!((experts.n_experts, experts.n_used, experts.intermediate_size), (6, 2, 32));
        assert_eq!((experts.normalized, &experts.dense_layers[..]), (false, &[0, 2, 3][..]));
        assert!(a.experts_of(0).is_none() && a.qk_norm && a.head_dim == 16);
        assert!(parse_with(json!({"num_experts": 0})).unwrap().experts.is_none());
        assert!(parse_with(json!({"mlp_only_layers": [0, 1, 2, 3]})).unwrap().experts.is_none());
        let a = parse_with(json!({"use_sliding_window": true, "sliding_window": 9})).unwrap();
        let experts = a.experts_of(3).unwrap();
        assert_eq!((a.window_of(0), experts.n_experts, experts.n_used), (Some(9), 128, 8));
    }

    #[test]
    fn refuses_by_name() {
        let cases = [
            (json!({"decoder_sparse_step": 0}), "decoder_sparse_step"),
            (json!({"mlp_only_layers": "all"}), "mlp_only_layers"),
            (json!({"num_experts": 4}), "num_experts_per_tok"),
            (json!({"num_experts": 1_000_000}), "num_experts"),
            (json!({"moe_intermediate_size": 0}), "moe_intermediate_size"),
            (json!({"norm_topk_prob": 1}), "norm_topk_prob"),
        ];
        for (changes, name) in cases {
            let error = parse_with(changes.clone()).unwrap_err().to_string();
            assert!(error.contains(name), "{changes}: {error}");
        }
    }
}
