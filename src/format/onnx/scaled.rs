//! Weights that a graph keeps in few bits and multiplies with scales, and the rounding of what enters them.
//!
//! Sources: ONNX operators QuantizeLinear and DequantizeLinear; TensorRT's of the same names for FP8, MXFP8
//! and FP4. Only the weights' numbers are taken: activations stay as exact as the engine has them.

use super::index::Index;
use super::model::Node;
use super::tensor::{ElementType, StoredTensor};

/// Most nodes between a weight and its product.
const MAX_STEPS: usize = 8;

/// `(values - zero) * scale`.
#[derive(Debug, Clone)]
pub struct ScaledWeight<'a> {
    /// `[n, k]`, or `[k, n]`.
    pub values: StoredTensor<'a>,
    pub is_rows: bool,
    pub scale: StoredTensor<'a>,
    /// One number that the scales themselves are multiplied with.
    pub outer_scale: Option<StoredTensor<'a>>,
    pub zero: Option<StoredTensor<'a>>,
    pub spread: Spread,
    /// The values are floats, which the graph itself rounds to whole numbers of 8 bits.
    pub is_rounded: bool,
    /// What the product computes with.
    pub element: ElementType,
}

/// Which elements share a scale; axes are those of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    All,
    /// One for each index of the axis.
    Axis(usize),
    /// One for so many elements along the axis.
    Blocks {
        axis: usize,
        len: usize,
    },
}

impl ScaledWeight<'_> {
    /// n and k.
    pub fn shape(&self) -> Option<(usize, usize)> {
        match (&self.values.dims[..], self.is_rows) {
            (&[n, k], true) | (&[k, n], false) => Some((n, k)),
            _ => None,
        }
    }
}

/// The weight behind an operand of a product, if it is one of these; `is_rows` tells how it is multiplied.
pub fn scaled<'a>(index: &Index<'_, 'a>, operand: &'a str, mut is_rows: bool) -> Option<ScaledWeight<'a>> {
    let (mut value, mut element, mut steps) = (operand, None, 0);
    let node = loop {
        let node = index.producer(value)?;
        match node.op {
            "Cast" => {
                element = element.or(node.int("to").map(|to| ElementType::from_number(to.cast_unsigned())))
            }
            "Identity" => {}
            "Transpose" => is_rows = !is_rows,
            _ if dequantizes(node) => break node,
            _ => return None,
        }
        value = node.inputs.first()?;
        steps += 1;
        // In a damaged graph a value may depend on itself.
        if steps > MAX_STEPS {
            return None;
        }
    };
    let (values, is_rounded) = values(index, node.inputs.first()?)?;
    let (mut scale, outer_scale) = scales(index, node.inputs.get(1)?)?;
    if node.op.contains("MXFP8") && scale.element == ElementType::U8 {
        scale.element = ElementType::E8m0;
    }
    let zero = node.inputs.get(2).filter(|name| !name.is_empty());
    let zero = match zero {
        Some(zero) => Some(index.constant(index.behind_casts(zero))?),
        None => None,
    };
    let spread = spread(node, &values, &scale)?;
    let cast_of_scale = node.inputs.get(1).and_then(|scale| index.standard(scale, "Cast")?.int("to"));
    let of_scale = match cast_of_scale {
        Some(to) => ElementType::from_number(to.cast_unsigned()),
        None if outer_scale.is_some() => ElementType::F32,
        None => scale.element,
    };
    let element = element.unwrap_or(of_scale);
    Some(ScaledWeight { values, is_rows, scale, outer_scale, zero, spread, is_rounded, element })
}

/// What enters a layer before the graph rounds it.
pub fn before_rounding<'a>(index: &Index<'_, 'a>, input: &'a str) -> &'a str {
    let Some(node) = index.producer(index.behind_casts(input)).filter(|node| dequantizes(node)) else {
        return input;
    };
    let rounded = node.inputs.first().and_then(|rounded| index.producer(index.behind_casts(rounded)));
    let Some(&x) = rounded.filter(|node| quantizes(node)).and_then(|node| node.inputs.first()) else {
        return input;
    };
    // Scales that are found while the graph runs come from the same node.
    let scale = node.inputs.get(1).and_then(|scale| index.producer(index.behind_casts(scale)));
    if let Some(inner) = scale.and_then(|node| node.inputs.first()) {
        index.producer(index.behind_casts(inner));
    }
    let is_widening = |node: &&Node| node.is_standard("Cast") && node.int("to") == Some(1);
    match index.producer(x).filter(is_widening).and_then(|node| node.inputs.first()) {
        Some(narrow) => narrow,
        None => x,
    }
}

fn dequantizes(node: &Node) -> bool {
    node.op.ends_with("DequantizeLinear")
}

fn quantizes(node: &Node) -> bool {
    !dequantizes(node) && (node.op.ends_with("QuantizeLinear") || node.op.ends_with("DynamicQuantize"))
}

fn values<'a>(index: &Index<'_, 'a>, value: &'a str) -> Option<(StoredTensor<'a>, bool)> {
    let value = index.behind_casts(value);
    if let Some(stored) = index.constant(value) {
        return Some((stored, false));
    }
    let node = index.standard(value, "QuantizeLinear")?;
    let stored = index.constant(index.behind_casts(node.inputs.first()?))?;
    let zero = node.inputs.get(2).and_then(|zero| index.constant(zero));
    let is_int8 = zero.is_some_and(|zero| zero.element == ElementType::I8);
    is_int8.then_some((stored, true))
}

fn scales<'a>(index: &Index<'_, 'a>, value: &'a str) -> Option<(StoredTensor<'a>, Option<StoredTensor<'a>>)> {
    let value = index.behind_casts(value);
    if let Some(stored) = index.constant(value) {
        return Some((stored, None));
    }
    let node = index.producer(value).filter(|node| dequantizes(node))?;
    let inner = index.constant(index.behind_casts(node.inputs.first()?))?;
    let outer = index.constant(index.behind_casts(node.inputs.get(1)?))?;
    let is_one = outer.dims.iter().all(|dim| *dim == 1);
    is_one.then_some((inner, Some(outer)))
}

fn spread(node: &Node, values: &StoredTensor, scale: &StoredTensor) -> Option<Spread> {
    let n_dims = i64::try_from(values.dims.len()).ok()?;
    let axis = node.int("axis").unwrap_or(1);
    let axis = usize::try_from(if axis < 0 { axis + n_dims } else { axis }).ok()?;
    if scale.dims.iter().all(|dim| *dim == 1) {
        return Some(Spread::All);
    }
    let len = *values.dims.get(axis)?;
    if scale.dims == [len] {
        return Some(Spread::Axis(axis));
    }
    let n_blocks = *scale.dims.get(axis)?;
    let is_whole = n_blocks > 0 && len.is_multiple_of(n_blocks);
    let others =
        |dims: &[usize]| dims.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, dim)| *dim).collect();
    let (of_values, of_scale): (Vec<usize>, Vec<usize>) = (others(&values.dims), others(&scale.dims));
    (is_whole && of_values == of_scale).then_some(Spread::Blocks { axis, len: len / n_blocks })
}
