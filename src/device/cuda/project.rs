//! Products with weights and the updates by adapters: matmul.cu and lora.cu.

use super::adapter::{ROUTER, of_mlp};
use super::gpu::{Cuda, grid, whole};
use super::operation::{Adapted, Codes, Inputs, MAX_PARTS, Part, Product, Update, UpdatedPart, Way};
use super::routing::Routing;
use super::rows::Rows;
use super::scratch::Scratch;
use super::step::{Step, StepAdapters};
use super::weights::{Vector, Weights};
use crate::cuda::Argument;
use crate::device::{Output, Pairs};
use crate::kernels::lora::PART_INPUTS;
use crate::kernels::tile::BLOCK;
use crate::numbers::Module;
use crate::numbers::tiles::n_tiles;

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
                self.multiply(routing, inputs, Inputs::Numbers([inputs.at()]), output);
            } else if changes.is_some() {
                codes_of_x = None;
                let codes = self.codes_of(&mut scratch, inputs);
                self.multiply(routing, inputs, Inputs::Codes(codes), output);
            } else {
                let codes = *codes_of_x.get_or_insert_with(|| self.codes_of(&mut scratch, x));
                self.multiply(routing, inputs, Inputs::Codes(codes), output);
            }
        }
        // After all products, which may be one launch then, and turn after turn for the same reason.
        for adapters in &step.adapters {
            for output in outputs.iter_mut() {
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
        let rows = [codes, scale, sum];
        // SAFETY: the buffers have room for all rows.
        unsafe { self.write_down(Codes { x: x.at(), codes: rows, n_rows: x.n_rows(), stride: x.stride() }) };
        rows
    }

    fn multiply(&self, routing: Option<&Routing>, x: &Rows, inputs: Inputs, output: &mut Output<'_, Self>) {
        let (weights, n_rows): (&Weights, usize) = (output.weights, x.n_rows());
        assert!(output.y.n_rows() == n_rows && weights.stride == x.stride());
        let (kernel, n_sums) = weights.product(&self.kernels);
        let way = Way {
            kernel: kernel.clone(),
            gemm: weights.gemm(&self.kernels).cloned(),
            n_sums,
            inputs,
            stride: x.stride(),
            n_rows,
            groups: routing.map(Routing::groups),
        };
        let (n_outputs, y_stride) = (number(output.y.width()), number(output.y.stride()));
        let part = Part {
            bias: output.bias.map_or(0, Vector::address),
            y: output.y.address_mut(),
            n_outputs,
            y_stride,
            n_tiles: number(n_tiles(output.y.width())),
            ..weights.part()
        };
        // SAFETY: the matrix has the tiles of so many outputs, of each expert; rows and outputs have the shapes named.
        unsafe { self.write_down(Product { way, part }) };
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
        let n_parts = x.width().div_ceil(PART_INPUTS);
        let n_hidden = MAX_PARTS * x.n_rows() * n_parts * adapters.max_rank;
        let of = Adapted {
            x: x.at(),
            width: x.width(),
            stride: x.stride(),
            n_rows: x.n_rows(),
            adapters: [adapters.table, adapters.adapter_of, row_of, expert_of],
            layer,
            max_rank: adapters.max_rank,
            hidden: self.room(&mut scratch.hidden, n_hidden),
        };
        let part = UpdatedPart {
            projection: number(projection),
            n_outputs: number(output.y.width()),
            y_stride: number(output.y.stride()),
            unused: 0,
            y: output.y.address_mut(),
        };
        // SAFETY: the adapters fit the architecture, and hidden has room for all parts of all rows.
        unsafe { self.write_down(Update { of, part }) };
    }
}

fn number(n: usize) -> i32 {
    i32::try_from(n).expect("sizes of a model have 31 bits")
}
