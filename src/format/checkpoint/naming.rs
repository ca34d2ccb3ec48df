//! Where checkpoints keep what an engine calls `model.layers.0.self_attn.q_proj.weight`.
//!
//! Three things differ from the plain names: a backbone of a larger model has another prefix, Phi's layers have
//! fused matrices, and Phi-4-multimodal's own code wraps each of them with adapters beside it.
//! Source: the checkpoints of transformers 4.45 to 4.57, and `modeling_phi4mm.py` of Phi-4-multimodal.

use std::ops::Range;

use crate::format::engine::HEAD;
use crate::numbers::Module;
use crate::numbers::architecture::Architecture;
use crate::numbers::family::Family;

/// A tensor of a checkpoint, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub tensor: String,
    /// None for the whole tensor.
    pub fused: Option<Fused>,
}

/// The rows of a fused matrix that belong to one projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fused {
    pub rows: Range<usize>,
    /// Of the whole matrix.
    pub shape: [usize; 2],
}

/// Where the tensor that an engine calls `name` may be, the first one found counts.
pub fn places(architecture: &Architecture, name: &str) -> Vec<Place> {
    let whole = |tensor: String| Place { tensor, fused: None };
    let mut places: Vec<Place> = prefixed(architecture.family, name).into_iter().map(whole).collect();
    if !architecture.family.row().has_fused_projections {
        return places;
    }
    if let Some(fused) = fused_place(architecture, name) {
        places.insert(0, fused);
    }
    if architecture.family == Family::Phi4Multimodal {
        let wrapped = |place: &Place| {
            let tensor = format!("{}.base_layer.weight", place.tensor.strip_suffix(".weight")?);
            Some(Place { tensor, fused: place.fused.clone() })
        };
        let wrapped: Vec<Place> = places.iter().filter_map(wrapped).collect();
        places.extend(wrapped);
    }
    places
}

/// The plain name, and those of a backbone.
fn prefixed(family: Family, name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    if !family.row().is_backbone || family == Family::Phi4Multimodal {
        return names;
    }
    if let Some(inner) = name.strip_prefix("model.") {
        names.insert(0, format!("model.language_model.{inner}"));
        names.push(format!("language_model.{name}"));
    } else if name == HEAD {
        names.push(format!("language_model.{name}"));
    }
    names
}

/// `….self_attn.k_proj.weight` as rows of `….self_attn.qkv_proj.weight`.
fn fused_place(architecture: &Architecture, name: &str) -> Option<Place> {
    let path = name.strip_suffix(".weight")?;
    for module in [Module::Qkv, Module::GateUp] {
        for (projection, rows) in module.parts(architecture) {
            let Some(layer) = path.strip_suffix(projection.path()) else { continue };
            let (n_outputs, n_inputs) = module.shape(architecture);
            let fused = Some(Fused { rows, shape: [n_outputs, n_inputs] });
            return Some(Place { tensor: format!("{layer}{}.weight", module.path()), fused });
        }
    }
    None
}

/// What else a checkpoint of a larger model holds, and why an engine leaves it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beside<'a> {
    /// A part that reads images or sound, by the start of its tensors' names.
    Tower(&'static str),
    /// An adapter of the checkpoint's own, by name.
    OwnAdapter(&'a str),
}

/// What a tensor is that the backbone does not have; none for a plain model, or where it is not known.
pub fn beside(family: Family, name: &str) -> Option<Beside<'_>> {
    const TOWERS: [&str; 7] = [
        "visual.",
        "model.visual.",
        "model.embed_tokens_extend.",
        "model.vision_tower.",
        "vision_tower.",
        "model.multi_modal_projector.",
        "multi_modal_projector.",
    ];
    if !family.row().is_backbone {
        return None;
    }
    if let Some(tower) = TOWERS.into_iter().find(|tower| name.starts_with(tower)) {
        return Some(Beside::Tower(tower));
    }
    let path = name.strip_suffix(".weight")?;
    let after = |marker| path.split_once(marker).map(|(_, adapter)| adapter);
    after(".lora_A.").or_else(|| after(".lora_B.")).map(Beside::OwnAdapter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::parse_checkpoint_config;

    /// Hidden 8, 3 heads of 4 on one key-value head, intermediate 10.
    fn architecture(class: &str) -> Architecture {
        let config = format!(
            r#"{{"architectures": ["{class}"], "vocab_size": 9, "hidden_size": 8, "intermediate_size": 10,
            "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 4,
            "max_position_embeddings": 16}}"#
        );
        parse_checkpoint_config(config.as_bytes()).unwrap().architecture
    }

    #[test]
    fn finds_names_and_rows() {
        struct Case {
            class: &'static str,
            name: &'static str,
            /// `tensor` or `tensor[rows]`, in order.
            places: &'static [&'static str],
        }
        let cases = [
            Case {
                class: "LlamaForCausalLM",
                name: "model.layers.1.self_attn.k_proj.weight",
                places: &["model.layers.1.self_attn.k_proj.weight"],
            },
            Case {
                class: "Phi3ForCausalLM",
                name: "model.layers.1.self_attn.k_proj.weight",
                places: &[
                    "model.layers.1.self_attn.qkv_proj.weight[12..16 of 20x8]",
                    "model.layers.1.self_attn.k_proj.weight",
                ],
            },
            Case {
                class: "Phi3ForCausalLM",
                name: "model.layers.0.mlp.up_proj.weight",
                places: &[
                    "model.layers.0.mlp.gate_up_proj.weight[10..20 of 20x8]",
                    "model.layers.0.mlp.up_proj.weight",
                ],
            },
            Case { class: "Phi3ForCausalLM", name: "model.norm.weight", places: &["model.norm.weight"] },
            Case {
                class: "Phi4MMForCausalLM",
                name: "model.layers.0.self_attn.v_proj.weight",
                places: &[
                    "model.layers.0.self_attn.qkv_proj.weight[16..20 of 20x8]",
                    "model.layers.0.self_attn.v_proj.weight",
                    "model.layers.0.self_attn.qkv_proj.base_layer.weight[16..20 of 20x8]",
                    "model.layers.0.self_attn.v_proj.base_layer.weight",
                ],
            },
            Case {
                class: "Qwen2_5_VLForConditionalGeneration",
                name: "model.layers.0.self_attn.v_proj.bias",
                places: &[
                    "model.language_model.layers.0.self_attn.v_proj.bias",
                    "model.layers.0.self_attn.v_proj.bias",
                    "language_model.model.layers.0.self_attn.v_proj.bias",
                ],
            },
            Case {
                class: "Qwen3VLForConditionalGeneration",
                name: "lm_head.weight",
                places: &["lm_head.weight", "language_model.lm_head.weight"],
            },
        ];
        for case in cases {
            let shown = |place: &Place| match &place.fused {
                None => place.tensor.clone(),
                Some(Fused { rows, shape: [n, k] }) => {
                    format!("{}[{}..{} of {n}x{k}]", place.tensor, rows.start, rows.end)
                }
            };
            let found: Vec<String> = places(&architecture(case.class), case.name).iter().map(shown).collect();
            assert_eq!(found, case.places, "{} {}", case.class, case.name);
        }
    }

    #[test]
    fn knows_what_stands_beside() {
        let phi = Family::Phi4Multimodal;
        let lora = "model.layers.0.mlp.down_proj.lora_A.vision.weight";
        assert_eq!(beside(phi, lora), Some(Beside::OwnAdapter("vision")));
        assert_eq!(
            beside(phi, "model.embed_tokens_extend.image_embed.x"),
            Some(Beside::Tower("model.embed_tokens_extend."))
        );
        assert_eq!(beside(phi, "model.layers.0.mlp.other.weight"), None);
        assert_eq!(beside(Family::Qwen2, "visual.x"), None);
        assert_eq!(
            beside(Family::Qwen2_5Vl, "visual.blocks.0.attn.qkv.weight"),
            Some(Beside::Tower("visual."))
        );
    }
}
