//! What a decoder asks of a device. Activations are rows of f32; every row is computed by arithmetic of a
//! fixed order, so the result of a row does not depend on the other rows of the call.

use std::ops::Range;

use crate::format::{FormatError, StoredMatrix, Tensor};
use crate::numbers::family::Activation;

/// A device with its own memory for weights, activations and the key-value cache.
pub trait Backend {
    /// f32 activations `[n_rows, width]`.
    type Rows;
    /// A weight matrix `[out, in]` as the engine stores it.
    type Weights;
    /// A vector of f32: a norm's weight or a bias.
    type Vector;
    /// One adapter pair: A `[in, rank]` and columns of B `[rank, all_out]`, f16.
    type Lora;
    /// Keys and values of all layers, in blocks.
    type Cache;

    /// Takes a matrix of `[out, in]` with what stands beside it: scales, factors and order of its inputs.
    ///
    /// # Errors
    /// [`FormatError`] when the backend cannot use the tensors.
    fn weights(&self, name: &str, matrix: StoredMatrix) -> Result<Self::Weights, FormatError>;

    /// Takes a vector of `len` f32 elements.
    ///
    /// # Errors
    /// [`FormatError`] when type or shape do not fit.
    fn vector(&self, name: &str, len: usize, values: Tensor) -> Result<Self::Vector, FormatError>;

    /// Takes an adapter pair: `a` `[in, rank]`, `b` `[rank, all_out]`, both f16; `columns` are those of `b` that
    /// are the projection's outputs.
    ///
    /// # Errors
    /// [`FormatError`] when types or shapes do not fit.
    fn lora(&self, a: Tensor, b: Tensor, columns: Range<usize>) -> Result<Self::Lora, FormatError>;

    /// Activations of zeros.
    fn rows(&self, n_rows: usize, width: usize) -> Self::Rows;

    /// Changes the number of rows; new rows hold anything.
    fn set_n_rows(&self, rows: &mut Self::Rows, n_rows: usize);

    /// One row, as the host reads it: `[width]`.
    fn read_row<'a>(&self, rows: &'a Self::Rows, row_idx: usize) -> &'a [f32];

    /// A cache without any position.
    ///
    /// # Errors
    /// The system's, when the address space cannot be had.
    fn cache(&self, shape: CacheShape) -> std::io::Result<Self::Cache>;

    /// Memory that one block of such a cache takes, in bytes.
    fn block_bytes(&self, shape: &CacheShape) -> usize;

    /// Gives the memory of these blocks back; their content is lost.
    fn forget_blocks(&self, cache: &mut Self::Cache, blocks: &[u32]);

    /// Gives buffers back that are only kept for the next operation.
    fn forget_scratch(&self);

    /// `y[i] = table[tokens[i]]`
    fn embed(&self, table: &Self::Weights, tokens: &[u32], y: &mut Self::Rows);

    /// `y = x / rms(x) * weight`, per row.
    fn rms_norm(&self, x: &Self::Rows, weight: &Self::Vector, eps: f32, y: &mut Self::Rows);

    /// The same per head of a row, in place; the weight's length is the head's.
    fn rms_norm_heads(&self, x: &mut Self::Rows, weight: &Self::Vector, eps: f32);

    /// For each output `y = x' w^T + bias`, where `x'` is x in the matrix's order of inputs and times its factors,
    /// and then `y += scale * (x A) B` for the rows of its adapters.
    fn project(&self, x: &Self::Rows, outputs: &mut [Output<'_, Self>]);

    /// Rotates the pairs `(i, i + half)` of every head; `cos` and `sin` are `[n_rows, half]`, where `half` is at
    /// most `head_dim / 2`. What lies behind the pairs stays.
    fn rotate(&self, x: &mut Self::Rows, head_dim: usize, cos: &[f32], sin: &[f32]);

    /// Writes row i's keys and values at `rows[i]`'s position.
    fn store(
        &self,
        cache: &mut Self::Cache,
        layer: usize,
        k: &Self::Rows,
        v: &Self::Rows,
        rows: &[AttendRow<'_>],
    );

    /// Row i attends to the positions `rows[i].start ..= rows[i].position` of its blocks.
    fn attend(&self, q: &Self::Rows, cache: &Self::Cache, task: Attend<'_>, y: &mut Self::Rows);

    /// `y += x`
    fn add(&self, x: &Self::Rows, y: &mut Self::Rows);

    /// `x *= factor`
    fn scale(&self, x: &mut Self::Rows, factor: f32);

    /// `gate = activation(gate) * up`
    fn activate(&self, activation: Activation, gate: &mut Self::Rows, up: &Self::Rows);

    /// As `project`, with another matrix for each expert's rows: weights are stacks of them. The experts' rows follow
    /// each other and cover x.
    fn project_experts(&self, x: &Self::Rows, experts: &[ExpertRows], outputs: &mut [Output<'_, Self>]);

    /// `y[i] = sum of weight * x[row]` over its `parts.len() / n_rows of y` parts, one after the other.
    fn combine(&self, x: &Self::Rows, parts: &[Part], y: &mut Self::Rows);

    /// `y[i] = x[row_idx[i]]`
    fn gather(&self, x: &Self::Rows, row_idx: &[usize], y: &mut Self::Rows);
}

/// A product that is wanted of some rows.
pub struct Output<'a, B: Backend + ?Sized> {
    pub weights: &'a B::Weights,
    pub bias: Option<&'a B::Vector>,
    /// No row stands in two of them.
    pub loras: &'a [LoraRows<'a, B::Lora>],
    pub y: &'a mut B::Rows,
}

impl<'a, B: Backend + ?Sized> Output<'a, B> {
    /// Without a bias.
    pub fn new(weights: &'a B::Weights, loras: &'a [LoraRows<'a, B::Lora>], y: &'a mut B::Rows) -> Self {
        Self { weights, bias: None, loras, y }
    }
}

/// Rows that share an adapter.
pub struct LoraRows<'a, L> {
    pub rows: Range<usize>,
    pub pair: &'a L,
    /// Multiplies the update; 1 unless the request asks otherwise.
    pub scale: f32,
}

/// Rows that share an expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpertRows {
    pub expert: usize,
    pub rows: Range<usize>,
}

/// A row with the weight it has in a sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    pub row: usize,
    pub weight: f32,
}

/// One layer's attention.
#[derive(Clone, Copy)]
pub struct Attend<'a> {
    pub layer: usize,
    /// Multiplies the scores.
    pub scale: f32,
    pub rows: &'a [AttendRow<'a>],
}

/// Where a row stands in its sequence.
#[derive(Clone, Copy)]
pub struct AttendRow<'a> {
    pub position: usize,
    /// The first position it sees.
    pub start: usize,
    /// Cache blocks of its sequence, in order.
    pub blocks: &'a [u32],
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

/// What keys and values are kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheElement {
    F32,
    F16,
}
