//! The trait's operations: launches of elementwise.cu, and what the other files do.

use super::adapter::Lora;
use super::cache::Cache;
use super::draws::Draws;
use super::files::Place;
use super::gpu::{Cuda, THREADS, grid, lock, whole};
use super::operation::{Activate, Add, Norm, Turn};
use super::routing::Routing;
use super::rows::Rows;
use super::sampling::draw_bytes;
use super::scratch::{PlanMemory, Scratch};
use super::step::{Step, StepView};
use super::weights::{Vector, Weights, device_error};
use crate::cuda::{Argument, Grid};
use crate::device::{Attend, CacheShape, Device, DeviceFault, Draw, Drawn, Output, StepPlan};
use crate::format::{Adapter, FormatError, StoredMatrix, Tensor, TensorFile};
use crate::numbers::architecture::Experts;
use crate::numbers::family::Activation;

/// A thread for each of so many elements.
fn flat(n: usize) -> Grid {
    grid(n.div_ceil(THREADS as usize), 1, 1)
}

impl Cuda {
    /// A weight where kernels find it.
    fn place(&self, tensor: &Tensor) -> Result<Place, FormatError> {
        self.files.place(&self.context, &self.purposes.weights, tensor.data()).map_err(device_error)
    }

    fn gather_rows(&self, x: &Rows, rows: Argument, n_rows: usize, y: &mut Rows) {
        assert!(x.width() == y.width());
        self.resize(y, n_rows);
        let stride = whole(y.stride());
        // SAFETY: the numbers are those of rows of x.
        unsafe { self.launch(&self.kernels.gather, grid(n_rows, 1, 1), &[x.at(), rows, y.at_mut(), stride]) };
    }
}

impl Device for Cuda {
    type Rows = Rows;
    type Weights = Weights;
    type Vector = Vector;
    type Lora = Lora;
    type Cache = Cache;
    type Step = Step;
    type Routing = Routing;

    fn see_file(&self, file: &TensorFile) {
        self.files.see(&self.context, file.bytes());
    }

    fn weights(&self, _name: &str, matrix: StoredMatrix) -> Result<Weights, FormatError> {
        Weights::new(&matrix, |tensor| self.place(tensor))
    }

    fn vector(&self, name: &str, len: usize, values: Tensor) -> Result<Vector, FormatError> {
        Vector::new(name, len, &values, |tensor| self.place(tensor))
    }

    fn lora(&self, adapter: &Adapter) -> Result<Lora, FormatError> {
        Lora::new(&self.context, &self.purposes.adapters, adapter)
    }

    fn rows(&self, n_rows: usize, width: usize) -> Rows {
        let mut rows = Rows::new(width);
        self.resize(&mut rows, n_rows);
        rows
    }

    fn host_rows(&self, width: usize) -> Rows {
        Rows::on_host(width)
    }

    fn draw_bytes(&self, vocab_size: usize) -> usize {
        draw_bytes(vocab_size)
    }

    fn routing(&self) -> Routing {
        Routing::default()
    }

    fn set_n_rows(&self, rows: &mut Rows, n_rows: usize) {
        self.resize(rows, n_rows);
    }

    fn read_row<'a>(&self, rows: &'a Rows, row_idx: usize) -> &'a [f32] {
        self.row(rows, row_idx)
    }

    fn cache(&self, shape: CacheShape) -> std::io::Result<Cache> {
        Cache::new(&self.context, &self.purposes.keys_and_values, shape).map_err(std::io::Error::other)
    }

    fn forget_blocks(&self, cache: &mut Cache, blocks: &[u32]) {
        Self::forget(cache, blocks);
    }

    fn copy_block(&self, cache: &mut Cache, from: u32, to: u32) {
        self.copy(cache, from, to);
    }

    fn forget_scratch(&self) {
        self.forget_steps();
        *self.scratch() = Scratch::default();
        *lock(&self.plan) = PlanMemory::default();
        *lock(&self.draws) = Draws::default();
    }

    fn leaves_host_free(&self) -> bool {
        true
    }

    fn for_each(&self, n: usize, work: &(dyn Fn(usize) + Sync)) {
        self.pool.run(n, &|idx, _| work(idx));
    }

    fn ask_tokens(&self, draws: &[Draw<'_>], vocab_size: usize) {
        self.ask(draws, vocab_size);
    }

    fn allow(&self, row_idx: usize, tokens: Option<&[u32]>) {
        self.tell_allowed(row_idx, tokens);
    }

    fn draw(&self, logits: &Rows) {
        self.draw_all(logits);
    }

    fn drawn(&self, row_idx: usize) -> Option<Drawn> {
        self.answer(row_idx)
    }

    fn upload(&self, plan: StepPlan<Lora>) -> Step {
        self.bring(plan)
    }

    fn finish(&self) -> Result<(), DeviceFault> {
        self.wait()
    }

    fn embed(&self, step: &Step, table: &Weights, y: &mut Rows) {
        assert!(y.n_rows() == step.n_rows && y.stride() == table.stride);
        let mut arguments = vec![Argument::I32(table.kind_number())];
        arguments.extend(table.arguments());
        arguments.extend([step.tokens, y.at_mut()]);
        // SAFETY: tokens lie in the table.
        unsafe { self.launch(&self.kernels.embed, grid(step.n_rows, 1, 1), &arguments) };
    }

    fn rms_norm(&self, x: &Rows, weight: &Vector, eps: f32, y: &mut Rows) {
        assert!(
            x.n_rows() == y.n_rows() && x.width() == weight.n_elements() && y.width() == weight.n_elements()
        );
        let (width, n_rows, stride) = (x.width(), x.n_rows(), x.stride());
        let (x, weight, y) = (x.at(), weight.at(), y.at_mut());
        // SAFETY: both have the rows, and the weight the width.
        unsafe { self.write_down(Norm { x, weight, eps, y, heads: 1, width, n_rows, stride }) };
    }

    fn rms_norm_heads(&self, x: &mut Rows, weight: &Vector, eps: f32) {
        let width = weight.n_elements();
        assert!(x.width().is_multiple_of(width));
        let (heads, n_rows, stride) = (x.width() / width, x.n_rows(), x.stride());
        let (x, weight) = (x.at_mut(), weight.at());
        // SAFETY: the heads lie in the rows; in place is allowed.
        unsafe { self.write_down(Norm { x, weight, eps, y: x, heads, width, n_rows, stride }) };
    }

    fn project(&self, step: &Step, x: &Rows, outputs: &mut [Output<'_, Self>]) {
        self.project_all(step, None, x, outputs);
    }

    fn rotate(&self, step: &Step, view: usize, head_dim: usize, x: &mut Rows) {
        let view = &step.views[view];
        let heads = x.width() / head_dim;
        assert!(2 * view.half <= head_dim && x.n_rows() == step.n_rows && x.width() == heads * head_dim);
        let (n_rows, stride) = (step.n_rows, x.stride());
        let &StepView { cos, sin, half, .. } = view;
        let x = x.at_mut();
        // SAFETY: angles for every row; the pairs lie in the heads.
        unsafe { self.write_down(Turn { x, heads, head_dim, n_rows, stride, cos, sin, half }) };
    }

    fn store(&self, step: &Step, cache: &mut Cache, layer: usize, k: &Rows, v: &Rows) {
        self.store_rows(step, cache, layer, k, v);
    }

    fn attend(&self, step: &Step, q: &Rows, cache: &Cache, task: Attend, y: &mut Rows) {
        self.attend_all(step, q, cache, task, y);
    }

    fn add(&self, x: &Rows, y: &mut Rows) {
        assert!(x.n_rows() == y.n_rows() && x.width() == y.width());
        let n = y.n_elements();
        // SAFETY: both have so many elements.
        unsafe { self.write_down(Add { x: x.at(), y: y.at_mut(), n }) };
    }

    fn scale(&self, x: &mut Rows, factor: f32) {
        let n = x.n_elements();
        // SAFETY: it has so many elements.
        unsafe {
            self.launch(&self.kernels.multiply_by, flat(n), &[x.at_mut(), Argument::F32(factor), whole(n)]);
        }
    }

    fn activate(&self, activation: Activation, gate: &mut Rows, up: &Rows) {
        assert!(gate.n_rows() == up.n_rows() && gate.stride() == up.stride());
        let (n_rows, stride) = (gate.n_rows(), gate.stride());
        let (gate, up) = (gate.at_mut(), up.at());
        // SAFETY: both have the rows.
        unsafe { self.write_down(Activate { activation, gate, up, n_rows, stride }) };
    }

    fn route(&self, logits: &Rows, experts: &Experts, routing: &mut Routing) {
        self.choose(logits, experts, routing);
    }

    fn gather_routed(&self, routing: &Routing, x: &Rows, y: &mut Rows) {
        self.gather_rows(x, routing.row_of(), routing.n_places(), y);
    }

    fn project_routed(&self, step: &Step, routing: &Routing, x: &Rows, outputs: &mut [Output<'_, Self>]) {
        for output in outputs.iter_mut() {
            self.resize(output.y, x.n_rows());
        }
        self.project_all(step, Some(routing), x, outputs);
    }

    fn combine(&self, routing: &Routing, x: &Rows, y: &mut Rows) {
        self.combine_places(routing, x, y);
    }

    fn gather_wanted(&self, step: &Step, x: &Rows, y: &mut Rows) {
        self.gather_rows(x, step.logit_rows, step.n_logit_rows, y);
    }
}
