//! Attention in a graph: the workflow's plugin or the standard operator, with its three projections.

use super::index::Index;
use super::linear::{Linear, linear};
use super::model::Node;
use super::norm::{Norm, norm};
use crate::format::FormatError;

/// What attention reads.
#[derive(Debug, Clone)]
pub struct Attention<'a> {
    /// q, k, v.
    pub projections: [Linear<'a>; 3],
    pub q_norm: Option<Norm<'a>>,
    pub k_norm: Option<Norm<'a>>,
    /// As the node's attributes say, where it has them.
    pub heads: Option<Heads>,
    pub window: Option<usize>,
    /// Elements of a head that are rotated, as the nodes say: none for whole heads. The plugin does not say.
    pub rotary_dims: Option<[Option<usize>; 2]>,
    /// What the products with the keys are multiplied by; none for the usual `1 / sqrt(head_dim)`.
    pub scale: Option<f32>,
}

/// Sizes of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
}

/// A projection with the norm of its heads.
type Projected<'a> = (Linear<'a>, Option<Norm<'a>>);

/// The attention that computes a value.
///
/// # Errors
/// [`FormatError::Unsupported`] with the node that is something else.
pub fn attention<'a>(index: &Index<'_, 'a>, value: &'a str) -> Result<Attention<'a>, FormatError> {
    let value = index.behind_moves(value);
    match index.producer(value) {
        Some(node) if node.is_standard("Attention") => standard(index, node),
        Some(node) if node.op == "AttentionPlugin" => plugin(index, node, value),
        _ => Err(index.unrecognized(value, "Attention or AttentionPlugin before the output projection")),
    }
}

fn standard<'a>(index: &Index<'_, 'a>, node: &Node<'a>) -> Result<Attention<'a>, FormatError> {
    let [q, k, v, ..] = node.inputs[..] else {
        return Err(index.unrecognized(node.outputs.first().unwrap_or(&""), "Attention with q, k and v"));
    };
    if node.float("softcap").is_some_and(|cap| cap != 0.0) {
        return Err(index.unrecognized(node.outputs[0], "Attention without softcap"));
    }
    let ((q, q_dim), (k, k_dim)) = (rotated(index, q)?, rotated(index, k)?);
    let (q, q_norm) = projected(index, q)?;
    let (k, k_norm) = projected(index, k)?;
    let (v, v_norm) = projected(index, v)?;
    if v_norm.is_some() {
        return Err(index.unrecognized(node.inputs[2], "values that are not normalized"));
    }
    let scale = node.float("scale");
    let rotary_dims = Some([q_dim, k_dim]);
    Ok(Attention { projections: [q, k, v], q_norm, k_norm, heads: None, window: None, rotary_dims, scale })
}

/// What is rotated by its position, and how many elements of a head where it is not all of them.
fn rotated<'a>(index: &Index<'_, 'a>, value: &'a str) -> Result<(&'a str, Option<usize>), FormatError> {
    let value = index.behind_moves(value);
    match index.standard(value, "RotaryEmbedding") {
        Some(node) if node.int("interleaved").unwrap_or(0) == 0 && !node.inputs.is_empty() => {
            let part = node.int("rotary_embedding_dim").filter(|dim| *dim != 0);
            Ok((node.inputs[0], part.map(|dim| usize::try_from(dim).unwrap_or(0))))
        }
        _ => Err(index.unrecognized(value, "RotaryEmbedding of heads in two halves")),
    }
}

fn projected<'a>(index: &Index<'_, 'a>, value: &'a str) -> Result<Projected<'a>, FormatError> {
    let value = index.behind_moves(value);
    let norm = norm(index, value);
    let before = norm.as_ref().map_or(value, |norm| index.behind_moves(norm.input));
    let linear = linear(index, before)
        .ok_or_else(|| index.unrecognized(before, "a projection to queries, keys or values"))?;
    Ok((linear, norm))
}

fn plugin<'a>(index: &Index<'_, 'a>, node: &Node<'a>, value: &str) -> Result<Attention<'a>, FormatError> {
    let size = |name: &str| {
        let size = usize::try_from(node.int(name)?).ok();
        size.filter(|size| (1..=1 << 12).contains(size))
    };
    let heads = match (size("num_q_heads"), size("num_kv_heads"), size("head_size")) {
        (Some(n_heads), Some(n_kv_heads), Some(head_dim)) => Heads { n_heads, n_kv_heads, head_dim },
        _ => {
            let wanted = "AttentionPlugin with num_q_heads, num_kv_heads and head_size";
            return Err(index.unrecognized(value, wanted));
        }
    };
    if node.int("enable_tree_attention").unwrap_or(0) != 0 {
        return Err(index.unrecognized(value, "AttentionPlugin without tree attention"));
    }
    let qkv = index.behind_casts(node.inputs.first().copied().unwrap_or_default());
    let ([q, k, v], [mut q_norm, mut k_norm]) = match index.standard(qkv, "Concat") {
        Some(parts) => side_by_side(index, parts, qkv)?,
        None => (fused(index, qkv, heads)?, [None, None]),
    };
    if node.int("enable_qk_norm").unwrap_or(0) != 0 {
        let eps = node.float("rms_norm_eps").unwrap_or(1e-6);
        let weights = node.inputs.iter().skip(1).filter_map(|input| index.constant(input));
        let mut gammas = weights.filter(|tensor| tensor.dims == [heads.head_dim]);
        let mut next = || gammas.next().map(|weight| Norm { weight, eps, input: "" });
        (q_norm, k_norm) = (next(), next());
        if k_norm.is_none() {
            return Err(index.unrecognized(value, "AttentionPlugin with the weights of both norms"));
        }
    }
    let window = node.int("sliding_window_size").and_then(|size| usize::try_from(size).ok());
    let scale = node.float("attention_scale").filter(|scale| *scale > 0.0);
    let window = window.filter(|size| *size > 0);
    let projections = [q, k, v];
    Ok(Attention { projections, q_norm, k_norm, heads: Some(heads), window, rotary_dims: None, scale })
}

type SideBySide<'a> = ([Linear<'a>; 3], [Option<Norm<'a>>; 2]);

fn side_by_side<'a>(
    index: &Index<'_, 'a>,
    parts: &Node<'a>,
    value: &str,
) -> Result<SideBySide<'a>, FormatError> {
    let [q, k, v] = parts.inputs[..] else {
        return Err(index.unrecognized(value, "queries, keys and values side by side"));
    };
    let (q, q_norm) = projected(index, q)?;
    let (k, k_norm) = projected(index, k)?;
    let (v, _) = projected(index, v)?;
    Ok(([q, k, v], [q_norm, k_norm]))
}

/// One product for all three: its outputs are cut by the heads' sizes.
fn fused<'a>(index: &Index<'_, 'a>, qkv: &'a str, heads: Heads) -> Result<[Linear<'a>; 3], FormatError> {
    let wanted = "one projection to queries, keys and values";
    let all = linear(index, index.behind_moves(qkv)).ok_or_else(|| index.unrecognized(qkv, wanted))?;
    let (q_size, kv_size) = (heads.n_heads * heads.head_dim, heads.n_kv_heads * heads.head_dim);
    if all.rows != (0..q_size + 2 * kv_size) {
        return Err(index.unrecognized(qkv, &format!("{wanted} of {} outputs", q_size + 2 * kv_size)));
    }
    let part = |start: usize, size: usize| Linear { rows: start..start + size, ..all.clone() };
    Ok([part(0, q_size), part(q_size, kv_size), part(q_size + kv_size, kv_size)])
}
