//! Signed 4-bit numbers with one positive scale for 128 of them: the scale with the least weighted error.
//!
//! Sums run in a fixed order, so equal groups give equal bytes on every machine.

use half::f16;

/// How hard a scale is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// The largest magnitude becomes 7.
    Plain,
    /// A few scales are tried.
    Coarse,
    /// More are tried, and the best is refined.
    Fine,
}

impl Search {
    /// What the largest magnitude is divided by.
    fn divisors(self) -> &'static [f32] {
        match self {
            Search::Plain => &[7.0],
            Search::Coarse => &[7.0, 7.6, 8.4, 9.4],
            Search::Fine => &[6.8, 7.0, 7.3, 7.6, 8.0, 8.4, 8.9, 9.4, 10.2, 11.2],
        }
    }
}

/// Running sums, so that the compiler may use vectors; they are added in a fixed order at the end.
const N_SUMS: usize = 16;

/// The scale for a group; `importance` weighs the squared error of each element. It is an f16, for that is
/// what the workflow's kernels read.
pub fn scale_of(group: &[f32], importance: &[f32], search: Search) -> f32 {
    let largest = group.iter().fold(0.0_f32, |most, w| most.max(w.abs()));
    let mut best = (f32::INFINITY, 0.0);
    for divisor in search.divisors() {
        let scale = round_scale(largest / divisor);
        let fit = fit(group, importance, scale);
        if fit.error < best.0 {
            best = (fit.error, scale);
        }
    }
    if search == Search::Fine {
        for _ in 0..3 {
            let refined = round_scale(fit(group, importance, best.1).best_scale);
            let error = fit(group, importance, refined).error;
            if refined <= 0.0 || error >= best.0 {
                break;
            }
            best = (error, refined);
        }
    }
    best.1
}

/// -8..=7 as a float.
pub fn code_of(w: f32, scale: f32) -> f32 {
    code(w, inverse(scale))
}

/// Rounds to the nearest whole number, ties to even, for magnitudes below 2^22: adding 1.5 * 2^23 leaves no
/// bits for a fraction.
fn code(w: f32, by: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    ((w * by).clamp(-8.0, 7.0) + MAGIC) - MAGIC
}

fn inverse(scale: f32) -> f32 {
    let by = 1.0 / scale;
    if by.is_finite() { by } else { 0.0 }
}

fn round_scale(scale: f32) -> f32 {
    f16::from_f32(scale.min(65504.0)).to_f32()
}

struct Fit {
    /// Weighted sum of the squared errors.
    error: f32,
    /// The best scale for the codes that this scale gives.
    best_scale: f32,
}

fn fit(group: &[f32], importance: &[f32], scale: f32) -> Fit {
    let by = inverse(scale);
    let (mut errors, mut wqs, mut qqs) = ([0.0_f32; N_SUMS], [0.0_f32; N_SUMS], [0.0_f32; N_SUMS]);
    let chunks = group.as_chunks::<N_SUMS>().0.iter().zip(importance.as_chunks::<N_SUMS>().0);
    for (chunk, weights) in chunks {
        for i in 0..N_SUMS {
            let q = code(chunk[i], by);
            let error = chunk[i] - q * scale;
            errors[i] += weights[i] * error * error;
            wqs[i] += weights[i] * chunk[i] * q;
            qqs[i] += weights[i] * q * q;
        }
    }
    let qq = qqs.iter().sum::<f32>();
    let best_scale = if qq == 0.0 { scale } else { wqs.iter().sum::<f32>() / qq };
    Fit { error: errors.iter().sum(), best_scale }
}
