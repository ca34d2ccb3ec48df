//! Where checkpoints keep what an engine calls `model.layers.0.self_attn.q_proj.weight`.
//!
//! Three things differ from the plain names: a backbone of a larger model has another prefix, Phi's layers have
//! fused matrices, and Phi-4-multimodal's own code wraps each of them with adapters beside it.
//! Source: the checkpoints of transformers 4.45 to 4.57, and `modeling_phi4mm.py` of Phi-4-multimodal.

use std::ops::Range;

use super::architecture::{Architecture, Family, Projection};
use super::engine::HEAD;

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

/// A linear layer as checkpoints and adapters have it: one projection, or several whose outputs stand one
/// behind another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Module {
    One(Projection),
    /// q, k, v.
    Qkv,
    /// Gate, up.
    GateUp,
    /// Chooses the experts of a mixture.
    Router,
    /// Gate, up or down of one expert.
    Expert {
        expert: usize,
        projection: Projection,
    },
}

impl Module {
    /// Path inside a layer; of an expert's projection, inside the expert.
    pub fn path(self) -> &'static str {
        match self {
            Module::One(projection) => projection.path(),
            Module::Qkv => "self_attn.qkv_proj",
            Module::GateUp => "mlp.gate_up_proj",
            Module::Router => "mlp.gate",
            Module::Expert { projection, .. } => projection.short_name(),
        }
    }

    /// The module with that path inside a layer.
    pub fn at(path: &str) -> Option<Self> {
        if let Some((number, name)) = path.strip_prefix("mlp.experts.").and_then(|rest| rest.split_once('.'))
        {
            let expert: usize = number.parse().ok()?;
            let projection =
                Projection::MLP.into_iter().find(|projection| projection.short_name() == name)?;
            // "07" and "+7" are other names than "7".
            return (expert.to_string() == number).then_some(Module::Expert { expert, projection });
        }
        let named = Self::all(Family::Phi3).into_iter().chain([Module::Router]);
        named.into_iter().find(|module| module.path() == path)
    }

    /// The linear layers of a family's checkpoints.
    pub fn of_layer(family: Family) -> Vec<Self> {
        if !family.has_fused_projections() {
            return Projection::ALL.map(Module::One).to_vec();
        }
        vec![Module::Qkv, Module::One(Projection::O), Module::GateUp, Module::One(Projection::Down)]
    }

    /// Those that adapters of a family may change.
    pub fn all(family: Family) -> Vec<Self> {
        let fused = [Module::Qkv, Module::GateUp];
        let fused = if family.has_fused_projections() { &fused[..] } else { &[] };
        Projection::ALL.map(Module::One).into_iter().chain(fused.iter().copied()).collect()
    }

    /// The last part of the path.
    pub fn short_name(self) -> &'static str {
        self.path().rsplit_once('.').map_or(self.path(), |(_, last)| last)
    }

    pub fn is_fused(self) -> bool {
        matches!(self, Module::Qkv | Module::GateUp)
    }

    /// Whether that layer has it.
    pub fn is_in(self, architecture: &Architecture, layer: usize) -> bool {
        let experts = architecture.experts_of(layer);
        let is_dense = |projection: &Projection| experts.is_none() || !Projection::MLP.contains(projection);
        layer < architecture.n_layers
            && match self {
                Module::One(projection) => is_dense(&projection),
                Module::Qkv | Module::GateUp => architecture.family.has_fused_projections(),
                Module::Router => experts.is_some(),
                Module::Expert { expert, .. } => experts.is_some_and(|experts| expert < experts.n_experts),
            }
    }

    /// `(out_features, in_features)`
    pub fn shape(self, architecture: &Architecture) -> (usize, usize) {
        let hidden_size = architecture.hidden_size;
        match (self, &architecture.experts) {
            (Module::Router, Some(experts)) => return (experts.n_experts, hidden_size),
            (Module::Expert { projection, .. }, Some(experts)) => {
                return experts.shape(projection, hidden_size).unwrap_or_default();
            }
            _ => {}
        }
        let parts = self.parts(architecture);
        let n_outputs = parts.last().map_or(0, |(_, columns)| columns.end);
        let n_inputs = parts.first().map_or(0, |(part, _)| architecture.projection_shape(*part).1);
        (n_outputs, n_inputs)
    }

    /// Its projections, in the order of their outputs; those of a mixture are none of the layer's seven.
    pub fn projections(self) -> Vec<Projection> {
        match self {
            Module::One(projection) => vec![projection],
            Module::Qkv => vec![Projection::Q, Projection::K, Projection::V],
            Module::GateUp => vec![Projection::Gate, Projection::Up],
            Module::Router | Module::Expert { .. } => Vec::new(),
        }
    }

    /// Its projections with their outputs.
    pub fn parts(self, architecture: &Architecture) -> Vec<(Projection, Range<usize>)> {
        let mut first = 0;
        let mut part = |projection: Projection| {
            let outputs = first..first + architecture.projection_shape(projection).0;
            first = outputs.end;
            (projection, outputs)
        };
        self.projections().into_iter().map(&mut part).collect()
    }
}

/// Where the tensor that an engine calls `name` may be, the first one found counts.
pub fn places(architecture: &Architecture, name: &str) -> Vec<Place> {
    let whole = |tensor: String| Place { tensor, fused: None };
    let mut places: Vec<Place> = prefixed(architecture.family, name).into_iter().map(whole).collect();
    if !architecture.family.has_fused_projections() {
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
    if !family.is_backbone() || family == Family::Phi4Multimodal {
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
    /// A part that reads images or sound.
    Tower,
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
    if !family.is_backbone() {
        return None;
    }
    if TOWERS.iter().any(|tower| name.starts_with(tower)) {
        return Some(Beside::Tower);
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
        assert_eq!(beside(phi, "model.embed_tokens_extend.image_embed.x"), Some(Beside::Tower));
        assert_eq!(beside(phi, "model.layers.0.mlp.other.weight"), None);
        assert_eq!(beside(Family::Qwen2, "visual.x"), None);
        assert_eq!(beside(Family::Qwen2_5Vl, "visual.blocks.0.attn.qkv.weight"), Some(Beside::Tower));
    }
}
