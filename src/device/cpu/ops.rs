//! Each operation split into tasks for the pool; a task owns whole rows of its output. Products stand in
//! [`super::project`], attention in [`super::attend`].

use super::adapter::Lora;
use super::cache::{self, Cache};
use super::inputs::Inputs;
use super::processor::Cpu;
use super::routing::Routing;
use super::rows::Rows;
use super::shared::Shared;
use super::weights::{Vector, Weights};
use crate::device::{Attend, CacheShape, Device, DeviceFault, Output, StepPlan};
use crate::format::{Adapter, FormatError, StoredMatrix, Tensor};
use crate::kernels::elementwise::{add, add_scaled, rotate, scale};
use crate::numbers::architecture::Experts;
use crate::numbers::family::Activation;

impl Cpu {
    /// The inputs of a matrix that changes them first.
    pub(super) fn changed_inputs(&self, x: &Rows, w: &Weights) -> Rows {
        let mut changed = Rows::zeros(x.n_rows(), x.width());
        assert!(x.stride() == w.as_matrix().stride());
        self.for_rows_of(&mut changed, |row_idx, row| w.change_inputs(x.row(row_idx), row));
        changed
    }
}

impl Device for Cpu {
    type Rows = Rows;
    type Weights = Weights;
    type Vector = Vector;
    type Lora = Lora;
    type Cache = Cache;
    type Step = StepPlan<Lora>;
    type Routing = Routing;

    fn weights(&self, name: &str, matrix: StoredMatrix) -> Result<Weights, FormatError> {
        Weights::new(name, matrix)
    }

    fn vector(&self, name: &str, len: usize, values: Tensor) -> Result<Vector, FormatError> {
        Vector::new(name, len, values)
    }

    fn lora(&self, adapter: &Adapter) -> Result<Lora, FormatError> {
        Ok(Lora::new(adapter))
    }

    fn rows(&self, n_rows: usize, width: usize) -> Rows {
        Rows::zeros(n_rows, width)
    }

    fn routing(&self) -> Routing {
        Routing::default()
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

    fn forget_blocks(&self, cache: &mut Cache, blocks: &[u32]) {
        cache.forget(blocks);
    }

    fn copy_block(&self, cache: &mut Cache, from: u32, to: u32) {
        cache.copy_block(from, to);
    }

    fn forget_scratch(&self) {
        *self.inputs() = Inputs::default();
        for scratch in &self.scratch {
            *scratch.lock().expect("a task that panics ends the program") = Vec::new();
        }
    }

    fn leaves_host_free(&self) -> bool {
        false
    }

    fn for_each(&self, n: usize, work: &(dyn Fn(usize) + Sync)) {
        self.pool.run(n, &|idx, _| work(idx));
    }

    fn upload(&self, plan: StepPlan<Lora>) -> StepPlan<Lora> {
        plan
    }

    fn finish(&self) -> Result<(), DeviceFault> {
        Ok(())
    }

    fn embed(&self, step: &StepPlan<Lora>, table: &Weights, y: &mut Rows) {
        let tokens = &step.tokens;
        let table = table.as_matrix();
        let (stride, out) = (y.stride(), Shared::new(y.as_mut_ptr()));
        assert!(y.n_rows() == tokens.len() && stride == table.stride());
        self.for_rows(tokens.len(), |row_idx| {
            // SAFETY: the row lies in y and belongs to this task.
            let row = unsafe { out.part(row_idx * stride..(row_idx + 1) * stride) };
            table.read_row(tokens[row_idx] as usize, row);
        });
    }

    fn rms_norm(&self, x: &Rows, weight: &Vector, eps: f32, y: &mut Rows) {
        let weight = weight.as_slice();
        let (stride, out) = (y.stride(), Shared::new(y.as_mut_ptr()));
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
        let out = Shared::new(x.as_mut_ptr());
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

    fn project(&self, step: &StepPlan<Lora>, x: &Rows, outputs: &mut [Output<'_, Self>]) {
        self.project_all(&step.adapters, x, outputs);
    }

    fn rotate(&self, step: &StepPlan<Lora>, view: usize, head_dim: usize, x: &mut Rows) {
        let (cos, sin) = (&step.views[view].cos, &step.views[view].sin);
        let half = cos.len() / x.n_rows().max(1);
        assert!(2 * half <= head_dim && cos.len() == half * x.n_rows() && sin.len() == cos.len());
        self.for_rows_of(x, |row_idx, row| {
            let angles = row_idx * half..(row_idx + 1) * half;
            for head in row.chunks_exact_mut(head_dim) {
                rotate(&mut head[..2 * half], &cos[angles.clone()], &sin[angles.clone()]);
            }
        });
    }

    fn store(&self, step: &StepPlan<Lora>, cache: &mut Cache, layer: usize, k: &Rows, v: &Rows) {
        let &CacheShape { block_len, n_blocks, .. } = cache.shape();
        assert!(k.n_rows() == step.n_rows() && v.n_rows() == step.n_rows());
        // SAFETY: both slices are one head long.
        let narrow = |from: &[f32], to: &mut [half::f16]| unsafe { (self.kernels.narrow)(from, to) };
        let writer = cache.writer();
        self.for_rows(step.n_rows(), |row_idx| {
            let position = step.places[row_idx].position;
            let place = (step.blocks_of(row_idx)[position / block_len], position % block_len);
            assert!((place.0 as usize) < n_blocks);
            // SAFETY: each row of a step has a position of its own, in a block of its sequence.
            unsafe {
                writer.write((layer, cache::Half::Key), place, k.row(row_idx), narrow);
                writer.write((layer, cache::Half::Value), place, v.row(row_idx), narrow);
            }
        });
    }

    fn attend(&self, step: &StepPlan<Lora>, q: &Rows, cache: &Cache, task: Attend, y: &mut Rows) {
        self.attend_all(step, q, cache, task, y);
    }

    fn add(&self, x: &Rows, y: &mut Rows) {
        assert!(x.n_rows() == y.n_rows() && x.width() == y.width());
        self.for_rows_of(y, |row_idx, row| add(row, x.row(row_idx)));
    }

    fn scale(&self, x: &mut Rows, factor: f32) {
        self.for_rows_of(x, |_, row| scale(row, factor));
    }

    fn activate(&self, activation: Activation, gate: &mut Rows, up: &Rows) {
        let kernel = match activation {
            Activation::Silu => self.kernels.silu_mul,
            Activation::GeluTanh => self.kernels.gelu_mul,
        };
        let (n_rows, stride, out) = (gate.n_rows(), gate.stride(), Shared::new(gate.as_mut_ptr()));
        assert!(up.n_rows() == n_rows && up.stride() == stride);
        self.for_rows(n_rows, |row_idx| {
            // SAFETY: the row belongs to this task; strides are multiples of 8.
            unsafe {
                let gate = std::slice::from_raw_parts_mut(out.at(row_idx * stride), stride);
                kernel(gate, &up.as_slice()[row_idx * stride..][..stride]);
            }
        });
    }

    fn route(&self, logits: &Rows, experts: &Experts, routing: &mut Routing) {
        *routing = Routing::new((0..logits.n_rows()).map(|row_idx| logits.row(row_idx)), experts);
    }

    fn gather_routed(&self, routing: &Routing, x: &Rows, y: &mut Rows) {
        y.copy_rows(x, &routing.rows);
    }

    fn project_routed(
        &self,
        step: &StepPlan<Lora>,
        routing: &Routing,
        x: &Rows,
        outputs: &mut [Output<'_, Self>],
    ) {
        self.project_experts(&step.adapters, routing, x, outputs);
    }

    fn combine(&self, routing: &Routing, x: &Rows, y: &mut Rows) {
        let parts = &routing.parts;
        let n_parts = parts.len() / y.n_rows().max(1);
        assert!(x.width() == y.width() && parts.len() == n_parts * y.n_rows());
        for row_idx in 0..y.n_rows() {
            let row = y.row_mut(row_idx);
            row.fill(0.0);
            for part in &parts[row_idx * n_parts..][..n_parts] {
                add_scaled(row, x.row(part.row), part.weight);
            }
        }
    }

    fn gather_wanted(&self, step: &StepPlan<Lora>, x: &Rows, y: &mut Rows) {
        y.copy_rows(x, &step.logit_rows);
    }
}
