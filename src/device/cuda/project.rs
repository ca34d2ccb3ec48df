//! Products with weights and the updates by adapters: matmul.cu and lora.cu.

use super::adapter::{ROUTER, of_mlp};
use super::gpu::{Cuda, THREADS, grid, whole};
use super::routing::{GROUP_ROWS, Routing};
use super::rows::Rows;
use super::scratch::Scratch;
use super::step::{Step, StepAdapters};
use super::weights::Weights;
use crate::cuda::{Argument, Grid};
use crate::device::{Output, Pairs};
use crate::kernels::lora::PART_INPUTS;
use crate::kernels::tile::{BLOCK, TILE_ROWS};
use crate::numbers::Module;
use crate::numbers::tiles::n_tiles;

/// From so many rows on, tensor cores are faster.
const MANY_ROWS: usize = 24;
/// Rows and tiles of a block of threads then.
const GEMM_ROWS: usize = 64;
const GEMM_TILES: usize = 4;
/// Blocks of inputs whose sums are in shared memory at once.
const CHUNK: usize = 32;
/// Inputs whose part of an adapter's A is in shared memory at once.
const A_ROWS: usize = 16;

impl Cuda {
    /// See [`crate::device::Device::project`] and [`crate::device::Device::project_routed`].
    pub(super) fn project_all(
        &self,
        step: &Step,
        routing: Option<&Routing>,
        x: &Rows,
        outputs: &mut [Output<'_, Self>],
    ) {
        let mut scratch = self.scratch();
        let mut changed = scratch.changed.take().unwrap_or_else(|| Rows::new(x.width()));
        changed.set_width(x.width());
        // The codes of x, as long as they are what the buffers hold.
        let mut codes_of_x = None;
        for output in outputs.iter_mut() {
            let changes = output.weights.input_changes();
            if let Some(changes) = changes {
                self.change(x, changes, &mut changed);
            }
            let inputs = if changes.is_some() { &changed } else { x };
            if !output.weights.takes_codes() {
                self.multiply(routing, inputs, &[inputs.at()], output);
            } else if changes.is_some() {
                codes_of_x = None;
                let codes = self.codes_of(&mut scratch, inputs);
                self.multiply(routing, inputs, &codes, output);
            } else {
                let codes = *codes_of_x.get_or_insert_with(|| self.codes_of(&mut scratch, x));
                self.multiply(routing, inputs, &codes, output);
            }
            for adapters in &step.adapters {
                self.update(adapters, routing, x, output, &mut scratch);
            }
        }
        scratch.changed = Some(changed);
    }

    fn change(&self, x: &Rows, [order, factor]: [Argument; 2], changed: &mut Rows) {
        self.resize(changed, x.n_rows());
        let arguments = [x.at(), order, factor, changed.at_mut(), whole(x.width()), whole(x.stride())];
        // SAFETY: both have the shape that is named; order and factors have an element for each input.
        unsafe { self.launch(&self.kernels.change_inputs, grid(x.n_rows(), 1, 1), &arguments) };
    }

    /// Rows as codes, scales and sums.
    fn codes_of(&self, scratch: &mut Scratch, x: &Rows) -> [Argument; 3] {
        let n = x.n_elements();
        let codes = self.room(&mut scratch.codes, n);
        let scale = self.room(&mut scratch.scale, n / BLOCK);
        let sum = self.room(&mut scratch.sum, n / BLOCK);
        let blocks = grid(x.stride().div_ceil(THREADS as usize), x.n_rows(), 1);
        // SAFETY: the buffers have room for all rows.
        unsafe {
            self.launch(&self.kernels.quantize, blocks, &[x.at(), codes, scale, sum, whole(x.stride())]);
        }
        [codes, scale, sum]
    }

    /// `inputs` are the rows as the matrix takes them: f32, or codes with scales and sums.
    fn multiply(
        &self,
        routing: Option<&Routing>,
        x: &Rows,
        inputs: &[Argument],
        output: &mut Output<'_, Self>,
    ) {
        let (weights, n_rows): (&Weights, usize) = (output.weights, x.n_rows());
        assert!(output.y.n_rows() == n_rows && weights.stride == x.stride());
        let (n_outputs, y_stride) = (output.y.width(), output.y.stride());
        let (kernel, n_sums) = weights.product(&self.kernels);
        let (groups, n_groups) = match routing {
            Some(routing) => (routing.groups(), routing.n_groups()),
            None => (Argument::Address(0), n_rows.div_ceil(GROUP_ROWS)),
        };
        let rows = n_rows.next_power_of_two().min(GROUP_ROWS);
        let shared = CHUNK * n_sums * rows * TILE_ROWS * size_of::<f32>();
        let bias = output.bias.map_or(Argument::Address(0), super::weights::Vector::at);
        let mut arguments = weights.arguments().to_vec();
        arguments.extend_from_slice(inputs);
        arguments.extend([
            bias,
            output.y.at_mut(),
            whole(n_outputs),
            whole(y_stride),
            whole(n_rows),
            groups,
            whole(rows),
        ]);
        let shared = u32::try_from(shared).expect("at most 32 KiB");
        let many = (routing.is_none() && n_rows >= MANY_ROWS).then(|| weights.gemm(&self.kernels)).flatten();
        let (kernel, blocks) = match many {
            Some(gemm) => {
                (gemm, grid(n_tiles(n_outputs).div_ceil(GEMM_TILES), n_rows.div_ceil(GEMM_ROWS), 1))
            }
            None => (kernel, Grid { shared, ..grid(n_tiles(n_outputs), n_groups, 1) }),
        };
        // SAFETY: the matrix has the tiles of so many outputs, of each expert; rows and outputs have the shapes named.
        unsafe {
            self.launch(kernel, blocks, &arguments);
        }
    }

    /// Adds the updates of one turn's adapters.
    fn update(
        &self,
        adapters: &StepAdapters,
        routing: Option<&Routing>,
        x: &Rows,
        output: &mut Output<'_, Self>,
        scratch: &mut Scratch,
    ) {
        let (layer, projection) = match output.pairs {
            Pairs::None => return,
            Pairs::Of { layer, module: Module::One(projection) } => (layer, projection as usize),
            Pairs::Of { layer, .. } => (layer, ROUTER),
            Pairs::OfExperts { layer, projection } => (layer, of_mlp(projection)),
        };
        if adapters.max_rank == 0 {
            return;
        }
        let none = Argument::Address(0);
        let (row_of, expert_of) =
            routing.map_or((none, none), |routing| (routing.row_of(), routing.expert_of()));
        let of_rows =
            [adapters.table, adapters.adapter_of, row_of, expert_of, whole(layer), whole(projection)];
        let n_parts = x.width().div_ceil(PART_INPUTS);
        let max_rank = whole(adapters.max_rank);
        let hidden = self.room(&mut scratch.hidden, x.n_rows() * n_parts * adapters.max_rank);
        let bytes = |n: usize| u32::try_from(n).expect("at most 32 KiB");
        let mut shrink = vec![x.at(), whole(x.width()), whole(x.stride())];
        shrink.extend(of_rows);
        shrink.extend([hidden, max_rank]);
        let mut expand = vec![hidden, whole(n_parts), max_rank];
        expand.extend(of_rows);
        expand.extend([output.y.at_mut(), whole(output.y.width()), whole(output.y.stride())]);
        // SAFETY: the adapters fit the architecture, and hidden has room for all parts of all rows.
        unsafe {
            let shared = bytes(A_ROWS * adapters.max_rank * size_of::<u16>());
            let blocks = Grid { shared, ..grid(n_parts, x.n_rows(), 1) };
            self.launch(&self.kernels.lora_shrink, blocks, &shrink);
            let shared = bytes(adapters.max_rank * size_of::<f32>());
            let blocks = Grid { shared, ..grid(output.y.width().div_ceil(THREADS as usize), x.n_rows(), 1) };
            self.launch(&self.kernels.lora_expand, blocks, &expand);
        }
    }
}
