//! Writes `llm.engine`: header first, then tensor after tensor, a few rows in memory at a time.
//!
//! StoredRows are encoded by several threads, whole tiles each; a row's numbers depend on that row alone, so the file is
//! the same for any number of threads.

use std::io::Write;
use std::ops::Range;
use std::thread;

use half::f16;
use safetensors::Dtype;
use serde_json::json;

use crate::format::engine::{FORMAT_VERSION, Item, PAD_PREFIX, PAGE, TENSOR_ALIGN};
use crate::format::header::Header;
use crate::numbers::int4::{Spread, affine_row};
use crate::numbers::int8::int8_row;
use crate::numbers::kind::MatrixShape;
use crate::numbers::precision::row_stride;
use crate::numbers::tiles::{TILE_ROWS, Weave};
use crate::numbers::{Kind, Precision, Storage};
use crate::tools::WriteError;
use crate::tools::weights::source::{Encoded, PackRow, RowSource};

/// Bytes of f32 rows that one thread encodes at a time.
const CHUNK_BYTES: usize = 2 << 20;

/// Where everything goes, before a byte of it is written.
pub struct EnginePlan {
    pub items: Vec<Item>,
    header: Vec<u8>,
    n_data_bytes: usize,
}

impl EnginePlan {
    /// Lays the items out in order, each stored tensor at a multiple of [`TENSOR_ALIGN`].
    pub fn new(items: Vec<Item>, precision: Precision, source_digest: &str) -> Self {
        let metadata = json!({
            "format": "jetspool-engine",
            "format_version": FORMAT_VERSION.to_string(),
            "precision": precision.name(),
            "source_digest": source_digest,
        });
        let mut header = Header::new(&metadata);
        let mut n_pads = 0;
        for stored in items.iter().flat_map(Item::stored) {
            let gap = padding(header.n_data_bytes());
            if gap > 0 {
                header.add(&format!("{PAD_PREFIX}{n_pads}"), Dtype::U8, &[gap]);
                n_pads += 1;
            }
            header.add(&stored.name, stored.dtype, &stored.shape);
        }
        let n_data_bytes = header.n_data_bytes();
        Self { items, header: header.finish(PAGE), n_data_bytes }
    }

    /// Size of the finished file.
    pub fn n_bytes(&self) -> u64 {
        (self.header.len() + self.n_data_bytes) as u64
    }
}

/// Zero bytes up to the next place where a tensor may start.
fn padding(position: usize) -> usize {
    position.next_multiple_of(TENSOR_ALIGN) - position
}

/// The file as it grows.
pub struct EngineWriter<'a, W: Write> {
    out: W,
    position: usize,
    n_threads: usize,
    /// Called with the bytes written since the last call.
    progress: &'a dyn Fn(u64),
}

impl<'a, W: Write> EngineWriter<'a, W> {
    /// Writes the header.
    pub fn start(
        mut out: W,
        plan: &EnginePlan,
        n_threads: usize,
        progress: &'a dyn Fn(u64),
    ) -> Result<Self, WriteError> {
        out.write_all(&plan.header)?;
        progress(plan.header.len() as u64);
        Ok(Self { out, position: 0, n_threads: n_threads.max(1), progress })
    }

    /// Writes one item's stored tensors. Items come in the plan's order.
    pub fn add(
        &mut self,
        item: &Item,
        source: &RowSource,
        spread: Option<&Spread>,
    ) -> Result<(), WriteError> {
        match item {
            Item::Vector { name, len } => {
                let storage = Kind::F32.into();
                let vector = StoredRows { source, n_columns: *len, stride: *len, storage, spread: None };
                let encoded = vector.encode(0..1).map_err(|found| range_error(name, found, Kind::F32))?;
                self.put(&encoded.weights)
            }
            Item::Matrix { name, shape, storage } => {
                let stride = row_stride(shape.columns);
                let matrix =
                    StoredRows { source, n_columns: shape.columns, stride, storage: *storage, spread };
                let beside = self.add_rows(&matrix, *shape, name)?;
                beside.iter().filter(|bytes| !bytes.is_empty()).try_for_each(|bytes| self.put(bytes))?;
                if let Kind::Levels { levels, .. } = storage.kind {
                    self.put(bytemuck::cast_slice(levels.table()))?;
                }
                let inputs = matrix.packed().map(PackRow::inputs).unwrap_or_default();
                inputs.iter().try_for_each(|bytes| self.put(bytes))
            }
        }
    }

    /// Writes the tiles of a matrix and returns what stands beside them.
    fn add_rows(
        &mut self,
        matrix: &StoredRows,
        shape: MatrixShape,
        name: &str,
    ) -> Result<[Vec<u8>; 2], WriteError> {
        self.align()?;
        let per_thread = (CHUNK_BYTES / (matrix.stride * 4)).max(1).next_multiple_of(TILE_ROWS);
        let (mut scales, mut extra) = (Vec::new(), Vec::new());
        for part in 0..shape.n_parts {
            let all = part * shape.rows..(part + 1) * shape.rows;
            for first in all.clone().step_by(per_thread * self.n_threads) {
                let rows = first..(first + per_thread * self.n_threads).min(all.end);
                for tiles in encode_in_threads(matrix, rows, self.n_threads) {
                    let tiles = tiles.map_err(|found| range_error(name, found, matrix.storage.kind))?;
                    self.put_raw(&tiles.weights)?;
                    scales.extend(tiles.scales);
                    extra.extend(tiles.extra);
                }
            }
        }
        Ok([scales, extra])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.align()?;
        self.put_raw(bytes)
    }

    fn align(&mut self) -> Result<(), WriteError> {
        self.put_raw(&[0; TENSOR_ALIGN][..padding(self.position)])
    }

    fn put_raw(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.out.write_all(bytes)?;
        self.position += bytes.len();
        (self.progress)(bytes.len() as u64);
        Ok(())
    }

    /// The writer, when every item of the plan was added.
    pub fn finish(self, plan: &EnginePlan) -> W {
        assert_eq!(self.position, plan.n_data_bytes, "the caller adds every item of the plan once");
        self.out
    }
}

fn range_error(name: &str, found: f32, kind: Kind) -> WriteError {
    WriteError::Range { name: name.to_owned(), found, precision: kind.name() }
}

/// StoredRows of one tensor and how they are stored.
#[derive(Clone, Copy)]
struct StoredRows<'a> {
    source: &'a RowSource,
    n_columns: usize,
    stride: usize,
    storage: Storage,
    spread: Option<&'a Spread>,
}

/// The tiles of some rows; they begin with a tile's first row.
fn encode_in_threads(matrix: &StoredRows, rows: Range<usize>, n_threads: usize) -> Vec<Result<Encoded, f32>> {
    let per_thread = rows.len().div_ceil(n_threads).next_multiple_of(TILE_ROWS);
    thread::scope(|scope| {
        let handles: Vec<_> = (rows.clone())
            .step_by(per_thread)
            .map(|first| {
                let part = first..(first + per_thread).min(rows.end);
                scope.spawn(move || Ok(woven(&matrix.encode(part.clone())?, part.len(), matrix.storage.kind)))
            })
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// StoredRows in the order of tiles.
fn woven(rows: &Encoded, n_rows: usize, kind: Kind) -> Encoded {
    let mut tiles = Encoded::default();
    let parts = [
        (&rows.weights, kind.weave(), &mut tiles.weights),
        (&rows.scales, Weave::Elements(kind.scale_bytes()), &mut tiles.scales),
        (&rows.extra, Weave::Elements(kind.extra_bytes()), &mut tiles.extra),
    ];
    for (bytes, weave, to) in parts {
        if !bytes.is_empty() {
            weave.append(bytes, bytes.len() / n_rows, to);
        }
    }
    tiles
}

impl<'a> StoredRows<'a> {
    /// The rows as they are, where they are stored so.
    fn packed(&self) -> Option<&'a dyn PackRow> {
        self.source.packed().filter(|packed| packed.storage() == self.storage)
    }

    /// The error is the first value that the storage cannot hold.
    fn encode(&self, rows: Range<usize>) -> Result<Encoded, f32> {
        let mut encoded = Encoded::default();
        if let Some(packed) = self.packed() {
            rows.into_iter().try_for_each(|row_idx| packed.pack_row(row_idx, &mut encoded))?;
            return Ok(encoded);
        }
        let mut row = vec![0.0_f32; self.stride];
        for row_idx in rows {
            self.source.read_row(row_idx, &mut row);
            if let Some(bad) = row[..self.n_columns].iter().find(|value| !value.is_finite()) {
                return Err(*bad);
            }
            match self.storage.kind {
                Kind::F32 => encoded.weights.extend_from_slice(bytemuck::cast_slice(&row)),
                Kind::F16 => encode_f16(&row, &mut encoded)?,
                Kind::Int8 => encode_int8(&row, &mut encoded)?,
                Kind::Affine => encode_affine(&row, self.spread, &mut encoded)?,
                Kind::Int4 { .. }
                | Kind::Int8Groups { .. }
                | Kind::Fp8
                | Kind::Fp8Groups { .. }
                | Kind::Mxfp8
                | Kind::Nvfp4
                | Kind::Levels { .. }
                | Kind::Kept(_) => {
                    unreachable!("only rows that are stored so already are given this kind")
                }
            }
        }
        Ok(encoded)
    }
}

fn encode_f16(row: &[f32], encoded: &mut Encoded) -> Result<(), f32> {
    for value in row {
        let half = f16::from_f32(*value);
        if !half.is_finite() {
            return Err(*value);
        }
        encoded.weights.extend(half.to_le_bytes());
    }
    Ok(())
}

fn encode_int8(row: &[f32], encoded: &mut Encoded) -> Result<(), f32> {
    let mut codes = vec![0_i8; row.len()];
    let scale = int8_row(row, &mut codes);
    encoded.weights.extend_from_slice(bytemuck::cast_slice(&codes));
    encoded.scales.extend(scale.to_le_bytes());
    Ok(())
}

fn encode_affine(row: &[f32], spread: Option<&Spread>, encoded: &mut Encoded) -> Result<(), f32> {
    // Squares of what is larger are no numbers.
    const LARGEST: f32 = 1e18;
    if let Some(bad) = row.iter().find(|value| value.abs() > LARGEST) {
        return Err(*bad);
    }
    let quantized = affine_row(row, spread);
    encoded.weights.extend(quantized.codes);
    encoded.scales.extend(quantized.scales);
    encoded.extra.extend(quantized.factors.iter().flat_map(|factor| factor.to_le_bytes()));
    Ok(())
}
