//! The arithmetic: `round(W + (B A) * scale)`, row by row, as PEFT's merge computes it.
//!
//! W is the base weight rounded to the type that is written; sums are f32, rounded once at the end. A row's
//! result depends on that row's inputs alone, so the bytes are the same for any number of threads.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::element::Element;
use crate::format::Tensor;
use crate::kernels::Kernels;
use crate::kernels::merge_delta::LowRankTask;
use crate::numbers::round_to_f32;
use crate::tools::weights::source::Decoder;

/// Rows that are computed together.
const BLOCK_ROWS: usize = 4;

/// Stored floats, read as f32.
pub struct Floats {
    pub tensor: Tensor,
    pub decode: Decoder,
}

impl Floats {
    fn element_bytes(&self) -> usize {
        self.tensor.dtype().bitsize() / 8
    }

    /// Elements from `range.start` on into `out`, which has the range's length.
    fn read(&self, range: Range<usize>, out: &mut [f32]) {
        let size = self.element_bytes();
        (self.decode)(&self.tensor.data()[range.start * size..range.end * size], out);
    }
}

/// One of the two thin matrices: `[rank, len]` or `[len, rank]`.
pub struct Factor {
    pub floats: Floats,
    pub rank: usize,
    pub len: usize,
    pub is_rank_first: bool,
}

impl Factor {
    /// `[positions, rank]`.
    fn by_position(&self, positions: Range<usize>) -> Vec<f32> {
        let mut out = vec![0.0; positions.len() * self.rank];
        if !self.is_rank_first {
            self.floats.read(positions.start * self.rank..positions.end * self.rank, &mut out);
            return out;
        }
        let mut part = vec![0.0; positions.len()];
        for r in 0..self.rank {
            self.floats.read(r * self.len + positions.start..r * self.len + positions.end, &mut part);
            for (at, value) in part.iter().enumerate() {
                out[at * self.rank + r] = *value;
            }
        }
        out
    }

    /// `[rank, len]`.
    fn by_rank(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rank * self.len];
        if self.is_rank_first {
            self.floats.read(0..self.rank * self.len, &mut out);
            return out;
        }
        let mut part = vec![0.0; self.rank];
        for position in 0..self.len {
            self.floats.read(position * self.rank..(position + 1) * self.rank, &mut part);
            for (r, value) in part.iter().enumerate() {
                out[r * self.len + position] = *value;
            }
        }
        out
    }
}

/// DoRA: every output's weight vector gets the length that was learned (Liu et al. 2024, arXiv 2402.09353).
pub struct Dora {
    pub magnitude: Vec<f32>,
    /// Whether an output is a column of the stored weight, not a row.
    pub is_by_column: bool,
    /// Magnitude by length, per column, once it is known.
    pub factors: OnceLock<Vec<f32>>,
}

/// What is added to a matrix `[rows, columns]`.
pub struct Delta {
    /// One position per row.
    pub coefficients: Factor,
    /// One position per column.
    pub panel: Factor,
    pub scale: f32,
    /// Whether the change is rounded before it is added: PEFT does so for embeddings.
    pub rounds_delta: bool,
    pub dora: Option<Dora>,
    /// Shared by the threads that work on this matrix, freed when the last of them goes on.
    pub unpacked: Mutex<Weak<Vec<f32>>>,
}

impl Delta {
    /// The panel as `[rank, columns]`.
    pub fn panel(&self) -> Arc<Vec<f32>> {
        let mut shared = self.unpacked.lock().expect("no thread panics while it holds the lock");
        shared.upgrade().unwrap_or_else(|| {
            let panel = Arc::new(self.panel.by_rank());
            *shared = Arc::downgrade(&panel);
            panel
        })
    }
}

/// A matrix that is changed.
pub struct MergedMatrix {
    pub base: Floats,
    pub delta: Delta,
}

/// What all rows have in common. The errors of its functions are the first value that the type cannot hold.
pub struct Arithmetic {
    pub kernels: Kernels,
    pub element: Element,
}

impl Arithmetic {
    /// Elements of a tensor that is not changed, as bytes.
    pub fn cast(&self, base: &Floats, range: Range<usize>) -> Result<Vec<u8>, f32> {
        let size = base.element_bytes();
        if base.tensor.dtype() == self.element.dtype() {
            return Ok(base.tensor.data()[range.start * size..range.end * size].to_vec());
        }
        let mut values = vec![0.0; range.len()];
        base.read(range, &mut values);
        let mut out = Vec::with_capacity(values.len() * self.element.n_bytes());
        self.element.encode(&values, &mut out)?;
        Ok(out)
    }

    /// `bias + change * scale`.
    pub fn add_bias(&self, base: &Floats, change: &Floats, scale: f32) -> Result<Vec<u8>, f32> {
        let n = base.tensor.n_elements();
        let (mut values, mut changes) = (vec![0.0; n], vec![0.0; n]);
        base.read(0..n, &mut values);
        self.element.round(&mut values)?;
        change.read(0..n, &mut changes);
        values.iter_mut().zip(&changes).for_each(|(value, change)| *value += change * scale);
        let mut out = Vec::with_capacity(n * self.element.n_bytes());
        self.element.encode(&values, &mut out)?;
        Ok(out)
    }

    /// Rows of a changed matrix, as bytes.
    pub fn merge(&self, matrix: &MergedMatrix, panel: &[f32], rows: Range<usize>) -> Result<Vec<u8>, f32> {
        let n_columns = matrix.delta.panel.len;
        let mut out = Vec::with_capacity(rows.len() * n_columns * self.element.n_bytes());
        let by_column = matrix.delta.dora.as_ref().filter(|dora| dora.is_by_column);
        let column_factors = match by_column {
            Some(dora) => Some(self.column_factors(matrix, panel, dora)?),
            None => None,
        };
        self.for_each_block(matrix, panel, rows, |first, block| {
            if let Some(factors) = column_factors {
                for row in block.chunks_exact_mut(n_columns) {
                    row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
                }
            } else if let Some(dora) = &matrix.delta.dora {
                for (row, magnitude) in block.chunks_exact_mut(n_columns).zip(&dora.magnitude[first..]) {
                    let factor = magnitude / length(row);
                    row.iter_mut().for_each(|value| *value *= factor);
                }
            }
            self.element.encode(block, &mut out)
        })?;
        Ok(out)
    }

    /// Calls `work` with the first row's index and `W + delta` of a few rows at a time.
    fn for_each_block(
        &self,
        matrix: &MergedMatrix,
        panel: &[f32],
        rows: Range<usize>,
        mut work: impl FnMut(usize, &mut [f32]) -> Result<(), f32>,
    ) -> Result<(), f32> {
        let delta = &matrix.delta;
        let (n_columns, rank) = (delta.panel.len, delta.panel.rank);
        let coefficients = delta.coefficients.by_position(rows.clone());
        let is_rounded = matrix.base.tensor.dtype() == self.element.dtype();
        let mut sums = vec![0.0; BLOCK_ROWS.min(rows.len()) * n_columns];
        let mut change = vec![0.0; sums.len()];
        for (first, coefficients) in
            rows.clone().step_by(BLOCK_ROWS).zip(coefficients.chunks(BLOCK_ROWS * rank))
        {
            let n_rows = coefficients.len() / rank;
            let (sums, change) = (&mut sums[..n_rows * n_columns], &mut change[..n_rows * n_columns]);
            matrix.base.read(first * n_columns..(first + n_rows) * n_columns, sums);
            if !is_rounded {
                self.element.round(sums)?;
            }
            let mut task = LowRankTask { coefficients, panel, rank, scale: delta.scale, delta: change };
            // SAFETY: the table was made for this processor; the task's lengths are checked inside.
            unsafe { (self.kernels.low_rank)(&mut task) };
            if delta.rounds_delta {
                self.element.round(change)?;
            }
            sums.iter_mut().zip(&*change).for_each(|(sum, change)| *sum += change);
            work(first, sums)?;
        }
        Ok(())
    }

    /// Magnitude by length of every column: one pass over the whole matrix, in the order of its rows.
    fn column_factors<'a>(
        &self,
        matrix: &MergedMatrix,
        panel: &[f32],
        dora: &'a Dora,
    ) -> Result<&'a [f32], f32> {
        /// Rows whose coefficients are in memory together.
        const PASS_ROWS: usize = 1024;
        if let Some(factors) = dora.factors.get() {
            return Ok(factors);
        }
        let (n_rows, magnitude) = (matrix.delta.coefficients.len, &dora.magnitude);
        let mut squares = vec![0.0_f64; magnitude.len()];
        for first in (0..n_rows).step_by(PASS_ROWS) {
            self.for_each_block(matrix, panel, first..(first + PASS_ROWS).min(n_rows), |_, block| {
                for row in block.chunks_exact(magnitude.len()) {
                    squares.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value).powi(2));
                }
                Ok(())
            })?;
        }
        let factor = |(magnitude, squares): (&f32, &f64)| magnitude / round_to_f32(squares.sqrt());
        Ok(dora.factors.get_or_init(|| magnitude.iter().zip(&squares).map(factor).collect()))
    }
}

/// Euclidean length, summed in f64.
fn length(row: &[f32]) -> f32 {
    const N_SUMS: usize = 8;
    let mut sums = [0.0_f64; N_SUMS];
    for part in row.chunks(N_SUMS) {
        sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += f64::from(*value).powi(2));
    }
    round_to_f32(sums.iter().sum::<f64>().sqrt())
}
