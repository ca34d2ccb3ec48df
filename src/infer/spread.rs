//! A draw from a distribution that lies on so many tokens that putting them in order would take long.
//!
//! The tokens are summed up in buckets of like weights, of which only the one that the draw falls into is put in
//! order. Sums in another order differ in their last bits, so whatever falls that close to the border of two tokens
//! is not answered here: what is answered is what the sum in order gives.

use super::exp::{exp, sum_of_exp_with};
use super::likeliest::{key, token, token_at};

const N_BUCKETS: usize = 2048;
/// What weighs less than e to the minus this is in the last bucket.
const MAX_RANGE: f64 = 50.0;
/// As a part of the whole sum: far more than n numbers can lose by rounding, n * 2 to the -53 for a vocabulary of n.
const MARGIN: f64 = 1e-9;
/// Logits that are looked at together.
const CHUNK: usize = 32;

/// Weights `exp((logit - largest) * inverse)` of all tokens.
#[derive(Clone, Copy)]
pub struct Distribution<'a> {
    /// `[vocab_size]`, finite
    pub logits: &'a [f32],
    pub largest: f32,
    /// 1 over the temperature.
    pub inverse: f64,
}

/// A distribution and the sums of its buckets, from the likeliest tokens on.
pub struct Histogram<'a> {
    of: Distribution<'a>,
    total: f64,
    /// Buckets per unit of difference between logits.
    scale: f64,
    sums: Vec<f64>,
}

impl<'a> Histogram<'a> {
    pub fn new(of: Distribution<'a>) -> Self {
        let smallest = of.logits.iter().copied().fold(of.largest, |a, b| if b < a { b } else { a });
        let range = (f64::from(of.largest - smallest) * of.inverse).clamp(1e-6, MAX_RANGE);
        let scale = of.inverse * N_BUCKETS as f64 / range;
        let mut sums = vec![0.0; N_BUCKETS];
        let total = sum_of_exp_with(of.logits, of.largest, of.inverse, |logits, weights| {
            for (logit, weight) in logits.iter().zip(weights) {
                sums[bucket(of.largest - logit, scale)] += weight;
            }
        });
        Self { of, total, scale, sums }
    }

    /// The sum of all weights, the same to the last bit as that of [`super::exp::sum_of_exp`].
    pub fn total(&self) -> f64 {
        self.total
    }

    /// The token at `random` of the fewest likeliest ones that reach `top_p` of the total; none where rounding
    /// decides.
    pub fn draw(&self, top_p: f64, random: f64) -> Option<u32> {
        let mut kept = self.total;
        if top_p < 1.0 {
            (_, kept) = self.find(top_p * self.total)?;
        }
        self.find(random * kept).map(|(token, _)| token)
    }

    /// The first token, by falling weight, with which the sum is above `wanted`, and that sum.
    fn find(&self, wanted: f64) -> Option<(u32, f64)> {
        let margin = MARGIN * self.total;
        let mut before = 0.0;
        let place = self.sums.iter().position(|sum| {
            let is_here = before + sum > wanted;
            before += if is_here { 0.0 } else { *sum };
            is_here
        })?;
        for key in self.inside(place) {
            let logit = self.of.logits[token(key) as usize];
            let after = before + exp(f64::from(logit - self.of.largest) * self.of.inverse);
            if after > wanted {
                let is_sure = before + margin < wanted && wanted < after - margin;
                return is_sure.then_some((token(key), after));
            }
            before = after;
        }
        None
    }

    /// The keys of the tokens in a bucket, in order.
    fn inside(&self, place: usize) -> Vec<u64> {
        let (least, most) = (self.start(place), before(self.start(place + 1)));
        let is_inside = |logit: f32| (least..=most).contains(&(self.of.largest - logit));
        let mut keys = Vec::new();
        for (chunk_idx, chunk) in self.of.logits.chunks(CHUNK).enumerate() {
            // Without a branch for each.
            if chunk.iter().map(|logit| u32::from(is_inside(*logit))).sum::<u32>() > 0 {
                let tokens = chunk_idx * CHUNK..;
                let inside = tokens.zip(chunk).filter(|(_, logit)| is_inside(**logit));
                keys.extend(inside.map(|(token, logit)| key(*logit, token_at(token))));
            }
        }
        keys.sort_unstable();
        keys
    }

    /// The least difference to the largest logit that is in a bucket from `place` on; beyond all numbers where there
    /// is none.
    fn start(&self, place: usize) -> f32 {
        // Floats that are not negative are in the order of their bits.
        let (mut low, mut high) = (0, f32::INFINITY.to_bits() + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if bucket(f32::from_bits(middle), self.scale) < place {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        f32::from_bits(low)
    }
}

/// The bucket of a token whose logit is so much below the largest one; it rises with `difference`.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "neither is negative; few buckets"
)]
fn bucket(difference: f32, scale: f64) -> usize {
    // As a u32, for which there are vector instructions.
    (f64::from(difference) * scale).min((N_BUCKETS - 1) as f64) as u32 as usize
}

/// The next smaller float of one that is not negative.
fn before(x: f32) -> f32 {
    f32::from_bits(x.to_bits().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::super::exp::sum_of_exp;
    use super::super::likeliest::largest;
    use super::super::random::uniform;
    use super::*;
    use crate::numbers::round_to_f32;

    fn of(logits: &[f32], inverse: f64) -> Distribution<'_> {
        Distribution { logits, largest: largest(logits), inverse }
    }

    /// The same by putting all in order.
    fn in_order(of: Distribution<'_>, top_p: f64, random: f64) -> u32 {
        let mut keys: Vec<u64> = (0..).zip(of.logits).map(|(token, logit)| key(*logit, token)).collect();
        keys.sort_unstable();
        let weight = |token: u32| exp(f64::from(of.logits[token as usize] - of.largest) * of.inverse);
        let weights: Vec<f64> = keys.iter().map(|key| weight(token(*key))).collect();
        let total = sum_of_exp(of.logits, of.largest, of.inverse);
        let first_above = |wanted: f64, is_above: fn(f64, f64) -> bool| {
            let mut sum = 0.0;
            let place = weights.iter().position(|weight| {
                sum += weight;
                is_above(sum, wanted)
            });
            (place.unwrap_or(weights.len() - 1), sum)
        };
        let kept = if top_p < 1.0 { first_above(top_p * total, |sum, at| sum >= at).1 } else { total };
        token(keys[first_above(random * kept, |sum, at| sum > at).0])
    }

    #[test]
    fn what_is_answered_is_what_the_order_gives() {
        let n_tokens = 3001;
        let spread = |width: f32, step: f32| -> Vec<f32> {
            (0..n_tokens).map(|i| (round_to_f32(uniform(5, i)) * width / step).round() * step).collect()
        };
        let mut outlier = spread(0.5, 1e-5);
        outlier[17] = -1e30;
        let cases = [
            ("flat", vec![0.25; 3001]),
            ("zeros of both signs", (0..3001).map(|i| if i % 2 == 0 { 0.0 } else { -0.0 }).collect()),
            ("narrow", spread(0.5, 1e-5)),
            ("coarse", spread(6.0, 0.5)),
            ("wide", spread(80.0, 1e-3)),
            ("with one far away", outlier),
        ];
        for (name, logits) in cases {
            let mut n_answered = 0;
            for (index, (inverse, top_p)) in
                [(1.0, 1.0), (1.0, 0.95), (0.1, 0.999), (1.4, 0.5)].into_iter().enumerate()
            {
                let of = of(&logits, inverse);
                let histogram = Histogram::new(of);
                assert_eq!(histogram.total(), sum_of_exp(&logits, of.largest, inverse));
                for i in 0..250 {
                    let random = uniform(9 + index as u64, i);
                    if let Some(found) = histogram.draw(top_p, random) {
                        n_answered += 1;
                        assert_eq!(
                            found,
                            in_order(of, top_p, random),
                            "{name}, {inverse}, {top_p}, {random}"
                        );
                    }
                }
            }
            assert!(n_answered >= 990, "{name}: {n_answered} of 1000 were answered");
        }
    }

    #[test]
    fn borders_are_left_to_others() {
        let logits = [0.0; 4];
        let of = Histogram::new(of(&logits, 1.0));
        for random in [0.0, 0.25, 0.5, 0.75, 1.0 - 1e-12] {
            assert_eq!(of.draw(1.0, random), None, "{random}");
            assert_eq!(of.draw(random, 0.3), None, "{random}");
        }
        assert_eq!(of.draw(1.0, 0.25 + 1e-7), Some(1));
        assert_eq!(of.draw(0.6, 0.34), Some(1), "a third of the three that reach 0.6");
    }
}
