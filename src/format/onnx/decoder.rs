//! The decoder in a graph: from the logits back to the embeddings, layer by layer, by structure alone.
//!
//! Names are not trusted: exporters number their nodes as they like. A node on the way that is not what a
//! decoder has there is named in the error, and so is a computation beside the way.

use super::attention::{Attention, attention};
use super::index::Index;
use super::linear::{Linear, linear};
use super::model::{Graph, Node};
use super::norm::{Norm, norm};
use crate::format::FormatError;
use crate::numbers::architecture::Projection;

/// Most layers that are followed.
const MAX_LAYERS: usize = 1 << 10;
/// What may stand beside the decoder: shapes, positions and masks.
const BESIDE: [&str; 32] = [
    "Add",
    "And",
    "Cast",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Div",
    "Equal",
    "Expand",
    "Gather",
    "GatherND",
    "Greater",
    "GreaterOrEqual",
    "Identity",
    "Less",
    "LessOrEqual",
    "Mod",
    "Mul",
    "Not",
    "Or",
    "Range",
    "ReduceMax",
    "Reshape",
    "Shape",
    "Slice",
    "Split",
    "Squeeze",
    "Sub",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// A whole decoder.
#[derive(Debug, Clone)]
pub struct OnnxDecoder<'a> {
    pub layers: Vec<OnnxLayer<'a>>,
    pub final_norm: Norm<'a>,
    pub head: Linear<'a>,
}

/// One layer.
#[derive(Debug, Clone)]
pub struct OnnxLayer<'a> {
    pub input_norm: Norm<'a>,
    pub post_norm: Norm<'a>,
    pub attention: Attention<'a>,
    pub o: Linear<'a>,
    pub gate: Linear<'a>,
    pub up: Linear<'a>,
    pub down: Linear<'a>,
}

impl<'a> OnnxLayer<'a> {
    pub fn projection(&self, projection: Projection) -> &Linear<'a> {
        match projection {
            Projection::Q => &self.attention.projections[0],
            Projection::K => &self.attention.projections[1],
            Projection::V => &self.attention.projections[2],
            Projection::O => &self.o,
            Projection::Gate => &self.gate,
            Projection::Up => &self.up,
            Projection::Down => &self.down,
        }
    }
}

impl<'a> OnnxDecoder<'a> {
    /// Recognizes the decoder.
    ///
    /// # Errors
    /// [`FormatError::Unsupported`] with the node, its inputs, and what would be understood there.
    pub fn recognize(graph: &Graph<'a>) -> Result<Self, FormatError> {
        let index = Index::new(graph)?;
        let named = graph.outputs.iter().find(|output| output.name == "logits");
        let logits = named.or(graph.outputs.first()).map_or("", |output| output.name);
        let product = index.behind_moves(logits);
        let head = linear(&index, product)
            .ok_or_else(|| index.unrecognized(product, "the head's matrix product"))?;
        let final_norm = before_head(&index, head.input)?;
        let mut layers = Vec::new();
        let mut x = index.behind_casts(final_norm.input);
        while !index.is_input(x) {
            if layers.len() == MAX_LAYERS {
                return Err(index.unrecognized(x, &format!("at most {MAX_LAYERS} layers")));
            }
            let (layer, before) = layer(&index, x)?;
            layers.push(layer);
            x = index.behind_casts(before);
        }
        layers.reverse();
        if layers.is_empty() {
            return Err(index.unrecognized(logits, "a decoder of at least one layer"));
        }
        check_unseen(&index)?;
        Ok(Self { layers, final_norm, head })
    }
}

/// Rows are chosen between the last norm and the head, or before both.
fn before_head<'a>(index: &Index<'_, 'a>, value: &'a str) -> Result<Norm<'a>, FormatError> {
    let value = behind_choice(index, value);
    let mut found = norm(index, value).ok_or_else(|| index.unrecognized(value, "a norm before the head"))?;
    found.input = behind_choice(index, found.input);
    Ok(found)
}

fn behind_choice<'a>(index: &Index<'_, 'a>, value: &'a str) -> &'a str {
    let value = index.behind_moves(value);
    let is_choice = |node: &Node| {
        let is_gather = ["GatherND", "Gather", "GatherElements"].iter().any(|op| node.is_standard(op));
        is_gather && !node.inputs.is_empty()
    };
    match index.producer(value) {
        Some(node) if is_choice(node) => index.behind_moves(node.inputs[0]),
        _ => value,
    }
}

/// The layer that computes `x`, and what enters it.
fn layer<'a>(index: &Index<'_, 'a>, x: &'a str) -> Result<(OnnxLayer<'a>, &'a str), FormatError> {
    let (middle, down) = residual(index, x)?;
    let (gate, up) = gated(index, down.input)?;
    let post_norm = norm_of(index, [&gate, &up], middle)?;
    let (before, o) = residual(index, index.behind_casts(middle))?;
    let attention = attention(index, o.input)?;
    let input_norm = norm_of(index, attention.projections.each_ref(), before)?;
    Ok((OnnxLayer { input_norm, post_norm, attention, o, gate, up, down }, before))
}

/// `x + linear(…)`: x and the linear layer.
fn residual<'a>(index: &Index<'_, 'a>, value: &'a str) -> Result<(&'a str, Linear<'a>), FormatError> {
    let ways = index.standard(value, "Add").and_then(Index::both_ways);
    let found = ways.into_iter().flatten().find_map(|(x, update)| Some((x, linear(index, update)?)));
    found.ok_or_else(|| index.unrecognized(value, "a sum of the residual and a linear layer"))
}

/// `silu(gate) * up`.
fn gated<'a>(index: &Index<'_, 'a>, value: &'a str) -> Result<(Linear<'a>, Linear<'a>), FormatError> {
    let value = index.behind_casts(value);
    let ways = index.standard(value, "Mul").and_then(Index::both_ways);
    let found = ways.into_iter().flatten().find_map(|(gate, up)| {
        let gate = silu(index, gate)?;
        Some((linear(index, gate)?, linear(index, up)?))
    });
    found.ok_or_else(|| index.unrecognized(value, "a product of SiLU(gate) and up"))
}

/// `z * sigmoid(z)`: z.
fn silu<'a>(index: &Index<'_, 'a>, value: &'a str) -> Option<&'a str> {
    let node = index.producer(index.behind_casts(value))?;
    if node.is_standard("Swish") && node.float("alpha").is_none_or(|alpha| alpha == 1.0) {
        return node.inputs.first().copied();
    }
    if !node.is_standard("Mul") {
        return None;
    }
    Index::both_ways(node)?.into_iter().find_map(|(z, sigmoid)| {
        let sigmoid = index.standard(index.behind_casts(sigmoid), "Sigmoid")?;
        let same = index.behind_casts(sigmoid.inputs.first()?) == index.behind_casts(z);
        same.then_some(z)
    })
}

/// The one norm before several linear layers, of a known value.
fn norm_of<'a, const N: usize>(
    index: &Index<'_, 'a>,
    linears: [&Linear<'a>; N],
    of: &'a str,
) -> Result<Norm<'a>, FormatError> {
    let input = index.behind_casts(linears[0].input);
    if let Some(other) = linears.iter().find(|linear| index.behind_casts(linear.input) != input) {
        return Err(index.unrecognized(other.input, "one norm for projections side by side"));
    }
    let norm = norm(index, input).ok_or_else(|| index.unrecognized(input, "RMSNorm"))?;
    if index.behind_casts(norm.input) != index.behind_casts(of) {
        return Err(index.unrecognized(input, &format!("RMSNorm of {of}")));
    }
    Ok(norm)
}

/// Whatever computes beside the decoder must be no more than shapes and masks.
fn check_unseen(index: &Index) -> Result<(), FormatError> {
    let is_known = |node: &Node| BESIDE.iter().any(|op| node.is_standard(op));
    match index.unseen().into_iter().find(|node| !is_known(node)) {
        Some(node) => Err(FormatError::Unsupported {
            what: "graph node",
            found: node.described(),
            supported: "a decoder with nothing but shapes and masks beside it".to_owned(),
        }),
        None => Ok(()),
    }
}
