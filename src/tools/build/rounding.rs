//! Rows of f32 to int8 and int4: the meaning of the stored numbers, and the search for the best scale.
//!
//! Sums run in a fixed order, so equal rows give equal bytes on every machine and with any number of threads.

use half::f16;

use crate::format::precision::{INT4_BLOCK, int4_group};

/// Running sums, so that the compiler may use vectors; they are added in a fixed order at the end.
const N_SUMS: usize = 16;

/// Quantizes a row to `out` and returns the scale: `w = q * scale`, `q` in -127..=127.
/// `row` and `out` have the stride's length.
///
/// The largest magnitude maps to 127. Clipping it gains 0.3% of the squared error on bell-shaped rows and
/// loses on rows with outliers, so nothing is searched.
pub fn int8_row(row: &[f32], out: &mut [i8]) -> f32 {
    let largest = row.iter().fold(0.0_f32, |most, w| most.max(w.abs()));
    let scale = largest / 127.0;
    let by = inverse(scale);
    for (q, w) in out.iter_mut().zip(row) {
        *q = int8_code(*w, by);
    }
    scale
}

#[expect(clippy::cast_possible_truncation)]
fn int8_code(w: f32, by: f32) -> i8 {
    nearest((w * by).clamp(-127.0, 127.0)) as i8
}

/// Quantizes a row of `stride` elements into `stride / 2` bytes and `stride / group` f16 scales.
pub fn int4_row(row: &[f32], out: &mut [u8], scales: &mut [f16]) {
    let group = int4_group(row.len());
    for ((values, bytes), scale) in row.chunks(group).zip(out.chunks_mut(group / 2)).zip(scales) {
        *scale = int4_scale(values);
        let by = inverse(scale.to_f32());
        for (block, packed) in values.chunks(INT4_BLOCK).zip(bytes.chunks_mut(INT4_BLOCK / 2)) {
            let (low, high) = block.split_at(INT4_BLOCK / 2);
            for ((byte, low), high) in packed.iter_mut().zip(low).zip(high) {
                *byte = nibble(*low, by) | nibble(*high, by) << 4;
            }
        }
    }
}

/// Searches the f16 scale with the least squared error over a group of at most 128.
///
/// Candidates put the largest element, with its sign, on -8 (so the scale may be negative) or on 7, exactly
/// or clipped; the best are then refined by least squares: with the codes `q` fixed, the best scale is
/// `sum(w q) / sum(q q)`. A scale is rounded to f16 before its codes are chosen.
fn int4_scale(group: &[f32]) -> f16 {
    const DIVISORS: [f32; 8] = [6.6, 7.0, 7.4, 7.8, 8.2, 8.7, 9.3, 10.0];
    const N_REFINED: usize = 3;
    const N_ROUNDS: usize = 3;
    let extreme = group.iter().fold(0.0_f32, |most, w| if w.abs() > most.abs() { *w } else { most });
    let mut candidates = [(f32::INFINITY, f16::ZERO); 2 * DIVISORS.len()];
    for (pair, divisor) in candidates.chunks_mut(2).zip(DIVISORS) {
        for (candidate, extreme) in pair.iter_mut().zip([extreme, -extreme]) {
            let scale = f16::from_f32(extreme / divisor);
            if scale.is_finite() {
                *candidate = (int4_fit(group, scale).error, scale);
            }
        }
    }
    candidates.sort_by(|left, right| left.0.total_cmp(&right.0));
    let mut best = candidates[0];
    for (_, start) in &candidates[..N_REFINED] {
        let mut scale = *start;
        for _ in 0..N_ROUNDS {
            let refined = int4_fit(group, scale).best_scale;
            if refined == scale || !refined.is_finite() {
                break;
            }
            scale = refined;
            let error = int4_fit(group, scale).error;
            if error < best.0 {
                best = (error, scale);
            }
        }
    }
    best.1
}

/// How well a scale fits a group.
struct Fit {
    /// Sum of the squared errors.
    error: f32,
    /// The best scale for the codes that this scale gives.
    best_scale: f16,
}

fn int4_fit(group: &[f32], scale: f16) -> Fit {
    let scale = scale.to_f32();
    let by = inverse(scale);
    let (mut errors, mut wqs, mut qqs) = ([0.0_f32; N_SUMS], [0.0_f32; N_SUMS], [0.0_f32; N_SUMS]);
    for chunk in group.as_chunks::<N_SUMS>().0 {
        for i in 0..N_SUMS {
            let w = chunk[i];
            let q = int4_code(w, by);
            let error = w - q * scale;
            errors[i] += error * error;
            wqs[i] += w * q;
            qqs[i] += q * q;
        }
    }
    let (wq, qq) = (wqs.iter().sum::<f32>(), qqs.iter().sum::<f32>());
    let best_scale = if qq == 0.0 { f16::from_f32(scale) } else { f16::from_f32(wq / qq) };
    Fit { error: errors.iter().sum(), best_scale }
}

/// -8..=7, as a float.
fn int4_code(w: f32, by: f32) -> f32 {
    nearest((w * by).clamp(-8.0, 7.0))
}

/// Rounds to the nearest whole number, ties to even, for magnitudes below 2^22: adding 1.5 * 2^23 leaves no
/// bits for a fraction. Vector units without a rounding instruction do this too.
fn nearest(value: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    (value + MAGIC) - MAGIC
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn nibble(w: f32, by: f32) -> u8 {
    (int4_code(w, by) + 8.0) as u8
}

/// 0 for a scale of 0 or one too small to invert, so that its codes are all 0.
fn inverse(scale: f32) -> f32 {
    let by = 1.0 / scale;
    if by.is_finite() { by } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bell-shaped values without a random number library: sums of a multiplicative sequence.
    fn bell(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2) + 1;
        let mut uniform = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 0.05).collect()
    }

    fn int4_values(row: &[f32]) -> Vec<f32> {
        let group = int4_group(row.len());
        let mut bytes = vec![0; row.len() / 2];
        let mut scales = vec![f16::ZERO; row.len() / group];
        int4_row(row, &mut bytes, &mut scales);
        let code = |i: usize| {
            let byte = bytes[i / 32 * 16 + i % 16];
            let q = if i % 32 < 16 { byte & 15 } else { byte >> 4 };
            f32::from(q) - 8.0
        };
        (0..row.len()).map(|i| code(i) * scales[i / group].to_f32()).collect()
    }

    fn error(row: &[f32], stored: &[f32]) -> f64 {
        row.iter().zip(stored).map(|(w, s)| f64::from(w - s).powi(2)).sum()
    }

    #[test]
    fn int4_search_beats_plain_rounding() {
        let row = bell(128 * 64, 7);
        let plain: Vec<f32> = row
            .chunks(128)
            .flat_map(|group| {
                let largest = group.iter().fold(0.0_f32, |most, w| most.max(w.abs()));
                let scale = f16::from_f32(largest / 7.0).to_f32();
                group.iter().map(move |w| int4_code(*w, 1.0 / scale) * scale)
            })
            .collect();
        let ratio = error(&row, &int4_values(&row)) / error(&row, &plain);
        assert!(ratio < 0.85, "{ratio}");
    }

    #[test]
    fn int4_layout_and_edges() {
        struct Case {
            row: Vec<f32>,
            exact: bool,
        }
        let ramp = |scale: f32| (0..32).map(|i| ((i % 16) as f32 - 8.0) * scale).collect::<Vec<f32>>();
        let mut mixed = ramp(0.25);
        mixed.swap(3, 20);
        let cases = [
            Case { row: vec![0.0; 64], exact: true },
            Case { row: ramp(0.25), exact: true },
            Case { row: ramp(-0.25), exact: true },
            Case { row: mixed, exact: true },
            Case { row: vec![1e-30; 32], exact: false },
            Case { row: bell(96, 3), exact: false },
        ];
        for case in cases {
            let stored = int4_values(&case.row);
            let power = error(&case.row, &vec![0.0; case.row.len()]);
            let bound = if case.exact { 0.0 } else { power * 1.000_001 };
            assert!(error(&case.row, &stored) <= bound, "{:?} {stored:?}", case.row);
        }
        let mut bytes = vec![0; 16];
        let mut scales = [f16::ZERO];
        int4_row(&[0.0; 32], &mut bytes, &mut scales);
        assert_eq!((bytes, scales), (vec![0x88; 16], [f16::ZERO]));
    }

    #[test]
    fn int8_is_close() {
        let row = bell(896, 5);
        let mut codes = vec![0; row.len()];
        let scale = int8_row(&row, &mut codes);
        let stored: Vec<f32> = codes.iter().map(|q| f32::from(*q) * scale).collect();
        assert_eq!(codes.iter().map(|q| q.unsigned_abs()).max(), Some(127));
        assert!(row.iter().zip(&stored).all(|(w, s)| (w - s).abs() <= scale * 0.501));
        assert!(error(&row, &stored) / error(&row, &vec![0.0; 896]) < 1e-4);
        assert_eq!(int8_row(&[0.0; 32], &mut codes[..32]), 0.0);
        assert_eq!(codes[..32], [0; 32]);
    }
}
