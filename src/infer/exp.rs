//! e to the x in f64, the same bits on every processor: no library's function, no fused multiply-add, and no
//! branch, so that a loop over it becomes vector code.
//!
//! x = n ln 2 + r with |r| <= ln 2 / 2; the Taylor series of e to the r up to degree 13 is exact to the last
//! bit or the one before; 2 to the n goes into the exponent.

/// Adding it leaves the nearest integer in the low bits of the sum.
const ROUND: f64 = 6_755_399_441_055_744.0;
/// ln 2 in two parts; the first has zeros enough at its end for `n * LN_2_HIGH` to be exact.
const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
/// Below it the result would no longer be a normal number.
const LOWEST: f64 = -708.0;
/// 1 / 13!, 1 / 12!, ..., 1 / 0!
const COEFFICIENTS: [f64; 14] = [
    1.0 / 6_227_020_800.0,
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];
/// Sums run side by side.
const LANES: usize = 8;
/// Logits whose sum is made by itself: a GPU makes many at once (`SUM_PART` in sampling.cu).
const PART: usize = 1024;

/// e to the `x` for `x <= 0`; what is below e to the -708 becomes that.
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    let x = if x < LOWEST { LOWEST } else { x };
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut sum = COEFFICIENTS[0];
    for coefficient in &COEFFICIENTS[1..] {
        sum = sum * r + coefficient;
    }
    let n_bits = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    sum * f64::from_bits(n_bits.wrapping_add(1023) << 52)
}

/// The sum of `exp((logit - largest) * inverse)` over all logits; `inverse` is 1 over the temperature.
pub fn sum_of_exp(logits: &[f32], largest: f32, inverse: f64) -> f64 {
    sum_of_exp_with(logits, largest, inverse, |_, _| {})
}

/// The same sum to the last bit; `take` gets some logits at a time, and their terms.
#[inline(always)]
pub fn sum_of_exp_with(
    logits: &[f32],
    largest: f32,
    inverse: f64,
    mut take: impl FnMut(&[f32], &[f64]),
) -> f64 {
    let term = |logit: f32| exp(f64::from(logit - largest) * inverse);
    let mut total = 0.0;
    for part in logits.chunks(PART) {
        let mut sums = [0.0; LANES];
        let (chunks, rest) = part.as_chunks::<LANES>();
        for chunk in chunks {
            let terms = chunk.map(term);
            for (sum, term) in sums.iter_mut().zip(terms) {
                *sum += term;
            }
            take(chunk, &terms);
        }
        let mut sum_of_rest = 0.0;
        for &logit in rest {
            sum_of_rest += term(logit);
            take(&[logit], &[term(logit)]);
        }
        total += sums.iter().sum::<f64>() + sum_of_rest;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_librarys_but_for_the_last_bits() {
        let mut worst = 0.0f64;
        for i in 0..=708_000 {
            let x = -f64::from(i) / 1000.0 * (1.0 - 1e-9);
            let wanted = x.exp();
            worst = worst.max(((exp(x) - wanted) / wanted).abs());
        }
        assert!(worst < 4.0 * f64::EPSILON, "{worst}");
        assert_eq!((exp(0.0), exp(-0.0)), (1.0, 1.0));
        assert!(exp(-1e300) < 1e-300 && exp(f64::NEG_INFINITY) < 1e-300);
    }

    #[test]
    fn sums_are_those_of_single_terms() {
        for n in [1, 7, 8, 9, 1000, 1024, 1025, 5000] {
            let logits: Vec<f32> = (0..n).map(|i| -((i * 37 % 101) as f32) / 3.0).collect();
            let wanted: f64 = logits.iter().map(|&logit| (f64::from(logit) / 0.7).exp()).sum();
            let found = sum_of_exp(&logits, 0.0, 1.0 / 0.7);
            assert!(((found - wanted) / wanted).abs() < 1e-14, "{n}: {found} {wanted}");
        }
    }
}
