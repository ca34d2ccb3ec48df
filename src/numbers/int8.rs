//! Rows of f32 to int8: the meaning of the stored numbers.

use super::rounding::code_i8;

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

fn int8_code(w: f32, by: f32) -> i8 {
    code_i8(nearest((w * by).clamp(-127.0, 127.0)))
}

/// Rounds to the nearest whole number, ties to even, for magnitudes below 2^22: adding 1.5 * 2^23 leaves no
/// bits for a fraction. Vector units without a rounding instruction do this too.
pub fn nearest(value: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    (value + MAGIC) - MAGIC
}

/// 0 for a scale of 0 or one too small to invert, so that its codes are all 0.
fn inverse(scale: f32) -> f32 {
    let by = 1.0 / scale;
    if by.is_finite() { by } else { 0.0 }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Bell-shaped values without a random number library: sums of a multiplicative sequence.
    pub fn bell(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2) + 1;
        let mut uniform = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 0.05).collect()
    }

    fn error(row: &[f32], stored: &[f32]) -> f64 {
        row.iter().zip(stored).map(|(w, s)| f64::from(w - s).powi(2)).sum()
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
