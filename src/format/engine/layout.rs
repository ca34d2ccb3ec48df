//! The layout of `llm.engine`: a safetensors file already in the kernels' layout.
//!
//! The data section starts on a page and each tensor at a multiple of 64 bytes; the gaps are tensors
//! named `pad.N`, for the format forbids holes. Names are those of Hugging Face checkpoints. Every
//! matrix row is padded with zeros to [`row_stride`](crate::numbers::precision::row_stride) elements; norms and biases are plain f32 vectors.

use std::fmt;
use std::str::FromStr;

use safetensors::Dtype;

use crate::format::error::{FormatError, unsupported};
use crate::numbers::architecture::{Architecture, Experts, Projection};
use crate::numbers::kind::{Kind, MatrixShape, Storage, Stored};
use crate::numbers::precision::Precision;

/// Version of the layout; another one is refused.
pub const FORMAT_VERSION: u32 = 2;
/// Tensors start at multiples of this many bytes.
pub const TENSOR_ALIGN: usize = 64;
/// The data section starts at a multiple of this many bytes.
pub const PAGE: usize = 4096;
/// The embedding table, which is also the head of a tied model.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The head of an untied model.
pub const HEAD: &str = "lm_head.weight";
/// The norm before the head.
pub const FINAL_NORM: &str = "model.norm.weight";
/// Between a layer and what its experts are called.
const EXPERTS: &str = ".mlp.experts.";
/// Names of filler tensors start so.
pub const PAD_PREFIX: &str = "pad.";

/// What an engine has code for. Its weights are the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// The processor, whose kernels are the program's.
    Cpu,
    /// The processor, and the GPUs whose kernels lie beside the weights.
    Cuda,
}

impl Target {
    pub fn name(self) -> &'static str {
        match self {
            Target::Cpu => "cpu",
            Target::Cuda => "cuda",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text {
            "cpu" => Ok(Target::Cpu),
            "cuda" => Ok(Target::Cuda),
            other => Err(unsupported("target", other, "cpu, cuda")),
        }
    }
}

/// What an engine was built for (`llm_build`'s flags).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sequences per step, at least 1.
    pub max_batch_size: usize,
    /// Prompt tokens per request, at most `max_kv_cache_capacity`.
    pub max_input_len: usize,
    /// Prompt and generated tokens per sequence.
    pub max_kv_cache_capacity: usize,
    /// 0: no adapters.
    pub max_lora_rank: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_batch_size: 4, max_input_len: 1024, max_kv_cache_capacity: 4096, max_lora_rank: 0 }
    }
}

/// `model.layers.0.self_attn.q_proj.weight`.
pub fn projection_weight(layer: usize, projection: Projection) -> String {
    format!("model.layers.{layer}.{}.weight", projection.path())
}

/// `model.layers.0.self_attn.q_proj.bias`.
pub fn projection_bias(layer: usize, projection: Projection) -> String {
    format!("model.layers.{layer}.{}.bias", projection.path())
}

/// `model.layers.0.mlp.gate.weight`: the router of a mixture, `[n_experts, hidden_size]`.
pub fn router_weight(layer: usize) -> String {
    format!("model.layers.{layer}.mlp.gate.weight")
}

/// `model.layers.0.mlp.experts.up_proj.weight`: that projection of all experts, one below the other,
/// `[n_experts * out, in]`. In checkpoints each expert has a tensor: [`checkpoint_names`].
pub fn experts_weight(layer: usize, projection: Projection) -> String {
    format!("model.layers.{layer}.mlp.experts.{}.weight", projection.short_name())
}

/// One logical tensor of an engine, under its checkpoint name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The experts of a mixture are parts of one.
    Matrix { name: String, shape: MatrixShape, storage: Storage },
    /// `len` f32 elements.
    Vector { name: String, len: usize },
}

impl Item {
    pub fn name(&self) -> &str {
        match self {
            Item::Matrix { name, .. } | Item::Vector { name, .. } => name,
        }
    }

    /// The shape in the checkpoint: `[rows, columns]` or `[len]`.
    pub fn logical_shape(&self) -> Vec<usize> {
        match *self {
            Item::Matrix { shape, .. } => vec![shape.n_parts * shape.rows, shape.columns],
            Item::Vector { len, .. } => vec![len],
        }
    }

    /// How a matrix's numbers are stored.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Item::Matrix { storage, .. } => Some(storage.kind),
            Item::Vector { .. } => None,
        }
    }

    /// The stored tensors: the weight, then what stands beside it.
    pub fn stored(&self) -> Vec<Stored> {
        match self {
            Item::Vector { name, len } => {
                vec![Stored { name: name.clone(), dtype: Dtype::F32, shape: vec![*len] }]
            }
            Item::Matrix { name, shape, storage } => storage.tensors(name, *shape),
        }
    }
}

/// The checkpoint's tensors of an item: one of its name, or those of the experts that it stacks.
pub fn checkpoint_names(architecture: &Architecture, item: &Item) -> Vec<String> {
    match &architecture.experts {
        Some(experts) if item.name().contains(EXPERTS) => {
            (0..experts.n_experts).map(|expert| expert_name(item.name(), expert)).collect()
        }
        _ => vec![item.name().to_owned()],
    }
}

/// One expert's matrix of a stack: `model.layers.0.mlp.experts.3.up_proj.weight`.
fn expert_name(stack: &str, expert: usize) -> String {
    match stack.split_once(EXPERTS) {
        Some((layer, module)) => format!("{layer}{EXPERTS}{expert}.{module}"),
        None => stack.to_owned(),
    }
}

/// Every tensor of an engine, in file order: embedding, layers, final norm, head.
pub fn items(architecture: &Architecture, precision: Precision) -> Vec<Item> {
    let table = |name: &str| Item::Matrix {
        name: name.to_owned(),
        shape: (architecture.vocab_size, architecture.hidden_size).into(),
        storage: Kind::of(precision.of_table()).into(),
    };
    let mut items = vec![table(EMBEDDING)];
    for layer in 0..architecture.n_layers {
        items.extend(norm_items(architecture, layer));
        let projections: &[Projection] = match architecture.experts_of(layer) {
            Some(_) => &Projection::ATTENTION,
            None => &Projection::ALL,
        };
        for &projection in projections {
            let (rows, columns) = architecture.projection_shape(projection);
            let (name, shape) = (projection_weight(layer, projection), (rows, columns).into());
            items.push(Item::Matrix { name, shape, storage: Kind::of(precision).into() });
            if architecture.has_bias(projection) {
                items.push(Item::Vector { name: projection_bias(layer, projection), len: rows });
            }
        }
        if let Some(experts) = architecture.experts_of(layer) {
            items.extend(mixture_items(architecture, experts, layer, precision));
        }
    }
    items.push(Item::Vector { name: FINAL_NORM.to_owned(), len: architecture.hidden_size });
    if !architecture.tied_head {
        items.push(table(HEAD));
    }
    items
}

fn norm_items(architecture: &Architecture, layer: usize) -> Vec<Item> {
    let norm = |part: &str, len| Item::Vector { name: format!("model.layers.{layer}.{part}.weight"), len };
    let hidden_size = architecture.hidden_size;
    let mut items =
        vec![norm("input_layernorm", hidden_size), norm(architecture.norms.before_mlp(), hidden_size)];
    items.extend(architecture.norms.after().into_iter().flatten().map(|part| norm(part, hidden_size)));
    if architecture.qk_norm {
        items.push(norm("self_attn.q_norm", architecture.head_dim));
        items.push(norm("self_attn.k_norm", architecture.head_dim));
    }
    items
}

/// The router at full precision, for a small error would choose other experts; then the experts.
fn mixture_items(
    architecture: &Architecture,
    experts: &Experts,
    layer: usize,
    precision: Precision,
) -> Vec<Item> {
    let router = Item::Matrix {
        name: router_weight(layer),
        shape: (experts.n_experts, architecture.hidden_size).into(),
        storage: Kind::F32.into(),
    };
    let stack = |projection| {
        let (rows, columns) = experts.shape(projection, architecture.hidden_size)?;
        let name = experts_weight(layer, projection);
        let shape = MatrixShape { n_parts: experts.n_experts, rows, columns };
        Some(Item::Matrix { name, shape, storage: Kind::of(precision).into() })
    };
    std::iter::once(router).chain(Projection::MLP.into_iter().filter_map(stack)).collect()
}
