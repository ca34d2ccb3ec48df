//! One of the two devices, chosen when the program runs. What a device computes with is its own: nobody brings the rows of
//! one to the other.

use std::sync::Arc;

use super::plan::{AdapterRows, StepPlan};
use super::{Attend, CacheShape, Cpu, Device, DeviceFault, Draw, Drawn, Output, cpu, cuda};
use crate::format::{Adapter, FormatError, StoredMatrix, Tensor, TensorFile};
use crate::numbers::architecture::Experts;
use crate::numbers::family::Activation;

/// Something of the processor, or of a GPU.
pub enum Either<C, G> {
    Cpu(C),
    Cuda(G),
}

/// The device that was chosen.
pub type Opened = Either<Cpu, Box<cuda::Cuda>>;

const FOREIGN: &str = "what a device computes with is its own";

/// Calls the device with what is its own.
macro_rules! on_own {
    ($device:expr, ($d:ident $(, $own:ident = $value:expr)*) => $call:expr) => {
        match ($device, $($value),*) {
            (Either::Cpu($d), $(Either::Cpu($own)),*) => $call,
            (Either::Cuda($d), $(Either::Cuda($own)),*) => $call,
            #[allow(unreachable_patterns, reason = "where the device is all there is")]
            _ => unreachable!("{FOREIGN}"),
        }
    };
}

/// The same, and says whose what comes back is.
macro_rules! made_by {
    ($device:expr, ($d:ident) => $call:expr) => {
        match $device {
            Either::Cpu($d) => $call.map(Either::Cpu),
            Either::Cuda($d) => $call.map(Either::Cuda),
        }
    };
}

/// Outputs as one device takes them.
macro_rules! outputs_of {
    ($outputs:expr, $side:ident) => {
        $outputs
            .iter_mut()
            .map(|output| Output {
                weights: own!($side, output.weights),
                bias: output.bias.map(|bias| own!($side, bias)),
                pairs: output.pairs,
                y: own!($side, &mut *output.y),
            })
            .collect::<Vec<_>>()
    };
}

macro_rules! own {
    ($side:ident, $value:expr) => {
        match $value {
            Either::$side(own) => own,
            _ => unreachable!("{FOREIGN}"),
        }
    };
}

impl Device for Opened {
    type Rows = Either<cpu::Rows, cuda::Rows>;
    type Weights = Either<cpu::Weights, cuda::Weights>;
    type Vector = Either<cpu::Vector, cuda::Vector>;
    type Lora = Either<Arc<cpu::Lora>, Arc<cuda::Lora>>;
    type Cache = Either<cpu::Cache, cuda::Cache>;
    type Step = Either<StepPlan<cpu::Lora>, cuda::Step>;
    type Routing = Either<cpu::Routing, cuda::Routing>;

    fn see_file(&self, file: &TensorFile) {
        on_own!(self, (d) => d.see_file(file));
    }

    fn weights(&self, name: &str, matrix: StoredMatrix) -> Result<Self::Weights, FormatError> {
        made_by!(self, (d) => d.weights(name, matrix))
    }

    fn vector(&self, name: &str, len: usize, values: Tensor) -> Result<Self::Vector, FormatError> {
        made_by!(self, (d) => d.vector(name, len, values))
    }

    fn lora(&self, adapter: &Adapter) -> Result<Self::Lora, FormatError> {
        made_by!(self, (d) => d.lora(adapter).map(Arc::new))
    }

    fn rows(&self, n_rows: usize, width: usize) -> Self::Rows {
        match self {
            Either::Cpu(d) => Either::Cpu(d.rows(n_rows, width)),
            Either::Cuda(d) => Either::Cuda(d.rows(n_rows, width)),
        }
    }

    fn host_rows(&self, width: usize) -> Self::Rows {
        match self {
            Either::Cpu(d) => Either::Cpu(d.host_rows(width)),
            Either::Cuda(d) => Either::Cuda(d.host_rows(width)),
        }
    }

    fn draw_bytes(&self, vocab_size: usize) -> usize {
        match self {
            Either::Cpu(d) => d.draw_bytes(vocab_size),
            Either::Cuda(d) => d.draw_bytes(vocab_size),
        }
    }

    fn routing(&self) -> Self::Routing {
        match self {
            Either::Cpu(d) => Either::Cpu(d.routing()),
            Either::Cuda(d) => Either::Cuda(d.routing()),
        }
    }

    fn set_n_rows(&self, rows: &mut Self::Rows, n_rows: usize) {
        on_own!(self, (d, rows = rows) => d.set_n_rows(rows, n_rows));
    }

    fn read_row<'a>(&self, rows: &'a Self::Rows, row_idx: usize) -> &'a [f32] {
        on_own!(self, (d, rows = rows) => d.read_row(rows, row_idx))
    }

    fn cache(&self, shape: CacheShape) -> std::io::Result<Self::Cache> {
        made_by!(self, (d) => d.cache(shape))
    }

    fn forget_blocks(&self, cache: &mut Self::Cache, blocks: &[u32]) {
        on_own!(self, (d, cache = cache) => d.forget_blocks(cache, blocks));
    }

    fn copy_block(&self, cache: &mut Self::Cache, from: u32, to: u32) {
        on_own!(self, (d, cache = cache) => d.copy_block(cache, from, to));
    }

    fn forget_scratch(&self) {
        on_own!(self, (d) => d.forget_scratch());
    }

    fn leaves_host_free(&self) -> bool {
        on_own!(self, (d) => d.leaves_host_free())
    }

    fn for_each(&self, n: usize, work: &(dyn Fn(usize) + Sync)) {
        on_own!(self, (d) => d.for_each(n, work));
    }

    fn ask_tokens(&self, draws: &[Draw<'_>], vocab_size: usize) {
        on_own!(self, (d) => d.ask_tokens(draws, vocab_size));
    }

    fn allow(&self, row_idx: usize, tokens: Option<&[u32]>) {
        on_own!(self, (d) => d.allow(row_idx, tokens));
    }

    fn draw(&self, logits: &Self::Rows) {
        on_own!(self, (d, logits = logits) => d.draw(logits));
    }

    fn drawn(&self, row_idx: usize) -> Option<Drawn> {
        on_own!(self, (d) => d.drawn(row_idx))
    }

    fn upload(&self, plan: StepPlan<Self::Lora>) -> Self::Step {
        match self {
            Either::Cpu(d) => Either::Cpu(d.upload(with_adapters(plan, |lora| own!(Cpu, lora)))),
            Either::Cuda(d) => Either::Cuda(d.upload(with_adapters(plan, |lora| own!(Cuda, lora)))),
        }
    }

    fn finish(&self) -> Result<(), DeviceFault> {
        on_own!(self, (d) => d.finish())
    }

    fn embed(&self, step: &Self::Step, table: &Self::Weights, y: &mut Self::Rows) {
        on_own!(self, (d, step = step, table = table, y = y) => d.embed(step, table, y));
    }

    fn rms_norm(&self, x: &Self::Rows, weight: &Self::Vector, eps: f32, y: &mut Self::Rows) {
        on_own!(self, (d, x = x, weight = weight, y = y) => d.rms_norm(x, weight, eps, y));
    }

    fn rms_norm_heads(&self, x: &mut Self::Rows, weight: &Self::Vector, eps: f32) {
        on_own!(self, (d, x = x, weight = weight) => d.rms_norm_heads(x, weight, eps));
    }

    fn project(&self, step: &Self::Step, x: &Self::Rows, outputs: &mut [Output<'_, Self>]) {
        match (self, step, x) {
            (Either::Cpu(d), Either::Cpu(step), Either::Cpu(x)) => {
                d.project(step, x, &mut outputs_of!(outputs, Cpu));
            }
            (Either::Cuda(d), Either::Cuda(step), Either::Cuda(x)) => {
                d.project(step, x, &mut outputs_of!(outputs, Cuda));
            }
            _ => unreachable!("{FOREIGN}"),
        }
    }

    fn rotate(&self, step: &Self::Step, view: usize, head_dim: usize, x: &mut Self::Rows) {
        on_own!(self, (d, step = step, x = x) => d.rotate(step, view, head_dim, x));
    }

    fn store(
        &self,
        step: &Self::Step,
        cache: &mut Self::Cache,
        layer: usize,
        k: &Self::Rows,
        v: &Self::Rows,
    ) {
        on_own!(self, (d, step = step, cache = cache, k = k, v = v) => d.store(step, cache, layer, k, v));
    }

    fn attend(
        &self,
        step: &Self::Step,
        q: &Self::Rows,
        cache: &Self::Cache,
        task: Attend,
        y: &mut Self::Rows,
    ) {
        on_own!(self, (d, step = step, q = q, cache = cache, y = y) => d.attend(step, q, cache, task, y));
    }

    fn add(&self, x: &Self::Rows, y: &mut Self::Rows) {
        on_own!(self, (d, x = x, y = y) => d.add(x, y));
    }

    fn scale(&self, x: &mut Self::Rows, factor: f32) {
        on_own!(self, (d, x = x) => d.scale(x, factor));
    }

    fn activate(&self, activation: Activation, gate: &mut Self::Rows, up: &Self::Rows) {
        on_own!(self, (d, gate = gate, up = up) => d.activate(activation, gate, up));
    }

    fn route(&self, logits: &Self::Rows, experts: &Experts, routing: &mut Self::Routing) {
        on_own!(self, (d, logits = logits, routing = routing) => d.route(logits, experts, routing));
    }

    fn gather_routed(&self, routing: &Self::Routing, x: &Self::Rows, y: &mut Self::Rows) {
        on_own!(self, (d, routing = routing, x = x, y = y) => d.gather_routed(routing, x, y));
    }

    fn project_routed(
        &self,
        step: &Self::Step,
        routing: &Self::Routing,
        x: &Self::Rows,
        outputs: &mut [Output<'_, Self>],
    ) {
        match (self, step, routing, x) {
            (Either::Cpu(d), Either::Cpu(step), Either::Cpu(routing), Either::Cpu(x)) => {
                d.project_routed(step, routing, x, &mut outputs_of!(outputs, Cpu));
            }
            (Either::Cuda(d), Either::Cuda(step), Either::Cuda(routing), Either::Cuda(x)) => {
                d.project_routed(step, routing, x, &mut outputs_of!(outputs, Cuda));
            }
            _ => unreachable!("{FOREIGN}"),
        }
    }

    fn combine(&self, routing: &Self::Routing, x: &Self::Rows, y: &mut Self::Rows) {
        on_own!(self, (d, routing = routing, x = x, y = y) => d.combine(routing, x, y));
    }

    fn gather_wanted(&self, step: &Self::Step, x: &Self::Rows, y: &mut Self::Rows) {
        on_own!(self, (d, step = step, x = x, y = y) => d.gather_wanted(step, x, y));
    }
}

/// A plan with the adapters as one device has them.
fn with_adapters<L, T>(plan: StepPlan<L>, own: impl Fn(&L) -> &Arc<T>) -> StepPlan<T> {
    let StepPlan { tokens, places, blocks, views, adapters, logit_rows } = plan;
    let rows_of = |AdapterRows { rows, adapter, scale }: AdapterRows<L>| AdapterRows {
        rows,
        adapter: Arc::clone(own(&adapter)),
        scale,
    };
    let adapters = adapters.into_iter().map(|turn| turn.into_iter().map(rows_of).collect()).collect();
    StepPlan { tokens, places, blocks, views, adapters, logit_rows }
}
