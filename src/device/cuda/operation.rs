//! What a decoder asks of the device, written down before it is known which launches it takes: [`super::fuse`] puts
//! neighbours together, [`super::launches`] says how each is launched.

use super::launch::Launch;
use crate::cuda::{Argument, Function};
use crate::numbers::family::Activation;

/// Matrices, or projections, of a launch, at most: `MAX_PARTS` in matmul.cu.
pub const MAX_PARTS: usize = 3;

/// One of them; addresses are those of buffers whose shapes stand beside them.
#[derive(Clone, PartialEq)]
pub enum Operation {
    Norm(Norm),
    Codes(Codes),
    Product(Product),
    Update(Update),
    Turn(Turn),
    Store(Box<Store>),
    Attention(Box<Attention>),
    Add(Add),
    Activate(Activate),
    /// A launch that no other is put together with.
    Launch(Launch),
}

/// `y = x / rms(x) * weight`, for each of `heads` side by side in a row.
#[derive(Clone, Copy, PartialEq)]
pub struct Norm {
    /// `[n_rows, stride]`, as `y`, which may be the same.
    pub x: Argument,
    /// `[width]`
    pub weight: Argument,
    pub eps: f32,
    pub y: Argument,
    pub heads: usize,
    /// Elements of a head.
    pub width: usize,
    pub n_rows: usize,
    pub stride: usize,
}

/// Rows as codes, scales and sums.
#[derive(Clone, Copy, PartialEq)]
pub struct Codes {
    /// `[n_rows, stride]`
    pub x: Argument,
    pub codes: [Argument; 3],
    pub n_rows: usize,
    pub stride: usize,
}

/// Rows times a matrix.
#[derive(Clone, PartialEq)]
pub struct Product {
    pub way: Way,
    pub part: Part,
}

/// All of a product but its matrix and outputs: products of one way that stand side by side are one launch.
#[derive(Clone, PartialEq)]
pub struct Way {
    pub kernel: Function,
    /// That for many rows, where there is one.
    pub gemm: Option<Function>,
    /// Sums that the kernel makes of a block of inputs for each output.
    pub n_sums: usize,
    pub inputs: Inputs,
    pub stride: usize,
    pub n_rows: usize,
    /// Of rows that are sorted by experts.
    pub groups: Option<Groups>,
}

/// Lists of groups of rows of one expert, and how many there are.
#[derive(Clone, Copy, PartialEq)]
pub struct Groups {
    /// Of rows as the kernel takes them.
    pub few: (Argument, usize),
    /// As that for many rows does.
    pub many: (Argument, usize),
    /// Rows of an expert, if all had as many.
    pub rows_each: usize,
}

/// Rows as a matrix takes them.
#[derive(Clone, Copy, PartialEq)]
pub enum Inputs {
    Numbers([Argument; 1]),
    /// With scales and sums.
    Codes([Argument; 3]),
}

/// `struct Part` in matmul.cu.
#[derive(Clone, Copy, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Part {
    pub values: u64,
    pub scale: u64,
    pub more: u64,
    pub bias: u64,
    pub y: u64,
    pub group: i32,
    pub n_outputs: i32,
    pub y_stride: i32,
    pub n_tiles: i32,
}

/// Adds what the rows' adapters make of their inputs to the outputs of a projection.
#[derive(Clone, Copy, PartialEq)]
pub struct Update {
    pub of: Adapted,
    pub part: UpdatedPart,
}

/// All of an update but its projection and outputs: those that stand side by side are launched together.
#[derive(Clone, Copy, PartialEq)]
pub struct Adapted {
    /// `[n_rows, stride]`
    pub x: Argument,
    pub width: usize,
    pub stride: usize,
    pub n_rows: usize,
    /// As `AdaptedRows` in lora.cu: adapters, which of them a row has, rows and experts of places.
    pub adapters: [Argument; 4],
    pub layer: usize,
    pub max_rank: usize,
    /// Of [`MAX_PARTS`] projections `[n_rows, parts of the width, max_rank]`.
    pub hidden: Argument,
}

/// `struct Update` in lora.cu.
#[derive(Clone, Copy, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct UpdatedPart {
    pub projection: i32,
    pub n_outputs: i32,
    pub y_stride: i32,
    pub unused: i32,
    pub y: u64,
}

/// Turns the pairs `(i, i + half)` of every head by the angles of its row.
#[derive(Clone, Copy, PartialEq)]
pub struct Turn {
    /// `[n_rows, stride]`
    pub x: Argument,
    pub heads: usize,
    pub head_dim: usize,
    pub n_rows: usize,
    pub stride: usize,
    /// `[n_rows, half]`, as `sin`.
    pub cos: Argument,
    pub sin: Argument,
    pub half: usize,
}

/// Where the positions of rows lie in the cache: positions, first blocks, blocks.
pub type Places = [Argument; 3];

/// Writes keys and values at the positions of their rows.
#[derive(Clone, PartialEq)]
pub struct Store {
    /// As `Cache` in attention.cu.
    pub cache: [Argument; 7],
    pub n_kv_heads: usize,
    pub head_dim: usize,
    /// `[n_rows, stride]`, as `v`.
    pub k: Argument,
    pub v: Argument,
    pub n_rows: usize,
    pub stride: usize,
    pub places: Places,
}

/// Rows attend to the positions that they see.
#[derive(Clone, PartialEq)]
pub struct Attention {
    pub cache: [Argument; 7],
    pub n_kv_heads: usize,
    /// Queries of a head of keys and values.
    pub n_shared: usize,
    pub head_dim: usize,
    /// `[n_rows, stride]`, as `y`.
    pub q: Argument,
    pub y: Argument,
    pub n_rows: usize,
    pub stride: usize,
    pub scale: f32,
    pub places: Places,
    /// `[n_rows]`
    pub starts: Argument,
    /// Parts that a row's positions lie in, at most.
    pub max_parts: usize,
    /// Of each part what it gives and its weight, where there are several.
    pub outs: Argument,
    pub weights: Argument,
}

/// `y += x`
#[derive(Clone, Copy, PartialEq)]
pub struct Add {
    /// `[n]`, as `y`.
    pub x: Argument,
    pub y: Argument,
    pub n: usize,
}

/// `gate = activation(gate) * up`
#[derive(Clone, Copy, PartialEq)]
pub struct Activate {
    pub activation: Activation,
    /// `[n_rows, stride]`, as `up`.
    pub gate: Argument,
    pub up: Argument,
    pub n_rows: usize,
    pub stride: usize,
}

impl Operation {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let n_rows = match self {
            Self::Norm(norm) => norm.n_rows,
            Self::Codes(codes) => codes.n_rows,
            Self::Product(product) => product.way.n_rows,
            Self::Update(update) => update.of.n_rows,
            Self::Turn(turn) => turn.n_rows.min(turn.heads),
            Self::Store(store) => store.n_rows,
            Self::Attention(attention) => attention.n_rows,
            Self::Add(add) => add.n,
            Self::Activate(activate) => activate.n_rows,
            Self::Launch(_) => 1,
        };
        n_rows == 0
    }
}

impl Part {
    pub fn tiles(&self) -> usize {
        usize::try_from(self.n_tiles).unwrap_or(0)
    }
}

impl Inputs {
    pub fn as_slice(&self) -> &[Argument] {
        match self {
            Self::Numbers(numbers) => numbers,
            Self::Codes(codes) => codes,
        }
    }
}

macro_rules! operations {
    ($($kind:ident $how:tt)+) => {
        $(operations!(@ $kind $how);)+
    };
    (@ $kind:ident own) => {
        impl From<$kind> for Operation {
            fn from(operation: $kind) -> Self {
                Self::$kind(operation)
            }
        }
    };
    (@ $kind:ident boxed) => {
        impl From<$kind> for Operation {
            fn from(operation: $kind) -> Self {
                Self::$kind(Box::new(operation))
            }
        }
    };
}

operations! {
    Norm own Codes own Product own Update own Turn own Store boxed Attention boxed Add own Activate own Launch own
}
