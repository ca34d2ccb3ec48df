//! One matrix on its way: read as f32, scaled, rounded to f16 once, turned.
//!
//! The workflow's own tool rounds the product to the source's type before f16. For f32 and f16 that gives the same
//! bytes; of a bf16 product it leaves eight bits, which costs several times the error of f16.

use half::f16;

use crate::format::{FormatError, Tensor};
use crate::tools::weights::source::{Decoder, decoder};

/// A matrix of the PEFT file whose type can be read.
pub struct Source {
    /// In the file.
    pub name: String,
    tensor: Tensor,
    decode: Decoder,
    n_rows: usize,
    n_columns: usize,
}

impl Source {
    /// # Errors
    /// [`FormatError`] where the tensor is no matrix of floats.
    pub fn new(name: &str, tensor: &Tensor) -> Result<Self, FormatError> {
        let decode = decoder(tensor.dtype()).ok_or_else(|| FormatError::Dtype {
            name: name.to_owned(),
            wanted: "F32, F16 or BF16",
            found: format!("{:?}", tensor.dtype()),
        })?;
        match *tensor.shape() {
            [n_rows, n_columns] if n_rows > 0 && n_columns > 0 => {
                Ok(Self { name: name.to_owned(), tensor: tensor.clone(), decode, n_rows, n_columns })
            }
            _ => Err(FormatError::Damaged {
                what: "adapter",
                why: format!("tensor {name} has shape {:?}, wanted a matrix", tensor.shape()),
            }),
        }
    }

    /// As the file has it.
    pub fn shape(&self) -> [usize; 2] {
        [self.n_rows, self.n_columns]
    }

    /// `[rows, columns]` to the bytes of f16 `[columns, rows]`, first multiplied by `scale`. The error is the first
    /// value that f16 cannot hold.
    pub fn transposed_f16(&self, scale: Option<f64>) -> Result<Vec<u8>, f32> {
        #[expect(clippy::cast_possible_truncation)]
        let scale = scale.map(|scale| scale as f32);
        let mut row = vec![0.0_f32; self.n_columns];
        let mut values = vec![0_u8; self.n_rows * self.n_columns * 2];
        let rows = self.tensor.data().chunks(self.tensor.data().len() / self.n_rows);
        for (row_idx, bytes) in rows.enumerate() {
            (self.decode)(bytes, &mut row);
            for (column_idx, value) in row.iter().enumerate() {
                let scaled = scale.map_or(*value, |scale| value * scale);
                let half = f16::from_f32(scaled);
                if !half.is_finite() {
                    return Err(scaled);
                }
                let at = (column_idx * self.n_rows + row_idx) * 2;
                values[at..at + 2].copy_from_slice(&half.to_le_bytes());
            }
        }
        Ok(values)
    }
}
