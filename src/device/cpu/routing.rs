//! Which experts a row goes through: rows are sorted by expert for the products, and each row's results are
//! added in the order of the experts, so that a row's sum does not depend on the other rows.

use std::ops::Range;

use crate::numbers::architecture::Experts;
use crate::numbers::round_to_f32;

/// Rows that share an expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpertRows {
    pub expert: usize,
    pub rows: Range<usize>,
}

/// A row with the weight it has in a sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeightedRow {
    pub row: usize,
    pub weight: f32,
}

/// The step's rows in the order of their experts.
#[derive(Default)]
pub struct Routing {
    /// The rows of each expert, rising, one expert after the other: `[n_rows * n_used]`.
    pub rows: Vec<usize>,
    /// The ranges of `rows` that have an expert in common.
    pub groups: Vec<ExpertRows>,
    /// For each row its places in `rows` with their weights, by rising expert: `[n_rows * n_used]`.
    pub parts: Vec<WeightedRow>,
}

impl Routing {
    /// Chooses for each row of router logits, `[n_experts]`.
    pub fn new<'a>(logits: impl Iterator<Item = &'a [f32]>, experts: &Experts) -> Self {
        let chosen: Vec<Choice> =
            logits.enumerate().flat_map(|(row, logits)| choose(row, logits, experts)).collect();
        let mut order: Vec<usize> = (0..chosen.len()).collect();
        // By expert, then by row; a row has an expert once.
        order.sort_unstable_by_key(|&choice| (chosen[choice].expert, chosen[choice].row));
        let mut groups: Vec<ExpertRows> = Vec::new();
        let mut parts: Vec<WeightedRow> =
            chosen.iter().map(|c| WeightedRow { row: 0, weight: c.weight }).collect();
        for (place, &choice) in order.iter().enumerate() {
            let expert = chosen[choice].expert;
            parts[choice].row = place;
            match groups.last_mut() {
                Some(last) if last.expert == expert => last.rows.end = place + 1,
                _ => groups.push(ExpertRows { expert, rows: place..place + 1 }),
            }
        }
        Self { rows: order.iter().map(|&choice| chosen[choice].row).collect(), groups, parts }
    }

    /// The part of an expert's places whose rows lie in the range.
    pub fn places(&self, of_expert: &Range<usize>, rows: &Range<usize>) -> Range<usize> {
        let place_of = |row: usize| {
            of_expert.start + self.rows[of_expert.clone()].partition_point(|&of_expert| of_expert < row)
        };
        place_of(rows.start)..place_of(rows.end)
    }
}

/// A row's use of an expert.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Choice {
    row: usize,
    expert: usize,
    weight: f32,
}

/// The experts with the largest logits, by rising number; of equal ones the lower number. Weights are those of
/// the softmax over all experts, or over the chosen ones; all NaN if a logit is not finite, chosen or not.
fn choose(row: usize, logits: &[f32], experts: &Experts) -> Vec<Choice> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_unstable_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    order.truncate(experts.n_used);
    order.sort_unstable();
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // In f64, so that the rounded weight does not depend on the system's library.
    let numerator = |expert: usize| (f64::from(logits[expert]) - f64::from(largest)).exp();
    let sum: f64 = match experts.normalized {
        true => order.iter().map(|&expert| numerator(expert)).sum(),
        false => (0..logits.len()).map(numerator).sum(),
    };
    let all_finite = logits.iter().all(|logit| logit.is_finite());
    let weight = |expert: usize| if all_finite { round_to_f32(numerator(expert) / sum) } else { f32::NAN };
    order.into_iter().map(|expert| Choice { row, expert, weight: weight(expert) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experts(n_used: usize, normalized: bool) -> Experts {
        Experts { n_experts: 4, n_used, intermediate_size: 1, normalized, dense_layers: Vec::new() }
    }

    #[test]
    fn rows_are_sorted_by_expert_and_found_again() {
        let logits: [&[f32]; 3] = [&[0.0, 3.0, 1.0, 2.0], &[5.0, 5.0, 5.0, 1.0], &[1.0, 2.0, 3.0, 4.0]];
        let routing = Routing::new(logits.into_iter(), &experts(2, true));
        let group = |expert, rows| ExpertRows { expert, rows };
        assert_eq!(routing.groups, [group(0, 0..1), group(1, 1..3), group(2, 3..4), group(3, 4..6)]);
        assert_eq!(routing.rows, [1, 0, 1, 2, 0, 2]);
        let places: Vec<usize> = routing.parts.iter().map(|part| part.row).collect();
        assert_eq!(places, [1, 4, 0, 2, 3, 5]);
        assert_eq!(routing.places(&(1..3), &(0..1)), 1..2);
        assert_eq!(routing.places(&(4..6), &(1..3)), 5..6);
        assert!(routing.places(&(3..4), &(0..2)).is_empty());
    }

    #[test]
    fn weights_are_a_softmax_over_all_or_over_the_chosen() {
        let logits: &[f32] = &[2.0_f32.ln(), 0.0, 5.0_f32.ln(), 0.0];
        let weights = |normalized| -> Vec<f32> {
            let routing = Routing::new(std::iter::once(logits), &experts(2, normalized));
            routing.parts.iter().map(|part| part.weight).collect()
        };
        for (found, wanted) in
            [(weights(false), [2.0 / 9.0, 5.0 / 9.0]), (weights(true), [2.0 / 7.0, 5.0 / 7.0])]
        {
            assert!(found.iter().zip(wanted).all(|(f, w)| (f - w).abs() < 1e-6), "{found:?} {wanted:?}");
        }
    }
}
