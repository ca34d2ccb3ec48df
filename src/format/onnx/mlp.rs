//! The MLP of a layer in a graph: gated, or a mixture of experts that are.

use super::index::Index;
use super::linear::{Linear, linear};
use super::model::Node;
use crate::format::FormatError;
use crate::numbers::family::Activation;

/// Most experts that are followed.
const MAX_EXPERTS: usize = 1 << 12;

/// What stands behind attention in a layer.
#[derive(Debug, Clone)]
pub enum OnnxMlp<'a> {
    Gated(Box<Gated<'a>>),
    Mixture(Box<OnnxMixture<'a>>),
}

/// `down(activation(gate) * up)`.
#[derive(Debug, Clone)]
pub struct Gated<'a> {
    pub gate: Linear<'a>,
    pub up: Linear<'a>,
    pub down: Linear<'a>,
    pub activation: Activation,
}

/// Experts of which each token takes a share.
#[derive(Debug, Clone)]
pub struct OnnxMixture<'a> {
    pub router: Linear<'a>,
    /// At least one, with one activation.
    pub experts: Vec<Gated<'a>>,
    /// Experts that a token goes through.
    pub n_used: usize,
    /// Their shares are divided by their sum.
    pub normalized: bool,
}

impl<'a> OnnxMlp<'a> {
    pub fn activation(&self) -> Activation {
        match self {
            Self::Gated(gated) => gated.activation,
            Self::Mixture(mixture) => mixture.experts[0].activation,
        }
    }

    /// The layers that read what enters.
    pub fn readers(&self) -> Vec<&Linear<'a>> {
        match self {
            Self::Gated(gated) => vec![&gated.gate, &gated.up],
            Self::Mixture(mixture) => {
                let experts = mixture.experts.iter().flat_map(|expert| [&expert.gate, &expert.up]);
                std::iter::once(&mixture.router).chain(experts).collect()
            }
        }
    }
}

/// What an MLP ends with.
pub enum Update<'a> {
    Down(Box<Linear<'a>>),
    Mixture(Box<OnnxMixture<'a>>),
}

/// The end of an MLP, if a value is one.
pub fn update<'a>(index: &Index<'_, 'a>, value: &'a str) -> Option<Update<'a>> {
    match linear(index, value) {
        Some(down) => Some(Update::Down(Box::new(down))),
        None => mixture(index, value).map(|mixture| Update::Mixture(Box::new(mixture))),
    }
}

/// The whole MLP.
///
/// # Errors
/// [`FormatError::Unsupported`] with the node that is something else.
pub fn mlp<'a>(index: &Index<'_, 'a>, update: Update<'a>) -> Result<OnnxMlp<'a>, FormatError> {
    match update {
        Update::Down(down) => Ok(OnnxMlp::Gated(Box::new(gated(index, *down)?))),
        Update::Mixture(mixture) => Ok(OnnxMlp::Mixture(mixture)),
    }
}

/// `activation(gate) * up` before `down`.
fn gated<'a>(index: &Index<'_, 'a>, down: Linear<'a>) -> Result<Gated<'a>, FormatError> {
    let value = index.behind_casts(down.input);
    let ways = index.standard(value, "Mul").and_then(Index::both_ways);
    let found = ways.into_iter().flatten().find_map(|(gate, up)| {
        let (gate, activation) = activated(index, gate)?;
        Some((linear(index, gate)?, linear(index, up)?, activation))
    });
    let (gate, up, activation) = found
        .ok_or_else(|| index.unrecognized(value, "a product of SiLU(gate) or GELU(gate) by tanh and up"))?;
    Ok(Gated { gate, up, down, activation })
}

/// What an activation is of, and which one it is.
fn activated<'a>(index: &Index<'_, 'a>, value: &'a str) -> Option<(&'a str, Activation)> {
    let node = index.producer(index.behind_casts(value))?;
    if node.is_standard("Gelu") && node.text("approximate") == Some("tanh") {
        return Some((node.inputs.first().copied()?, Activation::GeluTanh));
    }
    silu(index, node).map(|z| (z, Activation::Silu))
}

/// `z * sigmoid(z)`: z.
fn silu<'a>(index: &Index<'_, 'a>, node: &Node<'a>) -> Option<&'a str> {
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

/// A sum of experts' outputs, each times its share of the token.
fn mixture<'a>(index: &Index<'_, 'a>, value: &'a str) -> Option<OnnxMixture<'a>> {
    let mut parts = Vec::new();
    let mut rest = index.behind_casts(value);
    while let Some(sum) = index.standard(rest, "Add") {
        let [before, part] = sum.inputs[..] else { return None };
        parts.push(part);
        rest = index.behind_casts(before);
        if parts.len() == MAX_EXPERTS {
            return None;
        }
    }
    parts.push(rest);
    parts.reverse();
    let split = share(index, parts[0])?.1;
    let mut experts: Vec<Gated> = Vec::with_capacity(parts.len());
    for (expert, part) in parts.iter().enumerate() {
        let (down, of, share) = share(index, part)?;
        let is_own = of.outputs == split.outputs && of.outputs.get(expert) == Some(&share);
        let found = gated(index, down).ok().filter(|_| is_own)?;
        if experts.first().is_some_and(|first| first.activation != found.activation) {
            return None;
        }
        experts.push(found);
    }
    let is_whole = split.outputs.len() == experts.len() && split.int("axis") == Some(-1);
    let (router, n_used, normalized) = router(index, split.inputs.first().filter(|_| is_whole)?)?;
    Some(OnnxMixture { router, experts, n_used, normalized })
}

/// `down(…) * share`: the layer, and the node that gives the share.
fn share<'g, 'a>(index: &Index<'g, 'a>, value: &'a str) -> Option<(Linear<'a>, &'g Node<'a>, &'a str)> {
    let product = index.standard(index.behind_casts(value), "Mul")?;
    Index::both_ways(product)?.into_iter().find_map(|(down, share)| {
        let share = index.behind_casts(share);
        let split = index.standard(share, "Split")?;
        Some((linear(index, down)?, split, share))
    })
}

/// The shares of all experts: the router's softmax where it is largest, else 0. The router, how many are chosen,
/// and whether their shares are divided by their sum.
fn router<'a>(index: &Index<'_, 'a>, value: &'a str) -> Option<(Linear<'a>, usize, bool)> {
    let scatter = index.standard(index.behind_casts(value), "ScatterElements")?;
    let [zeros, chosen, shares] = scatter.inputs[..] else { return None };
    let zeros = index.standard(index.behind_casts(zeros), "ConstantOfShape")?;
    let is_plain = scatter.int("axis") == Some(-1)
        && zeros.attribute("value").is_none()
        && scatter.text("reduction").is_none_or(|reduction| reduction == "none");
    let shares = index.behind_casts(shares);
    let (largest, normalized) = match index.standard(shares, "Div") {
        Some(division) => {
            let [largest, sum] = division.inputs[..] else { return None };
            let sum = index.standard(index.behind_casts(sum), "ReduceSum")?;
            let is_own =
                sum.inputs.first().map(|of| index.behind_casts(of)) == Some(index.behind_casts(largest));
            let is_over_experts = sum.inputs.get(1).and_then(|axis| index.scalar(axis)) == Some(-1.0);
            (index.behind_casts(largest), (is_own && is_over_experts).then_some(true)?)
        }
        None => (shares, false),
    };
    let top = index.standard(largest, "TopK")?;
    let [all, n_used] = top.inputs[..] else { return None };
    let is_top = top.outputs[..] == [largest, index.behind_casts(chosen)]
        && top.int("axis").is_none_or(|axis| axis == -1)
        && top.int("largest").is_none_or(|largest| largest == 1);
    let softmax = index.standard(index.behind_casts(all), "Softmax").filter(|_| is_top && is_plain)?;
    let is_last = softmax.int("axis").is_none_or(|axis| axis == -1);
    let router = linear(index, softmax.inputs.first().filter(|_| is_last)?)?;
    let n_used = index.scalar(n_used).filter(|n| (1.0..=MAX_EXPERTS as f32).contains(n))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in the range above")]
    Some((router, n_used as usize, normalized))
}
