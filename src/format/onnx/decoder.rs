//! The decoder in a graph: from the logits back to the embeddings, layer by layer, by structure alone.
//!
//! Names are not trusted: exporters number their nodes as they like. A node on the way that is not what a
//! decoder has there is named in the error, and so is a computation beside the way.

use super::attention::{Attention, attention};
use super::index::Index;
use super::linear::{Linear, linear};
use super::mlp::{OnnxMlp, mlp, update};
use super::model::{Graph, Node};
use super::norm::{Norm, norm};
use crate::format::FormatError;
use crate::numbers::Module;
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
    /// What the rows of the embedding are multiplied by.
    pub embedding_scale: Option<f32>,
    pub layers: Vec<OnnxLayer<'a>>,
    pub final_norm: Norm<'a>,
    pub head: Linear<'a>,
}

/// One layer.
#[derive(Debug, Clone)]
pub struct OnnxLayer<'a> {
    pub input_norm: Norm<'a>,
    /// Before the MLP.
    pub post_norm: Norm<'a>,
    /// Of the outputs of attention and MLP, before they are added.
    pub after_norms: Option<[Norm<'a>; 2]>,
    pub attention: Attention<'a>,
    pub o: Linear<'a>,
    pub mlp: OnnxMlp<'a>,
}

impl<'a> OnnxLayer<'a> {
    /// All linear layers, attention's first.
    pub fn linears(&self) -> Vec<(Module, &Linear<'a>)> {
        let [q, k, v] = self.attention.projections.each_ref();
        let attention = Projection::ATTENTION.map(Module::One).into_iter().zip([q, k, v, &self.o]);
        match &self.mlp {
            OnnxMlp::Gated(gated) => {
                let gated = [&gated.gate, &gated.up, &gated.down];
                attention.chain(Projection::MLP.map(Module::One).into_iter().zip(gated)).collect()
            }
            OnnxMlp::Mixture(mixture) => {
                let experts = mixture.experts.iter().enumerate().flat_map(|(expert, gated)| {
                    let modules = Projection::MLP.map(|projection| Module::Expert { expert, projection });
                    modules.into_iter().zip([&gated.gate, &gated.up, &gated.down])
                });
                attention.chain([(Module::Router, &mixture.router)]).chain(experts).collect()
            }
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
        let mut embedding_scale = None;
        while !index.is_input(x) {
            if let Some((input, scale)) = scaled_input(&index, x) {
                (x, embedding_scale) = (input, Some(scale));
                continue;
            }
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
        Ok(Self { embedding_scale, layers, final_norm, head })
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

/// A graph's input times a number.
fn scaled_input<'a>(index: &Index<'_, 'a>, value: &'a str) -> Option<(&'a str, f32)> {
    let product = index.standard(value, "Mul")?;
    Index::both_ways(product)?.into_iter().find_map(|(input, scale)| {
        let input = index.behind_casts(input);
        Some((input, index.scalar(scale).filter(|_| index.is_input(input))?))
    })
}

/// The layer that computes `x`, and what enters it.
fn layer<'a>(index: &Index<'_, 'a>, x: &'a str) -> Result<(OnnxLayer<'a>, &'a str), FormatError> {
    let wanted = "a sum of the residual and a linear layer or a mixture of experts";
    let (middle, end, mlp_norm) = residual(index, x, wanted, &|value| update(index, value))?;
    let mlp = mlp(index, end)?;
    let post_norm = norm_of(index, &mlp.readers(), middle)?;
    let wanted = "a sum of the residual and a linear layer";
    let of_attention = index.behind_casts(middle);
    let (before, o, attention_norm) = residual(index, of_attention, wanted, &|value| linear(index, value))?;
    let after_norms = match (attention_norm, mlp_norm) {
        (Some(of_attention), Some(of_mlp)) => Some([of_attention, of_mlp]),
        (None, None) => None,
        _ => return Err(index.unrecognized(x, "norms behind both attention and MLP, or behind neither")),
    };
    let attention = attention(index, o.input)?;
    let input_norm = norm_of(index, &attention.projections.each_ref(), before)?;
    Ok((OnnxLayer { input_norm, post_norm, after_norms, attention, o, mlp }, before))
}

/// `x + update`, or `x + norm(update)`: x, what `find` knows of the update, and the norm.
fn residual<'a, T>(
    index: &Index<'_, 'a>,
    value: &'a str,
    wanted: &str,
    find: &dyn Fn(&'a str) -> Option<T>,
) -> Result<(&'a str, T, Option<Norm<'a>>), FormatError> {
    let ways = index.standard(value, "Add").and_then(Index::both_ways);
    let found = ways.into_iter().flatten().find_map(|(x, update)| {
        let norm = norm(index, update);
        let inner = norm.as_ref().map_or(update, |norm| norm.input);
        Some((x, find(inner)?, norm))
    });
    found.ok_or_else(|| index.unrecognized(value, wanted))
}

/// The one norm before several linear layers, of a known value.
fn norm_of<'a>(index: &Index<'_, 'a>, linears: &[&Linear<'a>], of: &'a str) -> Result<Norm<'a>, FormatError> {
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
