//! Products with matrices that are made a few rows at a time: never is a whole one in memory as f32.

use std::ops::Range;
use std::sync::Arc;
use std::thread;

use safetensors::Dtype;

use crate::device::cpu::{Rows, Weights};
use crate::device::{Cpu, Device};
use crate::format::{StoredMatrix, Tensor};
use crate::numbers::kind::{Kind, MatrixShape};
use crate::numbers::precision::row_stride;
use crate::numbers::tiles::{TILE_ROWS, weave};

/// Elements of a matrix that are f32 at a time.
const TILE_ELEMENTS: usize = 1 << 20;
/// Below this, more threads cost more than they give.
const THREADED_ELEMENTS: usize = 1 << 16;

/// Writes row `row_idx` of a matrix to the slice, `[in]`.
pub type Fill<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

/// f32 elements as bytes for a [`Tensor`].
struct Elements(Vec<f32>);

impl AsRef<[u8]> for Elements {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// A vector or matrix in memory as a tensor.
pub fn tensor_of(values: Vec<f32>, shape: Vec<usize>) -> Tensor {
    let n_bytes = size_of_val(&values[..]);
    Tensor::at(Arc::new(Elements(values)), Dtype::F32, shape, 0..n_bytes)
        .expect("the shape is that of the values")
}

/// Calls `take` with `x w^T` for ranges of rows of `w` `[n_rows, n_columns]`, rising; products are
/// `[x.n_rows(), range]`.
pub fn multiply(
    cpu: &Cpu,
    x: &Rows,
    (n_rows, n_columns): (usize, usize),
    fill: Fill<'_>,
    mut take: impl FnMut(Range<usize>, &Rows),
) {
    let per_tile = (TILE_ELEMENTS / row_stride(n_columns)).clamp(16, n_rows.max(16));
    let mut first = 0;
    while first < n_rows {
        let rows = first..n_rows.min(first + per_tile);
        let tile = tile(cpu, rows.clone(), n_columns, fill);
        let mut product = cpu.rows(x.n_rows(), rows.len());
        cpu.multiply(x, &tile, &mut product);
        take(rows.clone(), &product);
        first = rows.end;
    }
}

fn tile(cpu: &Cpu, rows: Range<usize>, n_columns: usize, fill: Fill<'_>) -> Weights {
    let stride = row_stride(n_columns);
    let mut values = vec![0.0_f32; rows.len() * stride];
    for_rows(cpu.n_threads(), &mut values, stride, |row_idx, row| {
        fill(rows.start + row_idx, &mut row[..n_columns])
    });
    let shape = MatrixShape::from((rows.len(), n_columns));
    let mut tiles = vec![0.0_f32; shape.n_tiles() * TILE_ROWS * stride];
    weave(&values, stride, 1, &mut tiles);
    let matrix = StoredMatrix {
        kind: Kind::F32,
        shape,
        values: tensor_of(tiles, vec![shape.n_tiles(), stride, TILE_ROWS]),
        scale: None,
        row_scale: None,
        zero: None,
        levels: None,
        input_scale: None,
        input_order: None,
    };
    cpu.weights("tile", matrix).expect("f32 rows of the layout's stride")
}

/// Calls `work` once for every row of `[n, stride]`, in several threads where that helps.
pub fn for_rows(
    n_threads: usize,
    values: &mut [f32],
    stride: usize,
    work: impl Fn(usize, &mut [f32]) + Sync,
) {
    let n_threads = if values.len() < THREADED_ELEMENTS { 1 } else { n_threads.max(1) };
    let per_thread = (values.len() / stride).div_ceil(n_threads).max(1);
    let run = |part_idx: usize, part: &mut [f32]| {
        part.chunks_mut(stride).enumerate().for_each(|(i, row)| work(part_idx * per_thread + i, row));
    };
    if n_threads == 1 {
        return run(0, values);
    }
    thread::scope(|scope| {
        for (part_idx, part) in values.chunks_mut(per_thread * stride).enumerate() {
            let run = &run;
            scope.spawn(move || run(part_idx, part));
        }
    });
}
