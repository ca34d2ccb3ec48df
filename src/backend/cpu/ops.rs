//! Each operation split into tasks for the pool. A task owns whole rows or whole columns of its output.

use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use super::cache::{self, Cache};
use super::pool::Pool;
use super::rows::Rows;
use super::weights::{Lora, Vector, Weights};
use crate::backend::{Attend, AttendRow, Backend, CacheShape, ExpertRows, LoraRows, Part};
use crate::format::architecture::Activation;
use crate::format::{FormatError, StoredMatrix, Tensor};
use crate::kernels::Kernels;
use crate::kernels::attention::AttendTask;
use crate::kernels::elementwise::rotate;
use crate::kernels::matmul::{MatmulTask, scratch_len};
use crate::kernels::simd::LANES;

/// Output columns are handed out in multiples of this.
const COLUMN_ALIGN: usize = 16;
/// Tasks per thread: enough that a slow thread does not hold up the others.
const TASKS_PER_THREAD: usize = 4;

/// The processor: kernels of its instruction set and a pool of threads.
pub struct Cpu {
    kernels: Kernels,
    pool: Pool,
    /// One per thread; a lock is never contended.
    scratch: Vec<Mutex<Vec<f32>>>,
}

impl Cpu {
    /// Uses `n_threads` threads, the caller's included; 0 means one per available processor.
    ///
    /// # Errors
    /// The system's, when a thread cannot be started.
    pub fn new(kernels: Kernels, n_threads: usize) -> std::io::Result<Self> {
        let n_threads = match n_threads {
            0 => std::thread::available_parallelism()?.get(),
            n => n,
        };
        let pool = Pool::new(n_threads)?;
        let scratch = (0..pool.n_threads()).map(|_| Mutex::default()).collect();
        Ok(Self { kernels, pool, scratch })
    }

    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Counts what is computed, piece by piece: it stands still only while nothing is.
    pub fn n_tasks(&self) -> Arc<AtomicU64> {
        self.pool.n_tasks()
    }

    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }

    /// Calls `work` once for every row, in parallel where there are enough of them.
    fn for_rows(&self, n_rows: usize, work: impl Fn(usize) + Sync) {
        const ROWS_PER_TASK: usize = 8;
        let n_tasks = n_rows.div_ceil(ROWS_PER_TASK);
        self.pool.run(n_tasks, &|task_idx, _| {
            let first = task_idx * ROWS_PER_TASK;
            (first..n_rows.min(first + ROWS_PER_TASK)).for_each(&work);
        });
    }

    /// Calls `work(columns, scratch)` for ranges that together cover `0..n_columns`.
    fn for_columns(&self, n_columns: usize, work: impl Fn(Range<usize>, &mut Vec<f32>) + Sync) {
        let per_task = n_columns.div_ceil(self.n_threads() * TASKS_PER_THREAD).next_multiple_of(COLUMN_ALIGN);
        self.pool.run(n_columns.div_ceil(per_task), &|task_idx, worker_idx| {
            let first = task_idx * per_task;
            let mut scratch = self.scratch[worker_idx].lock().expect("a task that panics ends the program");
            work(first..n_columns.min(first + per_task), &mut scratch);
        });
    }

    /// The inputs of a matrix that changes them first.
    fn changed_inputs(&self, x: &Rows, w: &Weights) -> Rows {
        let mut changed = Rows::zeros(x.n_rows(), x.width());
        assert!(x.stride() == w.as_matrix().stride());
        let (width, stride, out) = (x.width(), x.stride(), Shared(changed.as_mut_ptr()));
        self.for_rows(x.n_rows(), |row_idx| {
            // SAFETY: the row belongs to this task.
            let row = unsafe { std::slice::from_raw_parts_mut(out.at(row_idx * stride), width) };
            w.change_inputs(x.row(row_idx), row);
        });
        changed
    }
}

/// Lets tasks write disjoint parts of one buffer.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: every task writes rows or columns that no other task of the call touches.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// `offset` lies inside the buffer.
    unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

fn grown(scratch: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    &mut scratch[..len]
}

impl Backend for Cpu {
    type Rows = Rows;
    type Weights = Weights;
    type Vector = Vector;
    type Lora = Lora;
    type Cache = Cache;

    fn weights(&self, name: &str, matrix: StoredMatrix) -> Result<Weights, FormatError> {
        Weights::new(name, matrix)
    }

    fn vector(&self, name: &str, len: usize, values: Tensor) -> Result<Vector, FormatError> {
        Vector::new(name, len, values)
    }

    fn lora(&self, a: Tensor, b: Tensor, columns: Range<usize>) -> Result<Lora, FormatError> {
        Lora::new(a, b, columns)
    }

    fn rows(&self, n_rows: usize, width: usize) -> Rows {
        Rows::zeros(n_rows, width)
    }

    fn set_n_rows(&self, rows: &mut Rows, n_rows: usize) {
        rows.set_n_rows(n_rows);
    }

    fn read_row<'a>(&self, rows: &'a Rows, row_idx: usize) -> &'a [f32] {
        rows.row(row_idx)
    }

    fn cache(&self, shape: CacheShape) -> std::io::Result<Cache> {
        Cache::new(shape)
    }

    fn block_bytes(&self, shape: &CacheShape) -> usize {
        Cache::block_bytes(shape)
    }

    fn forget_blocks(&self, cache: &mut Cache, blocks: &[u32]) {
        cache.forget(blocks);
    }

    fn forget_scratch(&self) {
        for scratch in &self.scratch {
            *scratch.lock().expect("a task that panics ends the program") = Vec::new();
        }
    }

    fn embed(&self, table: &Weights, tokens: &[u32], y: &mut Rows) {
        let table = table.as_matrix();
        let (stride, out) = (y.stride(), Shared(y.as_mut_ptr()));
        assert!(y.n_rows() == tokens.len() && stride == table.stride());
        self.for_rows(tokens.len(), |row_idx| {
            let token = tokens[row_idx] as usize;
            assert!(token < table.n_rows(), "token {token} is outside the vocabulary");
            // SAFETY: the row lies in y and belongs to this task; the token lies in the table.
            unsafe {
                let row = std::slice::from_raw_parts_mut(out.at(row_idx * stride), stride);
                (self.kernels.unpack_row)(table, token, row);
            }
        });
    }

    fn rms_norm(&self, x: &Rows, weight: &Vector, eps: f32, y: &mut Rows) {
        let weight = weight.as_slice();
        let (stride, out) = (y.stride(), Shared(y.as_mut_ptr()));
        assert!(x.n_rows() == y.n_rows() && x.width() == weight.len() && y.width() == weight.len());
        self.for_rows(x.n_rows(), |row_idx| {
            // SAFETY: both rows have weight.len() elements; the output row belongs to this task.
            unsafe {
                (self.kernels.rms_norm)(x.row(row_idx).as_ptr(), weight, eps, out.at(row_idx * stride))
            };
        });
    }

    fn rms_norm_heads(&self, x: &mut Rows, weight: &Vector, eps: f32) {
        let weight = weight.as_slice();
        let (n_rows, stride, width) = (x.n_rows(), x.stride(), x.width());
        let out = Shared(x.as_mut_ptr());
        assert!(width.is_multiple_of(weight.len()));
        self.for_rows(n_rows, |row_idx| {
            for first in (0..width).step_by(weight.len()) {
                // SAFETY: the head lies in the row, which belongs to this task; in place is allowed.
                unsafe {
                    let head = out.at(row_idx * stride + first);
                    (self.kernels.rms_norm)(head, weight, eps, head);
                }
            }
        });
    }

    fn matmul(&self, x: &Rows, w: &Weights, bias: Option<&Vector>, y: &mut Rows) {
        let changed = w.changes_inputs().then(|| self.changed_inputs(x, w));
        let x = changed.as_ref().unwrap_or(x);
        let w = w.as_matrix();
        let bias = bias.map(Vector::as_slice);
        let (n_rows, y_stride, out) = (x.n_rows(), y.stride(), Shared(y.as_mut_ptr()));
        assert!(y.n_rows() == n_rows && x.stride() == w.stride() && y.width() == w.n_rows());
        assert!(bias.is_none_or(|bias| bias.len() == w.n_rows()));
        self.for_columns(w.n_rows(), |columns, scratch| {
            // SAFETY: the columns belong to this task; y has n_rows rows of at least w.n_rows() columns.
            unsafe {
                (self.kernels.matmul)(&mut MatmulTask {
                    x: x.as_slice(),
                    n_rows,
                    w,
                    columns: columns.clone(),
                    y: out.at(0),
                    y_stride,
                    scratch: grown(scratch, scratch_len(w.stride())),
                });
                if let Some(bias) = bias {
                    for row_idx in 0..n_rows {
                        columns.clone().for_each(|n| *out.at(row_idx * y_stride + n) += bias[n]);
                    }
                }
            }
        });
    }

    fn add_lora(&self, x: &Rows, entries: &[LoraRows<'_, Lora>], y: &mut Rows) {
        let Some(max_rank) = entries.iter().map(|entry| entry.pair.rank()).max() else { return };
        let rows: Vec<(usize, &LoraRows<'_, Lora>)> = entries
            .iter()
            .flat_map(|entry| entry.rows.clone().map(move |row_idx| (row_idx, entry)))
            .collect();
        let mut hidden = vec![0.0f32; rows.len() * max_rank];
        let shared_hidden = Shared(hidden.as_mut_ptr());
        self.pool.run(rows.len(), &|i, _| {
            let (row_idx, entry) = rows[i];
            let x_row = x.row(row_idx);
            assert!(x_row.len() * entry.pair.rank() == entry.pair.a().len());
            // SAFETY: row i of hidden belongs to this task; lengths are asserted.
            unsafe {
                let h = std::slice::from_raw_parts_mut(shared_hidden.at(i * max_rank), entry.pair.rank());
                (self.kernels.lora_shrink)(x_row, entry.pair.a(), entry.scale, h);
            }
        });
        let (width, stride, n_rows, out) = (y.width(), y.stride(), y.n_rows(), Shared(y.as_mut_ptr()));
        self.for_columns(width, |columns, _| {
            for (i, &(row_idx, entry)) in rows.iter().enumerate() {
                let h = &hidden[i * max_rank..][..entry.pair.rank()];
                assert!(entry.pair.columns().len() == width && row_idx < n_rows);
                let first = entry.pair.columns().start;
                let of_b = columns.start + first..columns.end + first;
                // SAFETY: the columns belong to this task and lie in the row, and the pair's lie in b.
                unsafe {
                    let y = out.at(row_idx * stride + columns.start);
                    (self.kernels.lora_expand)(h, entry.pair.b(), of_b, y);
                }
            }
        });
    }

    fn rotate(&self, x: &mut Rows, head_dim: usize, cos: &[f32], sin: &[f32]) {
        let half = cos.len() / x.n_rows().max(1);
        assert!(2 * half <= head_dim && cos.len() == half * x.n_rows() && sin.len() == cos.len());
        for row_idx in 0..x.n_rows() {
            let angles = row_idx * half..(row_idx + 1) * half;
            for head in x.row_mut(row_idx).chunks_exact_mut(head_dim) {
                rotate(&mut head[..2 * half], &cos[angles.clone()], &sin[angles.clone()]);
            }
        }
    }

    fn store(&self, cache: &mut Cache, layer: usize, k: &Rows, v: &Rows, rows: &[AttendRow<'_>]) {
        let block_len = cache.shape().block_len;
        // SAFETY: both slices are one head long.
        let narrow = |from: &[f32], to: &mut [half::f16]| unsafe { (self.kernels.narrow)(from, to) };
        for (row_idx, row) in rows.iter().enumerate() {
            let place = (row.blocks[row.position / block_len], row.position % block_len);
            cache.write((layer, cache::Part::Key), place, k.row(row_idx), narrow);
            cache.write((layer, cache::Part::Value), place, v.row(row_idx), narrow);
        }
    }

    fn attend(&self, q: &Rows, cache: &Cache, task: Attend<'_>, y: &mut Rows) {
        let Attend { layer, scale, rows } = task;
        let &CacheShape { n_kv_heads, head_dim, block_len, n_blocks, .. } = cache.shape();
        let group_width = q.width() / n_kv_heads;
        let (stride, out) = (y.stride(), Shared(y.as_mut_ptr()));
        assert!(q.width() == y.width() && rows.len() == q.n_rows() && rows.len() == y.n_rows());
        for row in rows {
            let blocks = &row.blocks[..row.position / block_len + 1];
            assert!(blocks.iter().all(|&block| (block as usize) < n_blocks));
        }
        self.pool.run(rows.len() * n_kv_heads, &|task_idx, worker_idx| {
            let (row_idx, head) = (task_idx / n_kv_heads, task_idx % n_kv_heads);
            let row = &rows[row_idx];
            let first = head * group_width;
            let n_scores = (row.position + 1 - row.start).next_multiple_of(LANES);
            let mut scratch = self.scratch[worker_idx].lock().expect("a task that panics ends the program");
            // SAFETY: the head's outputs belong to this task; blocks were checked above.
            unsafe {
                (self.kernels.attend)(&mut AttendTask {
                    q: &q.row(row_idx)[first..first + group_width],
                    n_heads: group_width / head_dim,
                    head_dim,
                    cache: cache.head(layer, head, row.blocks),
                    start: row.start,
                    end: row.position + 1,
                    scale,
                    scores: grown(&mut scratch, n_scores),
                    out: std::slice::from_raw_parts_mut(out.at(row_idx * stride + first), group_width),
                });
            }
        });
    }

    fn add(&self, x: &Rows, y: &mut Rows) {
        assert!(x.n_rows() == y.n_rows() && x.width() == y.width());
        for row_idx in 0..x.n_rows() {
            for (y, x) in y.row_mut(row_idx).iter_mut().zip(x.row(row_idx)) {
                *y += x;
            }
        }
    }

    fn scale(&self, x: &mut Rows, factor: f32) {
        for row_idx in 0..x.n_rows() {
            x.row_mut(row_idx).iter_mut().for_each(|x| *x *= factor);
        }
    }

    fn activate(&self, activation: Activation, gate: &mut Rows, up: &Rows) {
        let kernel = match activation {
            Activation::Silu => self.kernels.silu_mul,
            Activation::GeluTanh => self.kernels.gelu_mul,
        };
        let (n_rows, stride, out) = (gate.n_rows(), gate.stride(), Shared(gate.as_mut_ptr()));
        assert!(up.n_rows() == n_rows && up.stride() == stride);
        self.for_rows(n_rows, |row_idx| {
            // SAFETY: the row belongs to this task; strides are multiples of 8.
            unsafe {
                let gate = std::slice::from_raw_parts_mut(out.at(row_idx * stride), stride);
                kernel(gate, &up.as_slice()[row_idx * stride..][..stride]);
            }
        });
    }

    fn matmul_experts(&self, x: &Rows, w: &Weights, groups: &[ExpertRows], y: &mut Rows) {
        let w = w.as_matrix();
        let (width, stride, y_stride, out) = (y.width(), w.stride(), y.stride(), Shared(y.as_mut_ptr()));
        let n_rows = groups.last().map_or(0, |group| group.rows.end);
        assert!(x.stride() == stride && x.n_rows() == n_rows && y.n_rows() == n_rows);
        let per_group = (self.n_threads() * TASKS_PER_THREAD).div_ceil(groups.len().max(1));
        let per_task = width.div_ceil(per_group).next_multiple_of(COLUMN_ALIGN);
        let per_group = width.div_ceil(per_task);
        self.pool.run(groups.len() * per_group, &|task_idx, worker_idx| {
            let group = &groups[task_idx / per_group];
            let first = task_idx % per_group * per_task;
            let mut scratch = self.scratch[worker_idx].lock().expect("a task that panics ends the program");
            let rows = group.rows.clone();
            // SAFETY: these columns of the group's rows belong to this task; groups share no row.
            unsafe {
                (self.kernels.matmul)(&mut MatmulTask {
                    x: &x.as_slice()[rows.start * stride..rows.end * stride],
                    n_rows: rows.len(),
                    w: w.slice(group.expert * width..(group.expert + 1) * width),
                    columns: first..width.min(first + per_task),
                    y: out.at(rows.start * y_stride),
                    y_stride,
                    scratch: grown(&mut scratch, scratch_len(stride)),
                });
            }
        });
    }

    fn combine(&self, x: &Rows, parts: &[Part], y: &mut Rows) {
        let n_parts = parts.len() / y.n_rows().max(1);
        assert!(x.width() == y.width() && parts.len() == n_parts * y.n_rows());
        for row_idx in 0..y.n_rows() {
            let row = y.row_mut(row_idx);
            row.fill(0.0);
            for part in &parts[row_idx * n_parts..][..n_parts] {
                for (y, x) in row.iter_mut().zip(x.row(part.row)) {
                    *y += x * part.weight;
                }
            }
        }
    }

    fn gather(&self, x: &Rows, row_idx: &[usize], y: &mut Rows) {
        y.set_n_rows(row_idx.len());
        for (to, &from) in row_idx.iter().enumerate() {
            y.row_mut(to).copy_from_slice(x.row(from));
        }
    }
}
