//! Where a GGUF file keeps what an engine calls `model.layers.0.self_attn.q_proj.weight`: `blk.0.attn_q.weight`.
//!
//! Three things differ from checkpoints besides the names: Phi's layers have fused matrices, files of the architecture
//! llama have the rows of q and k in another order, and Gemma's norms have 1 added, as engines do. Source: `gguf.tensor_mapping` of the Python package
//! and llama.cpp's converter.

use std::ops::Range;

use crate::format::engine::{EMBEDDING, FINAL_NORM, HEAD};
use crate::numbers::Module;
use crate::numbers::architecture::{Architecture, Projection};
use crate::numbers::family::Family;

/// A tensor of a file, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufPlace {
    pub tensor: String,
    /// The rows of a fused matrix, and how many it has; none for the whole tensor.
    pub fused: Option<(Range<usize>, usize)>,
    pub order: RowOrder,
}

/// How the outputs of a projection are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// As in checkpoints.
    Same,
    /// The two halves of each head are interleaved.
    Interleaved { head_dim: usize },
}

impl RowOrder {
    /// Where output `row_idx` of a checkpoint lies.
    pub fn stored(self, row_idx: usize) -> usize {
        let RowOrder::Interleaved { head_dim } = self else { return row_idx };
        let (head, inner, half) = (row_idx / head_dim, row_idx % head_dim, head_dim / 2);
        head * head_dim + inner % half * 2 + inner / half
    }
}

/// Norms that Gemma has between the others, which therefore have other names.
const GEMMA_NORMS: [(&str, &str); 3] = [
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];
const MODULES: [(&str, &str); 14] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.qkv_proj", "attn_qkv"),
    // Both halves lie under the name that others give to one.
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.gate", "ffn_gate_inp"),
];

/// Where the tensor that an engine calls `name` is. None for a name that such files do not have.
pub fn gguf_place(architecture: &Architecture, name: &str) -> Option<GgufPlace> {
    let whole =
        |tensor: &str| Some(GgufPlace { tensor: tensor.to_owned(), fused: None, order: RowOrder::Same });
    match name {
        EMBEDDING => return whole("token_embd.weight"),
        FINAL_NORM => return whole("output_norm.weight"),
        HEAD => return whole("output.weight"),
        _ => {}
    }
    let (layer, inner) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, end) = inner.rsplit_once('.')?;
    let tensor = |module: &str| {
        let own: &[(&str, &str)] = if architecture.family == Family::Gemma3 { &GEMMA_NORMS } else { &[] };
        let (_, short) = own.iter().chain(&MODULES).find(|(known, _)| *known == module)?;
        Some(format!("blk.{layer}.{short}.{end}"))
    };
    if architecture.family.row().has_fused_projections {
        for fused in [Module::Qkv, Module::GateUp] {
            let found = fused.parts(architecture).into_iter().find(|(part, _)| part.path() == module);
            if let Some((_, rows)) = found {
                let fused_rows = Some((rows, fused.shape(architecture).0));
                let tensor = tensor(fused.path())?;
                return Some(GgufPlace { tensor, fused: fused_rows, order: RowOrder::Same });
            }
        }
    }
    Some(GgufPlace { tensor: tensor(module)?, fused: None, order: order(architecture, module) })
}

/// Where the weight of a linear layer of checkpoints is, the fused ones whole.
pub fn gguf_module_place(architecture: &Architecture, layer: usize, module: Module) -> Option<GgufPlace> {
    let (_, short) = MODULES.iter().find(|(known, _)| *known == module.path())?;
    Some(GgufPlace {
        tensor: format!("blk.{layer}.{short}.weight"),
        fused: None,
        order: order(architecture, module.path()),
    })
}

/// How the outputs of the module with that path are stored.
fn order(architecture: &Architecture, path: &str) -> RowOrder {
    let is_rotated = [Projection::Q, Projection::K].iter().any(|projection| projection.path() == path);
    match architecture.family {
        Family::Llama | Family::Mistral if is_rotated => {
            RowOrder::Interleaved { head_dim: architecture.head_dim }
        }
        _ => RowOrder::Same,
    }
}
