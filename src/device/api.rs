//! What a decoder asks of a device. Activations are rows of f32; every row is computed by arithmetic of a
//! fixed order, so the result of a row does not depend on the other rows of the call.
//!
//! Between [`Device::upload`] and [`Device::read_row`] nothing comes back to the host: which experts a row goes
//! through is decided on the device too.

use super::draw::{Draw, Drawn};
use super::plan::StepPlan;
use crate::format::{Adapter, FormatError, StoredMatrix, Tensor, TensorFile};
use crate::kernels::tile::TILE_ROWS;
use crate::numbers::Module;
use crate::numbers::architecture::{Experts, Projection};
use crate::numbers::family::Activation;

/// A device with its own memory for weights, activations and the key-value cache.
pub trait Device: Sync {
    /// f32 activations `[n_rows, width]`.
    type Rows;
    /// A weight matrix `[out, in]` as the engine stores it, or a stack of them.
    type Weights;
    /// A vector of f32: a norm's weight or a bias.
    type Vector;
    /// All pairs of an adapter.
    type Lora;
    /// Keys and values of all layers, in blocks.
    type Cache;
    /// A plan where operations read it.
    type Step;
    /// Which experts the rows of a step go through.
    type Routing;

    /// Weights that are taken next lie in this file. A device may read them there instead of copying them.
    fn see_file(&self, _file: &TensorFile) {}

    /// Takes a matrix of `[out, in]` with what stands beside it: scales, factors and order of its inputs.
    ///
    /// # Errors
    /// [`FormatError`] when the device cannot use the tensors.
    fn weights(&self, name: &str, matrix: StoredMatrix) -> Result<Self::Weights, FormatError>;

    /// Takes a vector of `len` f32 elements.
    ///
    /// # Errors
    /// [`FormatError`] when type or shape do not fit.
    fn vector(&self, name: &str, len: usize, values: Tensor) -> Result<Self::Vector, FormatError>;

    /// Takes an adapter that was bound to the engine's architecture.
    ///
    /// # Errors
    /// [`FormatError`] when the device cannot use a tensor.
    fn lora(&self, adapter: &Adapter) -> Result<Self::Lora, FormatError>;

    /// Activations of zeros.
    fn rows(&self, n_rows: usize, width: usize) -> Self::Rows;

    /// No rows yet, of activations that the host reads.
    fn host_rows(&self, width: usize) -> Self::Rows {
        self.rows(0, width)
    }

    /// Bytes that drawing the token of a row takes beside its logits.
    fn draw_bytes(&self, _vocab_size: usize) -> usize {
        0
    }

    /// Of no rows yet.
    fn routing(&self) -> Self::Routing;

    /// Changes the number of rows; new rows hold anything.
    fn set_n_rows(&self, rows: &mut Self::Rows, n_rows: usize);

    /// One row, as the host reads it: `[width]`.
    fn read_row<'a>(&self, rows: &'a Self::Rows, row_idx: usize) -> &'a [f32];

    /// A cache without any position.
    ///
    /// # Errors
    /// The system's, when the address space cannot be had.
    fn cache(&self, shape: CacheShape) -> std::io::Result<Self::Cache>;

    /// Gives the memory of these blocks back; their content is lost.
    fn forget_blocks(&self, cache: &mut Self::Cache, blocks: &[u32]);

    /// Copies all positions of a block into another one, of all layers.
    fn copy_block(&self, cache: &mut Self::Cache, from: u32, to: u32);

    /// Gives buffers back that are only kept for the next operation.
    fn forget_scratch(&self);

    /// Whether the host's processors wait while the device computes.
    fn leaves_host_free(&self) -> bool;

    /// Calls `work` once for each number below `n`, on the host's threads: for what is made of logits there.
    fn for_each(&self, n: usize, work: &(dyn Fn(usize) + Sync));

    /// Tokens are wanted of the next step's rows of logits, `[n_logit_rows]`, each `[vocab_size]`. A device that draws
    /// none leaves all of them to the host. The step before was waited for.
    fn ask_tokens(&self, _draws: &[Draw<'_>], _vocab_size: usize) {}

    /// The tokens that may come in a row that is guided: bit `token % 32` of word `token / 32`, or all of them. What is
    /// told after [`Device::ask_tokens`] and before the device draws is in time; otherwise the row is left to the host.
    fn allow(&self, _row_idx: usize, _tokens: Option<&[u32]>) {}

    /// Draws the tokens that were asked for from these logits, as far as the device does.
    fn draw(&self, _logits: &Self::Rows) {}

    /// What a row gave, once it is computed; none if it is left to the host.
    fn drawn(&self, _row_idx: usize) -> Option<Drawn> {
        None
    }

    /// Brings a plan to the device, once per step.
    fn upload(&self, plan: StepPlan<Self::Lora>) -> Self::Step;

    /// Waits until everything is computed that was asked for.
    ///
    /// # Errors
    /// [`DeviceFault`] when some of it was not; what the operations since the last wait have written is of no use.
    fn finish(&self) -> Result<(), DeviceFault>;

    /// `y[i] = table[tokens[i]]`
    fn embed(&self, step: &Self::Step, table: &Self::Weights, y: &mut Self::Rows);

    /// `y = x / rms(x) * weight`, per row.
    fn rms_norm(&self, x: &Self::Rows, weight: &Self::Vector, eps: f32, y: &mut Self::Rows);

    /// The same per head of a row, in place; the weight's length is the head's.
    fn rms_norm_heads(&self, x: &mut Self::Rows, weight: &Self::Vector, eps: f32);

    /// For each output `y = x' w^T + bias`, where `x'` is x in the matrix's order of inputs and times its factors,
    /// and then `y += scale * (x A) B` for the rows of the step's adapters, one turn after the other.
    fn project(&self, step: &Self::Step, x: &Self::Rows, outputs: &mut [Output<'_, Self>]);

    /// Rotates the pairs `(i, i + half)` of every head by the angles of a view. What lies behind the pairs stays.
    fn rotate(&self, step: &Self::Step, view: usize, head_dim: usize, x: &mut Self::Rows);

    /// Writes each row's keys and values at its position.
    fn store(&self, step: &Self::Step, cache: &mut Self::Cache, layer: usize, k: &Self::Rows, v: &Self::Rows);

    /// Each row attends to the positions of its sequence that the view shows it.
    fn attend(
        &self,
        step: &Self::Step,
        q: &Self::Rows,
        cache: &Self::Cache,
        task: Attend,
        y: &mut Self::Rows,
    );

    /// `y += x`
    fn add(&self, x: &Self::Rows, y: &mut Self::Rows);

    /// `x *= factor`
    fn scale(&self, x: &mut Self::Rows, factor: f32);

    /// `gate = activation(gate) * up`
    fn activate(&self, activation: Activation, gate: &mut Self::Rows, up: &Self::Rows);

    /// Chooses experts for each row of router logits `[n_rows, n_experts]`.
    fn route(&self, logits: &Self::Rows, experts: &Experts, routing: &mut Self::Routing);

    /// `y` becomes the rows of x for each expert, one expert after the other: `[n_rows * n_used, width]`.
    fn gather_routed(&self, routing: &Self::Routing, x: &Self::Rows, y: &mut Self::Rows);

    /// As `project`, over rows for each expert, with that expert's matrix of each stack. The outputs get as many rows.
    fn project_routed(
        &self,
        step: &Self::Step,
        routing: &Self::Routing,
        x: &Self::Rows,
        outputs: &mut [Output<'_, Self>],
    );

    /// `y[i]` becomes the weighted sum of what its experts gave, in rising order of the experts.
    fn combine(&self, routing: &Self::Routing, x: &Self::Rows, y: &mut Self::Rows);

    /// `y` becomes the rows of x whose logits are wanted.
    fn gather_wanted(&self, step: &Self::Step, x: &Self::Rows, y: &mut Self::Rows);
}

/// What a device's own memory is taken for, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    pub weights: usize,
    pub adapters: usize,
    pub keys_and_values: usize,
    /// Activations, tables and logits of steps.
    pub steps: usize,
}

/// What a device says when it has not computed what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DeviceFault(pub String);

/// A product that is wanted of some rows.
pub struct Output<'a, D: Device + ?Sized> {
    pub weights: &'a D::Weights,
    pub bias: Option<&'a D::Vector>,
    pub pairs: Pairs,
    pub y: &'a mut D::Rows,
}

/// Which pairs of the step's adapters change an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    None,
    Of {
        layer: usize,
        module: Module,
    },
    /// Each expert's own.
    OfExperts {
        layer: usize,
        projection: Projection,
    },
}

impl<'a, D: Device + ?Sized> Output<'a, D> {
    /// Without a bias and adapters.
    pub fn plain(weights: &'a D::Weights, y: &'a mut D::Rows) -> Self {
        Self { weights, bias: None, pairs: Pairs::None, y }
    }

    /// Of a stack of experts.
    pub fn routed(layer: usize, projection: Projection, weights: &'a D::Weights, y: &'a mut D::Rows) -> Self {
        Self { weights, bias: None, pairs: Pairs::OfExperts { layer, projection }, y }
    }
}

/// One layer's attention.
#[derive(Debug, Clone, Copy)]
pub struct Attend {
    pub layer: usize,
    /// Index into the plan's views.
    pub view: usize,
    /// Multiplies the scores.
    pub scale: f32,
}

/// Sizes of a key-value cache.
#[derive(Debug, Clone, Copy)]
pub struct CacheShape {
    pub n_layers: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    /// Positions in a block.
    pub block_len: usize,
    pub n_blocks: usize,
    pub element: CacheElement,
}

impl CacheShape {
    /// Head elements of a stored position; those beyond the head's own are zero.
    pub fn head_stride(&self) -> usize {
        self.head_dim.next_multiple_of(TILE_ROWS)
    }

    /// Elements of the keys, or values, of a head in a block, the scales of positions included.
    pub fn part_elements(&self) -> usize {
        let scales = match self.element {
            CacheElement::F32 | CacheElement::F16 => 0,
            CacheElement::I8 => size_of::<f32>(),
        };
        self.block_len * (self.head_stride() + scales)
    }

    /// Elements of a block: keys and values of all layers and heads.
    pub fn block_elements(&self) -> usize {
        self.n_layers * 2 * self.n_kv_heads * self.part_elements()
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        self.block_elements() * self.element.n_bytes()
    }
}

impl CacheElement {
    pub fn n_bytes(self) -> usize {
        match self {
            CacheElement::F32 => 4,
            CacheElement::F16 => 2,
            CacheElement::I8 => 1,
        }
    }
}

/// What keys and values are kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheElement {
    F32,
    F16,
    /// With a scale for each key and each value of a head.
    I8,
}
