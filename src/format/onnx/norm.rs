//! RMSNorm in a graph: one operator, or the chain that exporters write for it.

use super::index::Index;
use super::model::{Attribute, Node};
use super::tensor::StoredTensor;

/// `weight * x / sqrt(mean(x^2) + eps)`.
#[derive(Debug, Clone)]
pub struct Norm<'a> {
    /// `[n]`
    pub weight: StoredTensor<'a>,
    pub eps: f32,
    /// The value that is normalized.
    pub input: &'a str,
}

/// The norm that computes a value, if one does.
pub fn norm<'a>(index: &Index<'_, 'a>, value: &'a str) -> Option<Norm<'a>> {
    let value = index.behind_casts(value);
    let node = index.producer(value)?;
    if node.is_standard("RMSNormalization") || node.op == "SimplifiedLayerNormalization" {
        let [input, weight, ..] = node.inputs[..] else { return None };
        let is_last_axis = node.int("axis").is_none_or(|axis| axis == -1);
        let weight = index.constant(index.behind_casts(weight)).filter(|_| is_last_axis)?;
        return Some(Norm { weight, eps: node.float("epsilon").unwrap_or(1e-5), input });
    }
    if !node.is_standard("Mul") {
        return None;
    }
    Index::both_ways(node)?.into_iter().find_map(|(weight, scaled)| {
        let weight = index.constant(index.behind_casts(weight)).filter(|tensor| tensor.dims.len() == 1)?;
        let (input, eps) = scaled_by_rms(index, index.behind_casts(scaled))?;
        Some(Norm { weight, eps, input })
    })
}

/// `x * (1 / rms(x))` or `x / rms(x)`: x and eps.
fn scaled_by_rms<'a>(index: &Index<'_, 'a>, value: &'a str) -> Option<(&'a str, f32)> {
    let node = index.producer(value)?;
    let (x, eps, squared) = if node.is_standard("Div") {
        let [x, root] = node.inputs[..] else { return None };
        let (eps, squared) = root_mean(index, root)?;
        (x, eps, squared)
    } else if node.is_standard("Mul") {
        Index::both_ways(node)?.into_iter().find_map(|(x, inverse)| {
            let (eps, squared) = inverse_root_mean(index, inverse)?;
            Some((x, eps, squared))
        })?
    } else {
        return None;
    };
    (index.behind_casts(x) == index.behind_casts(squared)).then_some((x, eps))
}

fn inverse_root_mean<'a>(index: &Index<'_, 'a>, value: &'a str) -> Option<(f32, &'a str)> {
    let node = index.producer(index.behind_casts(value))?;
    match node.inputs[..] {
        [one, root] if node.is_standard("Div") && index.scalar(one) == Some(1.0) => root_mean(index, root),
        [root] if node.is_standard("Reciprocal") => root_mean(index, root),
        [mean, power] if node.is_standard("Pow") && index.scalar(power) == Some(-0.5) => {
            mean_of_squares(index, mean)
        }
        _ => None,
    }
}

fn root_mean<'a>(index: &Index<'_, 'a>, value: &'a str) -> Option<(f32, &'a str)> {
    let node = index.producer(index.behind_casts(value))?;
    match node.inputs[..] {
        [mean] if node.is_standard("Sqrt") => mean_of_squares(index, mean),
        [mean, power] if node.is_standard("Pow") && index.scalar(power) == Some(0.5) => {
            mean_of_squares(index, mean)
        }
        _ => None,
    }
}

/// `mean(x^2) + eps`: eps and x.
fn mean_of_squares<'a>(index: &Index<'_, 'a>, value: &'a str) -> Option<(f32, &'a str)> {
    let sum = index.standard(index.behind_casts(value), "Add")?;
    Index::both_ways(sum)?.into_iter().find_map(|(mean, eps)| {
        let eps = index.scalar(eps)?;
        let mean = index.standard(index.behind_casts(mean), "ReduceMean")?;
        is_over_last_axis(index, mean).then_some(())?;
        let square = index.producer(index.behind_casts(mean.inputs.first()?))?;
        match square.inputs[..] {
            [x, two] if square.is_standard("Pow") && index.scalar(two) == Some(2.0) => Some((eps, x)),
            [x, same] if square.is_standard("Mul") && x == same => Some((eps, x)),
            _ => None,
        }
    })
}

/// Activations have three dimensions, or four where heads are apart; the last one may be counted from either end.
fn is_over_last_axis(index: &Index, mean: &Node) -> bool {
    const LAST: [i16; 3] = [-1, 2, 3];
    let is_last = |axis: i64| LAST.iter().any(|last| i64::from(*last) == axis);
    match (mean.inputs.get(1), mean.attribute("axes")) {
        (Some(axes), None) => {
            index.scalar(axes).is_some_and(|axis| LAST.iter().any(|last| f32::from(*last) == axis))
        }
        (None, Some(Attribute::Ints(axes))) => matches!(axes[..], [axis] if is_last(axis)),
        _ => false,
    }
}
