//! The shape of a decoder: what `model` needs to know of a checkpoint, validated.
//!
//! Source: the `config.json` of Hugging Face transformers for Qwen2, Qwen3, Llama, Mistral, Phi-3 and the text
//! backbones of Phi-4-multimodal, Qwen2-VL, Qwen2.5-VL and Qwen3-VL.

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
}

impl Family {
    /// Checkpoints have q, k, v in one matrix, and gate, up in another.
    pub fn has_fused_projections(self) -> bool {
        matches!(self, Family::Phi3 | Family::Phi4Multimodal)
    }

    /// A part of a model that also takes images; checkpoints and adapters may name it as such a part.
    pub fn is_backbone(self) -> bool {
        matches!(self, Family::Phi4Multimodal | Family::Qwen2Vl | Family::Qwen2_5Vl | Family::Qwen3Vl)
    }
}

/// A decoder-only transformer: pre-norm, RMSNorm, rotary positions, gated SiLU MLP, grouped-query attention.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    pub family: Family,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    /// Divides `n_heads`.
    pub n_kv_heads: usize,
    /// Even.
    pub head_dim: usize,
    pub rms_norm_eps: f32,
    pub rope: Rope,
    pub max_positions: usize,
    /// The head is the embedding table.
    pub tied_head: bool,
    /// q, k and v projections have a bias (Qwen2).
    pub qkv_bias: bool,
    /// The output projection has a bias (Llama with `attention_bias`).
    pub o_bias: bool,
    /// Gate, up and down projections have a bias (Llama with `mlp_bias`).
    pub mlp_bias: bool,
    /// Queries and keys are normalized per head (Qwen3).
    pub qk_norm: bool,
    /// A position sees only the last `window` positions, itself included (Mistral).
    pub sliding_window: Option<usize>,
}

/// Rotary embedding of positions; pairs are `(i, i + rotary_dim / 2)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    pub theta: f64,
    /// The share of a head, from its start, that is rotated; above 0, at most 1.
    pub partial_factor: f64,
    pub scaling: RopeScaling,
}

/// How the rotary frequencies are stretched for longer contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    /// All frequencies divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between
    /// (transformers `modeling_rope_utils._compute_llama3_parameters`).
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_positions: usize,
    },
    /// Phi-3: each frequency divided by its own factor, and cosines and sines multiplied. Which table counts is
    /// decided once for an engine, by its capacity.
    LongRope {
        /// For engines of at most `original_max_positions` positions.
        short: LongRopeTable,
        long: LongRopeTable,
        original_max_positions: usize,
    },
}

/// One of the two tables of LongRoPE (transformers `modeling_rope_utils._compute_longrope_parameters`).
#[derive(Debug, Clone, PartialEq)]
pub struct LongRopeTable {
    /// `[rotary_dim / 2]`
    pub factors: Vec<f64>,
    /// Multiplies cosines and sines.
    pub attention_factor: f64,
}

/// The seven projections of a layer that quantization and adapters know by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Projection {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl Projection {
    pub const ALL: [Projection; 7] = [
        Projection::Q,
        Projection::K,
        Projection::V,
        Projection::O,
        Projection::Gate,
        Projection::Up,
        Projection::Down,
    ];

    /// Path inside a layer, as in checkpoints: `self_attn.q_proj`.
    pub fn path(self) -> &'static str {
        match self {
            Projection::Q => "self_attn.q_proj",
            Projection::K => "self_attn.k_proj",
            Projection::V => "self_attn.v_proj",
            Projection::O => "self_attn.o_proj",
            Projection::Gate => "mlp.gate_proj",
            Projection::Up => "mlp.up_proj",
            Projection::Down => "mlp.down_proj",
        }
    }

    /// The last part of the path, as `target_modules` of adapters has it: `q_proj`.
    pub fn short_name(self) -> &'static str {
        self.path().rsplit_once('.').map_or(self.path(), |(_, last)| last)
    }
}

impl Architecture {
    /// `(out_features, in_features)` of a projection.
    pub fn projection_shape(&self, projection: Projection) -> (usize, usize) {
        let q_size = self.n_heads * self.head_dim;
        let kv_size = self.n_kv_heads * self.head_dim;
        match projection {
            Projection::Q => (q_size, self.hidden_size),
            Projection::K | Projection::V => (kv_size, self.hidden_size),
            Projection::O => (self.hidden_size, q_size),
            Projection::Gate | Projection::Up => (self.intermediate_size, self.hidden_size),
            Projection::Down => (self.hidden_size, self.intermediate_size),
        }
    }

    /// Elements of a head, from its start, that are rotated.
    pub fn rotary_dim(&self) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let rotated = (self.head_dim as f64 * self.rope.partial_factor) as usize;
        rotated
    }

    /// Whether a projection carries a bias vector of `out_features` elements.
    pub fn has_bias(&self, projection: Projection) -> bool {
        match projection {
            Projection::Q | Projection::K | Projection::V => self.qkv_bias,
            Projection::O => self.o_bias,
            Projection::Gate | Projection::Up | Projection::Down => self.mlp_bias,
        }
    }
}
