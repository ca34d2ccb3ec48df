//! A linear layer in a graph: a matrix product or an int4 plugin, its bias, and adapter branches left aside.
//!
//! What enters the layer is the value before AWQ's scales and before any rounding: an adapter belongs there.

use std::ops::Range;

use super::cut::cut;
use super::index::Index;
use super::model::Node;
use super::norm::norm;
use super::scaled::{ScaledWeight, before_rounding, scaled};
use super::tensor::StoredTensor;

/// The operators of int4 products, older first.
const INT4_OPS: [(&str, Int4Packing); 2] = [
    ("Int4GroupwiseGemmPlugin", Int4Packing::Interleaved),
    ("Int4GroupwiseGemmPluginV2", Int4Packing::Tiled),
];

/// `y = x W + bias`, or some of its outputs.
#[derive(Debug, Clone)]
pub struct Linear<'a> {
    /// The product's node, by its number in the graph.
    pub node_idx: usize,
    /// What the product computes, before the bias.
    pub output: &'a str,
    /// What enters the layer.
    pub input: &'a str,
    /// `[k]`, multiplies the inputs first.
    pub pre_scale: Option<StoredTensor<'a>>,
    pub weight: LinearWeight<'a>,
    pub bias: Option<StoredTensor<'a>>,
    /// Which of the product's outputs are meant.
    pub rows: Range<usize>,
    /// The graph itself cuts these outputs out: the model has one layer for several projections.
    pub is_cut: bool,
}

/// How the weight of k inputs and n outputs is stored.
#[derive(Debug, Clone)]
pub enum LinearWeight<'a> {
    /// `[k, n]`
    Columns(StoredTensor<'a>),
    /// `[n, k]`
    Rows(StoredTensor<'a>),
    Int4(Box<Int4Weight<'a>>),
    Scaled(Box<ScaledWeight<'a>>),
}

/// Nibbles of a plugin: `(nibble - 8) * scale`.
#[derive(Debug, Clone)]
pub struct Int4Weight<'a> {
    pub packed: StoredTensor<'a>,
    /// `[k / group, n]`
    pub scales: StoredTensor<'a>,
    pub packing: Int4Packing,
    pub n: usize,
    pub k: usize,
    pub group: usize,
}

/// The order of the nibbles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Int4Packing {
    /// Of `Int4GroupwiseGemmPlugin`.
    Interleaved,
    /// Of `Int4GroupwiseGemmPluginV2`.
    Tiled,
}

impl LinearWeight<'_> {
    /// n and k.
    pub fn shape(&self) -> Option<(usize, usize)> {
        match self {
            Self::Columns(tensor) => matrix(&tensor.dims).map(|(k, n)| (n, k)),
            Self::Rows(tensor) => matrix(&tensor.dims),
            Self::Int4(weight) => Some((weight.n, weight.k)),
            Self::Scaled(weight) => weight.shape(),
        }
    }
}

fn matrix(dims: &[usize]) -> Option<(usize, usize)> {
    match *dims {
        [rows, columns] => Some((rows, columns)),
        _ => None,
    }
}

/// The linear layer that computes a value, if one does.
pub fn linear<'a>(index: &Index<'_, 'a>, value: &'a str) -> Option<Linear<'a>> {
    let Some(slice) = index.standard(index.behind_casts(value), "Slice") else { return whole(index, value) };
    let all = whole(index, slice.inputs.first()?)?;
    let rows = cut(index, slice, all.rows.len())?;
    Some(Linear { rows, is_cut: true, ..all })
}

/// A linear layer with all its outputs.
fn whole<'a>(index: &Index<'_, 'a>, value: &'a str) -> Option<Linear<'a>> {
    let value = index.behind_casts(value);
    let (value, bias) = match bias_add(index, value) {
        Some((product, bias)) => (index.behind_casts(product), Some(bias)),
        None => (value, None),
    };
    let value = index.behind_casts(without_adapter(index, value));
    let node_idx = index.producer_idx(value)?;
    let mut linear = product(index, node_idx, value)?;
    linear.bias = bias.or(linear.bias);
    Some(linear)
}

/// `x + bias` with a constant vector: x and the bias.
fn bias_add<'a>(index: &Index<'_, 'a>, value: &'a str) -> Option<(&'a str, StoredTensor<'a>)> {
    let add = index.standard(value, "Add")?;
    Index::both_ways(add)?.into_iter().find_map(|(product, bias)| {
        let bias = index.constant(index.behind_casts(bias)).filter(|tensor| tensor.dims.len() == 1)?;
        Some((product, bias))
    })
}

/// The value without what an adapter's inputs add to it.
fn without_adapter<'a>(index: &Index<'_, 'a>, value: &'a str) -> &'a str {
    let ways = index.standard(value, "Add").and_then(Index::both_ways);
    let found = ways.into_iter().flatten().find(|(_, update)| is_adapter_update(index, update));
    found.map_or(value, |(product, _)| product)
}

/// `(x A) B` with A and B from the graph's inputs, or several of them side by side.
fn is_adapter_update(index: &Index, value: &str) -> bool {
    let with_input = |value: &str| {
        let node = index.standard(index.behind_casts(value), "MatMul")?;
        let [x, factor] = node.inputs[..] else { return None };
        index.is_input(index.behind_casts(factor)).then_some(x)
    };
    let is_pair = |value: &str| with_input(value).and_then(with_input).is_some();
    match index.standard(index.behind_casts(value), "Concat") {
        Some(parts) => !parts.inputs.is_empty() && parts.inputs.iter().all(|part| is_pair(part)),
        None => is_pair(value),
    }
}

fn product<'a>(index: &Index<'_, 'a>, node_idx: usize, output: &'a str) -> Option<Linear<'a>> {
    let node = &index.graph.nodes[node_idx];
    let (input, weight, bias) = if node.is_standard("MatMul") {
        let [input, weight] = node.inputs[..] else { return None };
        (input, matrix_weight(index, weight, false)?, None)
    } else if node.is_standard("Gemm") {
        gemm(index, node)?
    } else {
        let (_, packing) = INT4_OPS.into_iter().find(|(op, _)| node.op == *op)?;
        int4(index, node, packing)?
    };
    let (n, k) = weight.shape()?;
    let (input, pre_scale) = match weight {
        LinearWeight::Columns(_) | LinearWeight::Rows(_) => (input, None),
        LinearWeight::Int4(_) | LinearWeight::Scaled(_) => {
            before_pre_scale(index, before_rounding(index, input), k)
        }
    };
    Some(Linear { node_idx, output, input, pre_scale, weight, bias, rows: 0..n, is_cut: false })
}

/// The operand of a product, `[k, n]`, or `[n, k]` where `is_rows`.
fn matrix_weight<'a>(index: &Index<'_, 'a>, operand: &'a str, is_rows: bool) -> Option<LinearWeight<'a>> {
    match index.constant(index.behind_casts(operand)) {
        Some(stored) if is_rows => Some(LinearWeight::Rows(stored)),
        Some(stored) => Some(LinearWeight::Columns(stored)),
        None => Some(LinearWeight::Scaled(Box::new(scaled(index, operand, is_rows)?))),
    }
}

type Parts<'a> = (&'a str, LinearWeight<'a>, Option<StoredTensor<'a>>);

fn gemm<'a>(index: &Index<'_, 'a>, node: &Node<'a>) -> Option<Parts<'a>> {
    let is_plain = |name: &str| node.float(name).is_none_or(|factor| factor == 1.0);
    if !is_plain("alpha") || !is_plain("beta") || node.int("transA").unwrap_or(0) != 0 {
        return None;
    }
    let [input, weight, ref bias @ ..] = node.inputs[..] else { return None };
    let weight = matrix_weight(index, weight, node.int("transB").unwrap_or(0) != 0)?;
    let bias = match bias {
        [] => None,
        [bias, ..] => Some(index.constant(index.behind_casts(bias))?),
    };
    Some((input, weight, bias))
}

fn int4<'a>(index: &Index<'_, 'a>, node: &Node<'a>, packing: Int4Packing) -> Option<Parts<'a>> {
    let [input, packed, scales] = node.inputs[..] else { return None };
    let size = |name: &str| usize::try_from(node.int(name)?).ok().filter(|size| (1..1 << 24).contains(size));
    let (n, k, group) = (size("gemm_n")?, size("gemm_k")?, size("group_size")?);
    let packed = index.constant(packed)?;
    let scales = index.constant(scales)?;
    let weight = Int4Weight { packed, scales, packing, n, k, group };
    Some((input, LinearWeight::Int4(Box::new(weight)), None))
}

/// AWQ multiplies the inputs first. A norm ends with such a product too, so that is looked for before.
fn before_pre_scale<'a>(
    index: &Index<'_, 'a>,
    input: &'a str,
    k: usize,
) -> (&'a str, Option<StoredTensor<'a>>) {
    let ways = match index.standard(index.behind_casts(input), "Mul") {
        Some(node) if norm(index, input).is_none() => Index::both_ways(node),
        _ => None,
    };
    let found = ways.into_iter().flatten().find_map(|(x, scale)| {
        let scale = index.constant(index.behind_casts(scale)).filter(|tensor| tensor.dims == [k])?;
        Some((x, Some(scale)))
    });
    found.unwrap_or((input, None))
}
