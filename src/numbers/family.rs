//! The families of decoders, each a row of what differs between them: a new one is a row here and, where its
//! configuration has keys of its own, a reader in `format::checkpoint`.
//!
//! Source: configuration and model classes of transformers 4.45 to 4.57.

/// The families that this program knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Qwen2,
    Qwen3,
    Llama,
    Mistral,
    /// Phi-3, Phi-3.5, Phi-4 and Phi-4-mini.
    Phi3,
    /// The text backbone of Phi-4-multimodal.
    Phi4Multimodal,
    /// The text backbone of Qwen2-VL; with text alone its positions are those of Qwen2.
    Qwen2Vl,
    /// The text backbone of Qwen2.5-VL.
    Qwen2_5Vl,
    /// The text backbone of Qwen3-VL.
    Qwen3Vl,
    /// Gemma 3, by itself or as the text backbone of the one with images.
    Gemma3,
    Qwen3Moe,
}

/// What a family has that others have not.
#[derive(Debug, Clone, Copy)]
pub struct FamilyRow {
    /// The name of the configuration class without its end, in lower case, as the workflow's exporter has it.
    pub name: &'static str,
    /// `architectures` and `model_type` of its checkpoints.
    pub classes: &'static [(&'static str, &'static str)],
    /// Checkpoints have q, k, v in one matrix, and gate, up in another.
    pub has_fused_projections: bool,
    /// A part of a model that also takes images; checkpoints and adapters may name it as such a part.
    pub is_backbone: bool,
    pub attention_bias: AttentionBias,
    /// `mlp_bias` counts.
    pub reads_mlp_bias: bool,
    /// Queries and keys are normalized per head.
    pub qk_norm: bool,
    pub window: WindowRule,
    pub activation: Activation,
    pub norms: Norms,
    /// Rows of the embedding are multiplied by the root of `hidden_size`.
    pub scaled_embedding: bool,
    /// The configuration class's `rms_norm_eps`.
    pub default_eps: f64,
    /// The configuration class's `rope_theta`.
    pub default_theta: f64,
    /// The configuration class's `head_dim`; else `hidden_size / num_attention_heads`.
    pub default_head_dim: Option<usize>,
    /// Without `num_key_value_heads` there are as many as heads; the classes of others have a number that fits one
    /// size of model, so the key must be there.
    pub may_lack_kv_heads: bool,
}

/// Which projections of attention have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionBias {
    /// None, whatever the configuration says.
    Never,
    /// q, k and v.
    Qkv,
    /// All four with `attention_bias`.
    Asked,
}

/// When layers see only a window of positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowRule {
    Never,
    /// With `sliding_window`, or where the class has one by itself.
    Always,
    /// Where `sliding_window` is written.
    Written,
    /// With `use_sliding_window`.
    Asked,
}

/// What the gate of an MLP goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// GELU by its tanh formula (`gelu_pytorch_tanh`).
    GeluTanh,
}

impl Activation {
    pub fn name(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_tanh",
        }
    }
}

/// Where the norms of a layer stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norms {
    /// Before attention and before the MLP.
    Before,
    /// Also on the outputs of both, before they are added (Gemma 3).
    BeforeAndAfter,
}

impl Norms {
    pub fn name(self) -> &'static str {
        match self {
            Norms::Before => "before",
            Norms::BeforeAndAfter => "before_and_after",
        }
    }

    /// Path inside a layer of the norm before the MLP.
    pub fn before_mlp(self) -> &'static str {
        match self {
            Norms::Before => "post_attention_layernorm",
            Norms::BeforeAndAfter => "pre_feedforward_layernorm",
        }
    }

    /// Paths inside a layer of the norms of the outputs of attention and MLP.
    pub fn after(self) -> Option<[&'static str; 2]> {
        match self {
            Norms::Before => None,
            Norms::BeforeAndAfter => Some(["post_attention_layernorm", "post_feedforward_layernorm"]),
        }
    }
}

/// What most have.
const USUAL: FamilyRow = FamilyRow {
    name: "",
    classes: &[],
    has_fused_projections: false,
    is_backbone: false,
    attention_bias: AttentionBias::Never,
    reads_mlp_bias: false,
    qk_norm: false,
    window: WindowRule::Never,
    activation: Activation::Silu,
    norms: Norms::Before,
    scaled_embedding: false,
    default_eps: 1e-6,
    default_theta: 10_000.0,
    default_head_dim: None,
    may_lack_kv_heads: false,
};

const QWEN2: FamilyRow = FamilyRow {
    name: "qwen2",
    classes: &[("Qwen2ForCausalLM", "qwen2")],
    attention_bias: AttentionBias::Qkv,
    window: WindowRule::Asked,
    ..USUAL
};
const QWEN3: FamilyRow = FamilyRow {
    name: "qwen3",
    classes: &[("Qwen3ForCausalLM", "qwen3")],
    attention_bias: AttentionBias::Asked,
    qk_norm: true,
    window: WindowRule::Asked,
    default_head_dim: Some(128),
    ..USUAL
};
const LLAMA: FamilyRow = FamilyRow {
    name: "llama",
    classes: &[("LlamaForCausalLM", "llama")],
    attention_bias: AttentionBias::Asked,
    reads_mlp_bias: true,
    may_lack_kv_heads: true,
    ..USUAL
};
const MISTRAL: FamilyRow = FamilyRow {
    name: "mistral",
    classes: &[("MistralForCausalLM", "mistral")],
    window: WindowRule::Always,
    ..USUAL
};
const PHI3: FamilyRow = FamilyRow {
    name: "phi3",
    classes: &[("Phi3ForCausalLM", "phi3")],
    has_fused_projections: true,
    window: WindowRule::Written,
    default_eps: 1e-5,
    may_lack_kv_heads: true,
    ..USUAL
};
// Two classes: of transformers, and of the code that came with the model.
const PHI4_MULTIMODAL: FamilyRow = FamilyRow {
    name: "phi4mm",
    classes: &[("Phi4MultimodalForCausalLM", "phi4_multimodal"), ("Phi4MMForCausalLM", "phi4mm")],
    has_fused_projections: true,
    is_backbone: true,
    window: WindowRule::Written,
    default_eps: 1e-5,
    ..USUAL
};
const QWEN2_VL: FamilyRow = FamilyRow {
    name: "qwen2vl",
    classes: &[("Qwen2VLForConditionalGeneration", "qwen2_vl")],
    is_backbone: true,
    attention_bias: AttentionBias::Qkv,
    window: WindowRule::Asked,
    default_eps: 1e-5,
    default_theta: 1_000_000.0,
    ..USUAL
};
const QWEN2_5_VL: FamilyRow = FamilyRow {
    name: "qwen2_5_vl",
    classes: &[("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl")],
    ..QWEN2_VL
};
const QWEN3_VL: FamilyRow = FamilyRow {
    name: "qwen3vl",
    classes: &[("Qwen3VLForConditionalGeneration", "qwen3_vl")],
    is_backbone: true,
    attention_bias: AttentionBias::Asked,
    qk_norm: true,
    default_theta: 5_000_000.0,
    default_head_dim: Some(128),
    ..USUAL
};
const GEMMA3: FamilyRow = FamilyRow {
    name: "gemma3",
    classes: &[("Gemma3ForCausalLM", "gemma3_text"), ("Gemma3ForConditionalGeneration", "gemma3")],
    is_backbone: true,
    attention_bias: AttentionBias::Asked,
    qk_norm: true,
    window: WindowRule::Always,
    activation: Activation::GeluTanh,
    norms: Norms::BeforeAndAfter,
    scaled_embedding: true,
    ..USUAL
};
const QWEN3_MOE: FamilyRow = FamilyRow {
    name: "qwen3moe",
    classes: &[("Qwen3MoeForCausalLM", "qwen3_moe")],
    attention_bias: AttentionBias::Asked,
    qk_norm: true,
    window: WindowRule::Asked,
    ..USUAL
};

impl Family {
    pub const ALL: [Family; 11] = [
        Family::Qwen2,
        Family::Qwen3,
        Family::Llama,
        Family::Mistral,
        Family::Phi3,
        Family::Phi4Multimodal,
        Family::Qwen2Vl,
        Family::Qwen2_5Vl,
        Family::Qwen3Vl,
        Family::Gemma3,
        Family::Qwen3Moe,
    ];

    /// What differs.
    pub const fn row(self) -> FamilyRow {
        match self {
            Family::Qwen2 => QWEN2,
            Family::Qwen3 => QWEN3,
            Family::Llama => LLAMA,
            Family::Mistral => MISTRAL,
            Family::Phi3 => PHI3,
            Family::Phi4Multimodal => PHI4_MULTIMODAL,
            Family::Qwen2Vl => QWEN2_VL,
            Family::Qwen2_5Vl => QWEN2_5_VL,
            Family::Qwen3Vl => QWEN3_VL,
            Family::Gemma3 => GEMMA3,
            Family::Qwen3Moe => QWEN3_MOE,
        }
    }

    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The family of that name, as engines and ONNX directories have it.
    ///
    /// # Errors
    /// [`UnknownFamily`]
    pub fn from_name(name: &str) -> Result<Self, UnknownFamily> {
        // Other exporters name the classes of transformers, and those of backbones.
        let plain =
            if name == "phi4multimodal" { "phi4mm" } else { name.strip_suffix("text").unwrap_or(name) };
        let mut all = Family::ALL.into_iter();
        all.find(|family| family.name() == plain).ok_or_else(|| UnknownFamily(name.to_owned()))
    }
}

/// A name that no family has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("family is not supported: {0}; supported: {all}", all = Family::ALL.map(Family::name).join(", "))]
pub struct UnknownFamily(String);
