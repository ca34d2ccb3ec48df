//! Rounding with feedback (GPTQ, Frantar et al. 2022, arXiv 2210.17323), inside a block of inputs: what one weight loses
//! in rounding, the weights after it make up for, as far as their inputs go together.

use super::rounding::round_to_f32;

/// Share of the mean of the diagonal that is added to it, so that the matrix can be inverted.
const DAMPING: f64 = 0.01;

/// How errors spread inside one block of `n` inputs.
#[derive(Debug, Clone)]
pub struct Feedback {
    /// Upper factor of the inverse of the inputs' moments, row-major `[n, n]`, each row divided by its
    /// diagonal element.
    factor: Vec<f32>,
    n: usize,
}

impl Feedback {
    /// Of the sums of products `x_i x_j`, `[n, n]`, where `x_i` comes multiplied by `scales[i]`. None where
    /// the inputs were never other than zero.
    pub fn new(moments: &[f32], scales: &[f32]) -> Option<Self> {
        let n = scales.len();
        let scaled =
            |i: usize, j: usize| f64::from(moments[i * n + j]) * f64::from(scales[i]) * f64::from(scales[j]);
        let mut matrix: Vec<f64> = (0..n * n).map(|at| scaled(at / n, at % n)).collect();
        let mean = (0..n).map(|i| matrix[i * n + i]).sum::<f64>() / n as f64;
        if !mean.is_finite() || mean <= 0.0 {
            return None;
        }
        (0..n).for_each(|i| matrix[i * n + i] += DAMPING * mean);
        let lower = cholesky(&inverse(&cholesky(&matrix, n)?, n), n)?;
        // The upper factor is the lower one seen from the side.
        let factor =
            (0..n * n).map(|at| round_to_f32(lower[at % n * n + at / n] / lower[at / n * n + at / n]));
        Some(Self { factor: factor.collect(), n })
    }

    /// Codes of `values`, `[n]`. `nearest` gives the code of the i-th one, and the value that it stands for.
    pub fn codes(&self, values: &[f32], nearest: impl Fn(usize, f32) -> (f32, f32)) -> Vec<f32> {
        let mut values = values.to_vec();
        let mut codes = Vec::with_capacity(self.n);
        for i in 0..self.n {
            let (code, value) = nearest(i, values[i]);
            let error = values[i] - value;
            let row = &self.factor[i * self.n..][..self.n];
            values[i + 1..].iter_mut().zip(&row[i + 1..]).for_each(|(w, share)| *w -= error * share);
            codes.push(code);
        }
        codes
    }
}

/// The lower factor of a symmetric matrix `[n, n]`; none unless it is positive definite.
fn cholesky(matrix: &[f64], n: usize) -> Option<Vec<f64>> {
    let mut lower = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let products = (0..j).map(|k| lower[i * n + k] * lower[j * n + k]).sum::<f64>();
            let rest = matrix[i * n + j] - products;
            lower[i * n + j] = if i == j { rest.sqrt() } else { rest / lower[j * n + j] };
        }
        if !lower[i * n + i].is_normal() {
            return None;
        }
    }
    Some(lower)
}

/// The inverse of the matrix with this lower factor.
fn inverse(lower: &[f64], n: usize) -> Vec<f64> {
    // Row i of the factor's inverse.
    let mut inverted = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let one = if i == j { 1.0 } else { 0.0 };
            let products = (j..i).map(|k| lower[i * n + k] * inverted[k * n + j]).sum::<f64>();
            inverted[i * n + j] = (one - products) / lower[i * n + i];
        }
    }
    let product = |i: usize, j: usize| (i.max(j)..n).map(|k| inverted[k * n + i] * inverted[k * n + j]).sum();
    (0..n * n).map(|at| product(at / n, at % n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs of which each resembles the one before it.
    fn inputs(n: usize, n_rows: usize) -> Vec<Vec<f32>> {
        let mut state = 7_u64;
        let mut noise = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        let mut row = move || {
            let mut last = 0.0;
            (0..n)
                .map(|_| {
                    last = 0.8 * last + noise();
                    last
                })
                .collect()
        };
        (0..n_rows).map(|_| row()).collect()
    }

    #[test]
    fn feedback_lowers_the_output_error_and_factors_are_right() {
        let n = 32;
        let rows = inputs(n, 500);
        let mut moments = vec![0.0; n * n];
        for row in &rows {
            (0..n * n).for_each(|at| moments[at] += row[at / n] * row[at % n]);
        }
        let weights = inputs(n, 1).remove(0);
        let feedback = Feedback::new(&moments, &vec![1.0; n]).unwrap();
        let scale = 0.2;
        let code_of = |w: f32| (w / scale).round().clamp(-8.0, 7.0);
        let plain: Vec<f32> = weights.iter().map(|w| code_of(*w)).collect();
        let error = |codes: &[f32]| -> f64 {
            let output =
                |row: &Vec<f32>| (0..n).map(|i| (weights[i] - codes[i] * scale) * row[i]).sum::<f32>();
            rows.iter().map(|row| f64::from(output(row)).powi(2)).sum()
        };
        let ratio = error(&feedback.codes(&weights, |_, w| (code_of(w), code_of(w) * scale))) / error(&plain);
        assert!(ratio < 0.6, "{ratio}");

        let matrix: Vec<f64> = moments.iter().map(|x| f64::from(*x)).collect();
        let inverted = inverse(&cholesky(&matrix, n).unwrap(), n);
        for (i, j) in [(0, 0), (3, 7), (31, 31), (31, 2)] {
            let product: f64 = (0..n).map(|k| matrix[i * n + k] * inverted[k * n + j]).sum();
            assert!((product - if i == j { 1.0 } else { 0.0 }).abs() < 1e-6, "{i} {j}: {product}");
        }
        assert!(Feedback::new(&vec![0.0; n * n], &vec![1.0; n]).is_none());
        assert!(cholesky(&[1.0, 2.0, 2.0, 1.0], 2).is_none());
    }
}
