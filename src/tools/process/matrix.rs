//! One matrix on its way: read as f32, scaled, rounded to f16 once, turned.
//!
//! The workflow's own tool rounds the product to the source's type before f16. For f32 and f16 that gives the same
//! bytes; of a bf16 product it leaves eight bits, which costs several times the error of f16.

use half::f16;

use crate::format::{FormatError, Tensor};
use crate::numbers::round_to_f32;
use crate::tools::weights::source::RowSource;

/// A matrix of an adapter's file whose type can be read.
pub struct AdapterMatrix {
    /// In the file.
    pub name: String,
    rows: RowSource,
    shape: [usize; 2],
}

impl std::fmt::Debug for AdapterMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.name, self.shape)
    }
}

impl AdapterMatrix {
    /// # Errors
    /// [`FormatError`] where the tensor is no matrix of floats.
    pub fn new(name: &str, tensor: &Tensor) -> Result<Self, FormatError> {
        match *tensor.shape() {
            [n_rows, n_columns] if n_rows > 0 && n_columns > 0 => {
                let shape = [n_rows, n_columns];
                Ok(Self::of(name.to_owned(), RowSource::new(name, tensor.clone(), &shape)?, shape))
            }
            _ => Err(FormatError::Damaged {
                what: "adapter",
                why: format!("tensor {name} has shape {:?}, wanted a matrix", tensor.shape()),
            }),
        }
    }

    /// Rows that are read in another way.
    pub fn of(name: String, rows: RowSource, shape: [usize; 2]) -> Self {
        Self { name, rows, shape }
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// `[rows, columns]` to the bytes of f16 `[columns, rows]`, first multiplied by `scale`. The error is the first
    /// value that f16 cannot hold.
    pub fn transposed_f16(&self, scale: Option<f64>) -> Result<Vec<u8>, f32> {
        let scale = scale.map(round_to_f32);
        let [n_rows, n_columns] = self.shape;
        let mut row = vec![0.0_f32; n_columns];
        let mut values = vec![0_u8; n_rows * n_columns * 2];
        for row_idx in 0..n_rows {
            self.rows.read_row(row_idx, &mut row);
            for (column_idx, value) in row.iter().enumerate() {
                let scaled = scale.map_or(*value, |scale| value * scale);
                let half = f16::from_f32(scaled);
                if !half.is_finite() {
                    return Err(scaled);
                }
                let at = (column_idx * n_rows + row_idx) * 2;
                values[at..at + 2].copy_from_slice(&half.to_le_bytes());
            }
        }
        Ok(values)
    }
}
