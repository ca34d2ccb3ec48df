//! The tensors of a GGUF file as rows: blocks decoded, rows of llama's queries and keys put back in their order. Blocks of
//! Q4_0 are also what engines have as int4 in groups of 32.

use half::f16;

use super::source::{Encoded, PackRow, ReadRow, RowSource};
use crate::format::gguf::{GgufFile, GgufPlace, RowOrder};
use crate::format::{Bytes, FormatError};
use crate::numbers::gguf::BlockKind;
use crate::numbers::kind::{ScaleType, Zeros};
use crate::numbers::precision::row_stride;
use crate::numbers::{Kind, Storage};

/// The rows of an item with the given shape; `bytes` are those of the file.
///
/// # Errors
/// [`FormatError::MissingTensor`], [`FormatError::Shape`].
pub(crate) fn gguf_rows(
    file: &GgufFile,
    bytes: &Bytes,
    place: &GgufPlace,
    shape: &[usize],
) -> Result<RowSource, FormatError> {
    let missing = || FormatError::MissingTensor { name: place.tensor.clone() };
    let tensor = file.tensor(&place.tensor).ok_or_else(missing)?;
    let (rows, mut wanted) = (place.fused.as_ref(), shape.to_vec());
    if let Some((_, n_rows)) = rows {
        wanted[0] = *n_rows;
    }
    if tensor.shape != wanted {
        let (name, found) = (place.tensor.clone(), tensor.shape.clone());
        return Err(FormatError::Shape { name, wanted, found });
    }
    let n_columns = shape.last().copied().unwrap_or(1);
    let row_bytes = tensor.kind.row_bytes(n_columns).expect("the file's reader has checked the rows");
    let first_row = rows.map_or(0, |(rows, _)| rows.start);
    let start = tensor.bytes.start + first_row * row_bytes;
    let order = place.order;
    let rows = Blocks { bytes: Bytes::clone(bytes), kind: tensor.kind, start, row_bytes, n_columns, order };
    Ok(if shape.len() == 1 && order != RowOrder::Same {
        RowSource::of(Vector { rows: Blocks { order: RowOrder::Same, ..rows }, order })
    } else {
        RowSource::of(rows)
    })
}

/// Rows of blocks.
struct Blocks {
    bytes: Bytes,
    kind: BlockKind,
    /// Of the first row, in the file.
    start: usize,
    row_bytes: usize,
    n_columns: usize,
    order: RowOrder,
}

impl Blocks {
    fn row(&self, row_idx: usize) -> &[u8] {
        let start = self.start + self.order.stored(row_idx) * self.row_bytes;
        &(*self.bytes).as_ref()[start..][..self.row_bytes]
    }
}

impl ReadRow for Blocks {
    fn read_row(&self, row_idx: usize, out: &mut [f32]) {
        self.kind.decode(self.row(row_idx), &mut out[..self.n_columns]);
    }

    fn packed(&self) -> Option<&dyn PackRow> {
        (self.kind == BlockKind::Q4_0).then_some(self)
    }
}

impl PackRow for Blocks {
    fn storage(&self) -> Storage {
        let group = self.kind.block_len();
        Kind::Int4 { group, scales: ScaleType::F16, zeros: Zeros::Middle }.into()
    }

    fn pack_row(&self, row_idx: usize, packed: &mut Encoded) -> Result<(), f32> {
        let (block_len, stride) = (self.kind.block_len(), row_stride(self.n_columns));
        let mut codes = vec![8; block_len];
        for block in self.row(row_idx).chunks_exact(self.kind.block_bytes()) {
            let scale = self.kind.four_bits(block, &mut codes).unwrap_or_default();
            let value = f16::from_le_bytes(<[u8; 2]>::try_from(scale).unwrap_or_default());
            if !value.is_finite() {
                return Err(value.to_f32());
            }
            packed.scales.extend(scale);
            packed.weights.extend(&codes);
        }
        // What fills up a row counts for nothing.
        packed.weights.extend(std::iter::repeat_n(8, stride - self.n_columns));
        packed.scales.extend(std::iter::repeat_n(0, (stride - self.n_columns) / block_len * 2));
        Ok(())
    }

    fn inputs(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }
}

/// A vector whose elements are in another order: the bias of what has its rows so.
struct Vector {
    rows: Blocks,
    order: RowOrder,
}

impl ReadRow for Vector {
    fn read_row(&self, row_idx: usize, out: &mut [f32]) {
        let mut stored = vec![0.0; self.rows.n_columns];
        self.rows.read_row(row_idx, &mut stored);
        let values = (0..self.rows.n_columns).map(|at| stored[self.order.stored(at)]);
        out.iter_mut().zip(values).for_each(|(value, found)| *value = found);
    }
}
