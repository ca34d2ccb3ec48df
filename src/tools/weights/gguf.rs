//! The tensors of a GGUF file as rows: blocks decoded, rows of llama's queries and keys put back in their order. Engines
//! hold blocks of each kind with their own codes: Q4_0 and Q8_0 as groups of 32, the others as what they are.

use half::f16;

use super::source::{Encoded, PackRow, ReadRow, RowSource};
use crate::format::gguf::{GgufFile, GgufPlace, RowOrder};
use crate::format::{Bytes, FormatError};
use crate::numbers::gguf::{BlockKind, RowParts};
use crate::numbers::kind::{INT4_MIDDLE, ScaleType, Zeros};
use crate::numbers::precision::row_stride;
use crate::numbers::{KeptBlocks, Kind, Storage};

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
        kept_kind(self.kind).map(|_| self as &dyn PackRow)
    }
}

/// How engines hold blocks of a kind as they are.
pub(crate) fn kept_kind(kind: BlockKind) -> Option<Kind> {
    let group = kind.block_len();
    match kind {
        BlockKind::Q4_0 => Some(Kind::Int4 { group, scales: ScaleType::F16, zeros: Zeros::Middle }),
        BlockKind::Q8_0 => Some(Kind::Int8Groups { group, zeros: Zeros::Middle }),
        _ => KeptBlocks::of(kind).map(Kind::Kept),
    }
}

impl Blocks {
    fn pack_kept(&self, row_idx: usize, packed: &mut Encoded) -> Result<(), f32> {
        let mut row = RowParts::default();
        for block in self.row(row_idx).chunks_exact(self.kind.block_bytes()) {
            row.push(self.kind, block)?;
        }
        packed.weights.extend(row.codes);
        packed.scales.extend(row.scales);
        packed.extra.extend(row.factors);
        Ok(())
    }
}

impl PackRow for Blocks {
    fn storage(&self) -> Storage {
        kept_kind(self.kind).expect("nothing else is packed").into()
    }

    fn pack_row(&self, row_idx: usize, packed: &mut Encoded) -> Result<(), f32> {
        if KeptBlocks::of(self.kind).is_some() {
            return self.pack_kept(row_idx, packed);
        }
        let is_int4 = self.kind == BlockKind::Q4_0;
        let mut push = |scale: f32, codes: &[i8]| match is_int4 {
            true => {
                packed.scales.extend(f16::from_f32(scale).to_le_bytes());
                packed
                    .weights
                    .extend(codes.iter().map(|code| code.cast_unsigned().wrapping_add(INT4_MIDDLE)));
            }
            false => {
                packed.scales.extend(scale.to_le_bytes());
                packed.weights.extend(codes.iter().map(|code| code.cast_unsigned()));
            }
        };
        for block in self.row(row_idx).chunks_exact(self.kind.block_bytes()) {
            let (scale, codes) = self.kind.scaled_codes(block).expect("nothing else is packed");
            if !scale.is_finite() {
                return Err(scale);
            }
            push(scale, &codes);
        }
        // What fills up a row counts for nothing.
        let n_more = (row_stride(self.n_columns) - self.n_columns) / self.kind.block_len();
        let filler = vec![0; self.kind.block_len()];
        (0..n_more).for_each(|_| push(0.0, &filler));
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
