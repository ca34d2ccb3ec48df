//! The shape of a decoder: what `model` needs to know of a checkpoint, validated.
//!
//! Source: the `config.json` of Hugging Face transformers for Qwen2, Qwen3, Qwen3-MoE, Llama, Mistral, Phi-3, and
//! the text backbones of Gemma 3, Phi-4-multimodal, Qwen2-VL, Qwen2.5-VL and Qwen3-VL.

use super::family::{Activation, Family, Norms};
use super::rounding::round_to_f32;

/// Elements of a head, at most.
pub const MAX_HEAD_DIM: usize = 1 << 11;

/// A decoder-only transformer: pre-norm, RMSNorm, rotary positions, gated MLP, grouped-query attention.
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
    /// Layers that see every position though there is a window (Gemma 3), rising.
    pub full_layers: Vec<usize>,
    /// theta of the layers with the window, where it is their own (Gemma 3); their frequencies are not scaled.
    pub local_rope_theta: Option<f64>,
    /// Scores are divided by the root of it; none: of `head_dim` (Gemma 3: `query_pre_attn_scalar`).
    pub attention_scalar: Option<f64>,
    pub activation: Activation,
    pub norms: Norms,
    /// Rows of the embedding are multiplied by the root of `hidden_size`; those of a tied head are not (Gemma 3).
    pub scaled_embedding: bool,
    /// Layers whose MLP is a mixture of experts.
    pub experts: Option<Experts>,
}

/// A mixture of experts: each token goes through the MLPs that the router prefers (Qwen3-MoE).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Experts {
    pub n_experts: usize,
    /// Experts that a token goes through, at most `n_experts`.
    pub n_used: usize,
    pub intermediate_size: usize,
    /// The weights of the used experts are divided by their sum.
    pub normalized: bool,
    /// Layers with an ordinary MLP instead, rising.
    pub dense_layers: Vec<usize>,
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
    /// YaRN: what turns seldom in the original context is divided by `factor`, what turns often is kept, a ramp between
    /// (transformers `modeling_rope_utils._compute_yarn_parameters`).
    Yarn(Yarn),
    /// NTK-aware: a larger theta for texts beyond `max_positions`, decided once for an engine, by its capacity
    /// (transformers `modeling_rope_utils._compute_dynamic_ntk_parameters`).
    Dynamic {
        factor: f64,
        max_positions: usize,
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

/// What YaRN takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    pub factor: f64,
    pub original_max_positions: usize,
    /// Turns in the original context from which on a frequency is kept.
    pub beta_fast: f64,
    /// Turns up to which it is divided.
    pub beta_slow: f64,
    /// The ends of the ramp are whole numbers.
    pub truncate: bool,
    /// Multiplies cosines and sines.
    pub attention_factor: f64,
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

    pub const ATTENTION: [Projection; 4] = [Projection::Q, Projection::K, Projection::V, Projection::O];
    pub const MLP: [Projection; 3] = [Projection::Gate, Projection::Up, Projection::Down];

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
    /// The mixture that is a layer's MLP.
    pub fn experts_of(&self, layer: usize) -> Option<&Experts> {
        self.experts.as_ref().filter(|experts| !experts.dense_layers.contains(&layer))
    }

    /// The window of a layer, if it has one.
    pub fn window_of(&self, layer: usize) -> Option<usize> {
        self.sliding_window.filter(|_| !self.full_layers.contains(&layer))
    }

    /// The rotation of a layer's queries and keys.
    pub fn rope_of(&self, layer: usize) -> Rope {
        match self.local_rope_theta.filter(|_| self.window_of(layer).is_some()) {
            Some(theta) => {
                Rope { theta, partial_factor: self.rope.partial_factor, scaling: RopeScaling::None }
            }
            None => self.rope.clone(),
        }
    }

    /// What scores are multiplied by; rounded once, as in the reference implementation.
    pub fn attention_scale(&self) -> f32 {
        match self.attention_scalar {
            Some(scalar) => round_to_f32(1.0 / scalar.sqrt()),
            None => 1.0 / (self.head_dim as f32).sqrt(),
        }
    }

    /// What rows of the embedding are multiplied by; rounded once, as there.
    pub fn embedding_scale(&self) -> Option<f32> {
        self.scaled_embedding.then(|| round_to_f32((self.hidden_size as f64).sqrt()))
    }

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
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a size")]
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

impl Experts {
    /// `(out_features, in_features)` of one expert's projection; none for those of attention.
    pub fn shape(&self, projection: Projection, hidden_size: usize) -> Option<(usize, usize)> {
        match projection {
            Projection::Gate | Projection::Up => Some((self.intermediate_size, hidden_size)),
            Projection::Down => Some((hidden_size, self.intermediate_size)),
            Projection::Q | Projection::K | Projection::V | Projection::O => None,
        }
    }
}
