//! A device whose matrices stay where they are: rows become f32 when they are used, a tile at a time, and
//! the inputs of chosen matrices are looked at on the way. All arithmetic is the processor's.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use super::observe::Observations;
use super::tiles::{multiply, tensor_of};
use crate::device::cpu::{Cache, ExpertRows, Lora, Routing, Rows, Vector};
use crate::device::{Attend, CacheShape, Cpu, Device, DeviceFault, Output, StepPlan};
use crate::format::{Adapter, FormatError, StoredMatrix, Tensor};
use crate::numbers::architecture::Experts;
use crate::numbers::family::Activation;
use crate::tools::weights::source::RowSource;

/// Rows of every tensor of a model by its name in an engine.
pub type Sources = BTreeMap<String, RowSource>;

/// The processor over sources.
pub struct Streamed<'a> {
    cpu: &'a Cpu,
    sources: &'a Sources,
    observations: Mutex<Observations>,
}

/// A matrix by its name.
pub struct Matrix {
    name: String,
    shape: (usize, usize),
}

impl<'a> Streamed<'a> {
    /// Watches what `observations` names.
    pub fn new(cpu: &'a Cpu, sources: &'a Sources, observations: Observations) -> Self {
        Self { cpu, sources, observations: Mutex::new(observations) }
    }

    /// What was seen so far.
    pub fn observations(&self) -> MutexGuard<'_, Observations> {
        self.observations.lock().expect("nothing panics while it is held")
    }

    fn source(&self, name: &str) -> Result<&'a RowSource, FormatError> {
        self.sources.get(name).ok_or_else(|| FormatError::MissingTensor { name: name.to_owned() })
    }

    /// `y = x w^T + bias`, seen by those who watch the inputs.
    fn multiply(&self, x: &Rows, w: &Matrix, bias: Option<&[f32]>, y: &mut Rows) {
        self.watch(&w.name, x);
        if x.n_rows() == 0 {
            return;
        }
        let source = self.row_source(w);
        multiply(self.cpu, x, w.shape, &|row_idx, out| source.read_row(row_idx, out), |columns, product| {
            for row_idx in 0..x.n_rows() {
                let row = &mut y.row_mut(row_idx)[columns.clone()];
                row.copy_from_slice(product.row(row_idx));
                if let Some(bias) = bias {
                    row.iter_mut().zip(&bias[columns.clone()]).for_each(|(y, bias)| *y += bias);
                }
            }
        });
    }

    /// Shows the inputs of a matrix to who watches them.
    fn watch(&self, name: &str, x: &Rows) {
        if let Some(input) = self.observations().inputs.get_mut(name) {
            input.add_all(x, self.cpu.n_threads());
        }
    }

    fn row_source(&self, matrix: &Matrix) -> &'a RowSource {
        self.source(&matrix.name).expect("it was there when the matrix was taken")
    }
}

impl Device for Streamed<'_> {
    type Rows = Rows;
    type Weights = Matrix;
    type Vector = Vector;
    type Lora = Lora;
    type Cache = Cache;
    type Step = StepPlan<Lora>;
    type Routing = Routing;

    fn weights(&self, name: &str, matrix: StoredMatrix) -> Result<Matrix, FormatError> {
        self.source(name)?;
        Ok(Matrix {
            name: name.to_owned(),
            shape: (matrix.shape.n_parts * matrix.shape.rows, matrix.shape.columns),
        })
    }

    fn vector(&self, name: &str, len: usize, _: Tensor) -> Result<Vector, FormatError> {
        let mut values = vec![0.0; len];
        self.source(name)?.read_row(0, &mut values);
        self.cpu.vector(name, len, tensor_of(values, vec![len]))
    }

    fn lora(&self, adapter: &Adapter) -> Result<Lora, FormatError> {
        self.cpu.lora(adapter)
    }

    fn rows(&self, n_rows: usize, width: usize) -> Rows {
        self.cpu.rows(n_rows, width)
    }

    fn routing(&self) -> Routing {
        self.cpu.routing()
    }

    fn set_n_rows(&self, rows: &mut Rows, n_rows: usize) {
        self.cpu.set_n_rows(rows, n_rows);
    }

    fn read_row<'b>(&self, rows: &'b Rows, row_idx: usize) -> &'b [f32] {
        self.cpu.read_row(rows, row_idx)
    }

    fn cache(&self, shape: CacheShape) -> std::io::Result<Cache> {
        self.cpu.cache(shape)
    }

    fn forget_blocks(&self, cache: &mut Cache, blocks: &[u32]) {
        self.cpu.forget_blocks(cache, blocks);
    }

    fn copy_block(&self, cache: &mut Self::Cache, from: u32, to: u32) {
        self.cpu.copy_block(cache, from, to);
    }

    fn forget_scratch(&self) {
        self.cpu.forget_scratch();
    }

    fn leaves_host_free(&self) -> bool {
        false
    }

    fn for_each(&self, n: usize, work: &(dyn Fn(usize) + Sync)) {
        self.cpu.for_each(n, work);
    }

    fn finish(&self) -> Result<(), DeviceFault> {
        self.cpu.finish()
    }

    fn upload(&self, plan: StepPlan<Lora>) -> StepPlan<Lora> {
        assert!(plan.adapters.is_empty(), "checkpoints are judged without adapters");
        plan
    }

    fn embed(&self, step: &StepPlan<Lora>, table: &Matrix, y: &mut Rows) {
        let source = self.row_source(table);
        for (row_idx, &token) in step.tokens.iter().enumerate() {
            source.read_row(token as usize, y.row_mut(row_idx));
        }
    }

    fn rms_norm(&self, x: &Rows, weight: &Vector, eps: f32, y: &mut Rows) {
        self.cpu.rms_norm(x, weight, eps, y);
    }

    fn rms_norm_heads(&self, x: &mut Rows, weight: &Vector, eps: f32) {
        self.cpu.rms_norm_heads(x, weight, eps);
    }

    fn project(&self, _: &StepPlan<Lora>, x: &Rows, outputs: &mut [Output<'_, Self>]) {
        for Output { weights, bias, y, .. } in outputs {
            self.multiply(x, weights, bias.map(Vector::as_slice), y);
        }
    }

    fn rotate(&self, step: &StepPlan<Lora>, view: usize, head_dim: usize, x: &mut Rows) {
        self.cpu.rotate(step, view, head_dim, x);
    }

    fn store(&self, step: &StepPlan<Lora>, cache: &mut Cache, layer: usize, k: &Rows, v: &Rows) {
        if let Some((keys, values)) = self.observations().caches.get_mut(layer) {
            let largest = |rows: &Rows| rows.as_slice().iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            (*keys, *values) = (keys.max(largest(k)), values.max(largest(v)));
        }
        self.cpu.store(step, cache, layer, k, v);
    }

    fn attend(&self, step: &StepPlan<Lora>, q: &Rows, cache: &Cache, task: Attend, y: &mut Rows) {
        self.cpu.attend(step, q, cache, task, y);
    }

    fn add(&self, x: &Rows, y: &mut Rows) {
        self.cpu.add(x, y);
    }

    fn scale(&self, x: &mut Rows, factor: f32) {
        self.cpu.scale(x, factor);
    }

    fn activate(&self, activation: Activation, gate: &mut Rows, up: &Rows) {
        self.cpu.activate(activation, gate, up);
    }

    fn route(&self, logits: &Rows, experts: &Experts, routing: &mut Routing) {
        self.cpu.route(logits, experts, routing);
    }

    fn gather_routed(&self, routing: &Routing, x: &Rows, y: &mut Rows) {
        self.cpu.gather_routed(routing, x, y);
    }

    fn project_routed(
        &self,
        _: &StepPlan<Lora>,
        routing: &Routing,
        x: &Rows,
        outputs: &mut [Output<'_, Self>],
    ) {
        let mut part = self.cpu.rows(0, x.width());
        for Output { weights, y, .. } in outputs {
            let source = self.row_source(weights);
            let shape = (y.width(), x.width());
            y.set_n_rows(x.n_rows());
            self.watch(&weights.name, x);
            for ExpertRows { expert, rows } in &routing.groups {
                part.copy_rows(x, &rows.clone().collect::<Vec<_>>());
                let first = expert * shape.0;
                let read = |row_idx: usize, out: &mut [f32]| source.read_row(first + row_idx, out);
                multiply(self.cpu, &part, shape, &read, |columns, product| {
                    for (i, row_idx) in rows.clone().enumerate() {
                        y.row_mut(row_idx)[columns.clone()].copy_from_slice(product.row(i));
                    }
                });
            }
        }
    }

    fn combine(&self, routing: &Routing, x: &Rows, y: &mut Rows) {
        self.cpu.combine(routing, x, y);
    }

    fn gather_wanted(&self, step: &StepPlan<Lora>, x: &Rows, y: &mut Rows) {
        self.cpu.gather_wanted(step, x, y);
    }
}
