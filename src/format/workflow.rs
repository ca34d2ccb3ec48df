//! The keys that the workflow's own programs read of a decoder's configuration: engines and exported decoders have them.

use serde_json::{Value, json};

use super::json::exact;
use super::rope::{original_max_positions, rope_scaling_json};
use crate::numbers::architecture::Architecture;

/// An object with these keys.
pub fn workflow_json(a: &Architecture, eos_token_ids: &[u32], bos_token_id: Option<u32>) -> Value {
    let mut value = json!({
        "model": a.family.name(),
        "model_type": "llm",
        "vocab_size": a.vocab_size,
        "hidden_size": a.hidden_size,
        "intermediate_size": a.intermediate_size,
        "num_hidden_layers": a.n_layers,
        "num_attention_heads": a.n_heads,
        "num_key_value_heads": a.n_kv_heads,
        "head_dim": a.head_dim,
        "max_position_embeddings": a.max_positions,
        "rms_norm_eps": exact(a.rms_norm_eps),
        "rope_theta": a.rope.theta,
        "rope_scaling": rope_scaling_json(&a.rope.scaling),
        "partial_rotary_factor": a.rope.partial_factor,
        "num_deepstack_features": 0,
        "eos_token_id": eos_token_ids,
        "bos_token_id": bos_token_id,
    });
    if let Some(positions) = original_max_positions(&a.rope.scaling) {
        value["original_max_position_embeddings"] = positions.into();
    }
    value
}
