//! Stored tensors as f32 rows: f32, f16 and bf16 in, one row at a time, nothing kept.

use half::slice::HalfFloatSliceExt;
use std::ops::Range;

use half::{bf16, f16};
use safetensors::Dtype;

use crate::format::{FormatError, Tensor};
use crate::numbers::Storage;

/// A matrix or vector, read row by row. A vector is one row.
pub struct RowSource(Box<dyn ReadRow>);

/// How rows come out of what is stored.
pub trait ReadRow: Send + Sync {
    /// Writes row `row_idx` to the front of `out`, which is at least a row long; the rest stays as it is.
    fn read_row(&self, row_idx: usize, out: &mut [f32]);

    /// Writes some columns of a row to the front of `out`, which is at least a row long.
    fn read_part(&self, row_idx: usize, columns: Range<usize>, out: &mut [f32]) {
        self.read_row(row_idx, out);
        out.copy_within(columns, 0);
    }

    /// Whether they are codes in the checkpoint.
    fn is_quantized(&self) -> bool {
        false
    }

    /// The rows as an engine can hold them without loss, where they are quantized.
    fn packed(&self) -> Option<&dyn PackRow> {
        None
    }
}

/// Rows of a quantized matrix as an engine stores them.
pub trait PackRow: Send + Sync {
    fn storage(&self) -> Storage;

    /// Appends a row's bytes. The error is the first number that is none.
    fn pack_row(&self, row_idx: usize, packed: &mut Encoded) -> Result<(), f32>;

    /// Bytes of the tensors behind the matrix: factors of the inputs, then their order.
    fn inputs(&self) -> Vec<Vec<u8>>;
}

/// Bytes of consecutive rows, one behind the other, codes of four bits one per byte.
#[derive(Default)]
pub struct Encoded {
    pub weights: Vec<u8>,
    pub scales: Vec<u8>,
    /// Zeros, or scales of whole rows, by the kind of storage.
    pub extra: Vec<u8>,
}

/// Rows that lie one behind another, as in checkpoints.
struct Consecutive {
    tensor: Tensor,
    n_columns: usize,
    decode: Decoder,
}

impl RowSource {
    /// Checks the type and the shape.
    ///
    /// # Errors
    /// [`FormatError::Dtype`], [`FormatError::Shape`].
    pub fn new(name: &str, tensor: Tensor, shape: &[usize]) -> Result<Self, FormatError> {
        if tensor.shape() != shape {
            let (wanted, found) = (shape.to_vec(), tensor.shape().to_vec());
            return Err(FormatError::Shape { name: name.to_owned(), wanted, found });
        }
        let decode = decoder(tensor.dtype()).ok_or_else(|| FormatError::Dtype {
            name: name.to_owned(),
            wanted: "F32, F16 or BF16",
            found: format!("{:?}", tensor.dtype()),
        })?;
        let n_columns = shape.last().copied().unwrap_or(1);
        Ok(Self::of(Consecutive { tensor, n_columns, decode }))
    }

    /// Rows that are stored in another way.
    pub fn of(rows: impl ReadRow + 'static) -> Self {
        Self(Box::new(rows))
    }

    /// Matrices of `n_rows` rows each, one below the other.
    pub fn stacked(parts: Vec<RowSource>, n_rows: usize) -> Self {
        Self::of(Stacked { parts, n_rows })
    }

    /// The only matrix, or several one below the other.
    pub fn joined(mut parts: Vec<RowSource>, n_rows: usize) -> Self {
        match parts.pop() {
            Some(only) if parts.is_empty() => only,
            last => {
                parts.extend(last);
                Self::stacked(parts, n_rows)
            }
        }
    }

    /// The rows of a matrix from `first` on.
    pub fn below(rows: RowSource, first: usize) -> Self {
        if first == 0 { rows } else { Self::of(Below { rows, first }) }
    }

    /// The vector with 1 added; it is read as long as `out`.
    pub fn plus_one(vector: RowSource) -> Self {
        Self::of(PlusOne(vector))
    }

    /// Writes row `row_idx` to the front of `out`, which is at least a row long; the rest stays as it is.
    pub fn read_row(&self, row_idx: usize, out: &mut [f32]) {
        self.0.read_row(row_idx, out);
    }

    /// Writes some columns of a row to the front of `out`, which is at least a row long.
    pub fn read_part(&self, row_idx: usize, columns: Range<usize>, out: &mut [f32]) {
        self.0.read_part(row_idx, columns, out);
    }

    /// Whether they are codes in the checkpoint.
    pub fn is_quantized(&self) -> bool {
        self.0.is_quantized()
    }

    /// The rows as an engine can hold them without loss, where they are quantized.
    pub fn packed(&self) -> Option<&dyn PackRow> {
        self.0.packed()
    }
}

/// Matrices of one height, one below the other.
struct Stacked {
    parts: Vec<RowSource>,
    n_rows: usize,
}

impl ReadRow for Stacked {
    fn read_row(&self, row_idx: usize, out: &mut [f32]) {
        self.parts[row_idx / self.n_rows].read_row(row_idx % self.n_rows, out);
    }

    fn is_quantized(&self) -> bool {
        self.parts.iter().any(RowSource::is_quantized)
    }

    fn packed(&self) -> Option<&dyn PackRow> {
        let storage = self.parts.first()?.packed()?.storage();
        let is_alike = |part: &RowSource| part.packed().is_some_and(|part| part.storage() == storage);
        (!storage.changes_inputs() && self.parts.iter().all(is_alike)).then_some(self)
    }
}

impl PackRow for Stacked {
    fn storage(&self) -> Storage {
        self.parts[0].packed().expect("only packed parts are taken so").storage()
    }

    fn pack_row(&self, row_idx: usize, packed: &mut Encoded) -> Result<(), f32> {
        let part = self.parts[row_idx / self.n_rows].packed().expect("only packed parts are taken so");
        part.pack_row(row_idx % self.n_rows, packed)
    }

    fn inputs(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }
}

/// Rows behind others.
struct Below {
    rows: RowSource,
    first: usize,
}

impl ReadRow for Below {
    fn read_row(&self, row_idx: usize, out: &mut [f32]) {
        self.rows.read_row(self.first + row_idx, out);
    }

    fn read_part(&self, row_idx: usize, columns: Range<usize>, out: &mut [f32]) {
        self.rows.read_part(self.first + row_idx, columns, out);
    }
}

/// A vector with 1 added, in f32: what Gemma's norms multiply by.
struct PlusOne(RowSource);

impl ReadRow for PlusOne {
    fn read_row(&self, row_idx: usize, out: &mut [f32]) {
        self.0.read_row(row_idx, out);
        out.iter_mut().for_each(|value| *value += 1.0);
    }
}

impl ReadRow for Consecutive {
    fn read_row(&self, row_idx: usize, out: &mut [f32]) {
        self.read_part(row_idx, 0..self.n_columns, out);
    }

    fn read_part(&self, row_idx: usize, columns: Range<usize>, out: &mut [f32]) {
        let size = self.tensor.dtype().bitsize() / 8;
        let first = row_idx * self.n_columns + columns.start;
        let bytes = &self.tensor.data()[first * size..][..columns.len() * size];
        (self.decode)(bytes, &mut out[..columns.len()]);
    }
}

/// Writes as many f32 as fit to the slice.
pub type Decoder = fn(&[u8], &mut [f32]);

/// How a type's little-endian bytes become f32, for the types that are read.
pub fn decoder(dtype: Dtype) -> Option<Decoder> {
    match dtype {
        Dtype::F32 => Some(decode_f32),
        Dtype::F16 => Some(decode_f16),
        Dtype::BF16 => Some(decode_bf16),
        _ => None,
    }
}

fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    for (value, four) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*four);
    }
}

fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    let n = out.len().min(bytes.len() / 2);
    // Tensors are aligned as a rule; then whole vectors are converted.
    if let Ok(halves) = bytemuck::try_cast_slice::<u8, f16>(&bytes[..n * 2]) {
        return halves.convert_to_f32_slice(&mut out[..n]);
    }
    for (value, two) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = f16::from_le_bytes(*two).to_f32();
    }
}

fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    for (value, two) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = bf16::from_le_bytes(*two).to_f32();
    }
}
