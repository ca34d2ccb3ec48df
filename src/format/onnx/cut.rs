//! Bounds of a Slice along the last axis, as exporters write `x[..., a:b]` and `chunk`: constants, or whole
//! numbers that the graph computes from the length of that axis.

use std::ops::Range;

use super::index::Index;
use super::model::Node;

/// Steps of arithmetic that are followed.
const MAX_DEPTH: usize = 8;

/// Which of the `n` elements of its input's last axis a Slice keeps; none where it is not such a one, or where a
/// bound is not known.
pub fn cut(index: &Index, node: &Node, n: usize) -> Option<Range<usize>> {
    let [of, start, end, axis, ref steps @ ..] = node.inputs[..] else { return None };
    let number = |value: &str| Numbers { index, of: index.behind_casts(of), n }.value(value, MAX_DEPTH);
    // Activations are [batch, seq, n].
    if !matches!(number(axis)?, -1 | 2) || steps.iter().any(|step| number(step) != Some(1)) {
        return None;
    }
    let n = i64::try_from(n).ok()?;
    let bound = |value: i64| usize::try_from(if value < 0 { value + n } else { value.min(n) }).ok();
    let range = bound(number(start)?)?..bound(number(end)?)?;
    (range.start < range.end).then_some(range)
}

/// What is known of a graph's whole numbers.
struct Numbers<'i, 'g, 'a, 'v> {
    index: &'i Index<'g, 'a>,
    /// Its last axis has length n.
    of: &'v str,
    n: usize,
}

impl Numbers<'_, '_, '_, '_> {
    fn value(&self, value: &str, depth: usize) -> Option<i64> {
        let index = self.index;
        let value = index.behind_moves(value);
        if let Some(tensor) = index.constant(value) {
            return match tensor.small_values()?[..] {
                // The largest of all stands for the end of the axis and is no exact f32.
                #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
                [value] => Some(value as i64),
                _ => None,
            };
        }
        let node = index.producer(value).filter(|_| depth > 0)?;
        let [a, b] = node.inputs[..] else { return None };
        if node.is_standard("Gather") {
            let shape = index.standard(index.behind_moves(a), "Shape")?;
            let is_it = shape.inputs.first().is_some_and(|input| index.behind_casts(input) == self.of);
            let is_last = matches!(self.value(b, depth - 1)?, -1 | 2);
            return if is_it && is_last { i64::try_from(self.n).ok() } else { None };
        }
        let (a, b) = (self.value(a, depth - 1)?, self.value(b, depth - 1)?);
        match () {
            () if node.is_standard("Add") => a.checked_add(b),
            () if node.is_standard("Sub") => a.checked_sub(b),
            () if node.is_standard("Mul") => a.checked_mul(b),
            () if node.is_standard("Div") => a.checked_div(b),
            () => None,
        }
    }
}
