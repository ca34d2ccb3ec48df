//! Activations: rows of f32, each padded with zeros to the stride that matrices use.

use crate::kernels::matrix::row_stride;

/// `[n_rows, width]`, stored `[n_rows, stride]`; elements beyond the width are zero.
pub struct Rows {
    data: Vec<f32>,
    n_rows: usize,
    width: usize,
}

impl Rows {
    pub fn zeros(n_rows: usize, width: usize) -> Self {
        Self { data: vec![0.0; n_rows * row_stride(width)], n_rows, width }
    }

    pub fn set_n_rows(&mut self, n_rows: usize) {
        self.data.resize(n_rows * self.stride(), 0.0);
        self.n_rows = n_rows;
    }

    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn stride(&self) -> usize {
        row_stride(self.width)
    }

    /// All rows, `[n_rows, stride]`.
    pub fn as_slice(&self) -> &[f32] {
        &self.data
    }

    pub fn as_mut_ptr(&mut self) -> *mut f32 {
        self.data.as_mut_ptr()
    }

    /// `[width]`
    pub fn row(&self, row_idx: usize) -> &[f32] {
        &self.data[row_idx * self.stride()..][..self.width]
    }

    /// Becomes the rows of another one with these numbers.
    pub fn copy_rows(&mut self, from: &Rows, row_idx: &[usize]) {
        self.set_n_rows(row_idx.len());
        for (to, &row_idx) in row_idx.iter().enumerate() {
            self.row_mut(to).copy_from_slice(from.row(row_idx));
        }
    }

    /// `[width]`
    pub fn row_mut(&mut self, row_idx: usize) -> &mut [f32] {
        let stride = self.stride();
        &mut self.data[row_idx * stride..][..self.width]
    }
}
