//! An adapter on the device: its matrices, and the table by which kernels find them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::purpose::{Counted, Counter};
use super::weights::device_error;
use crate::cuda::{Buffer, Context};
use crate::format::{Adapter, FormatError, LoraPair};
use crate::numbers::Module;
use crate::numbers::architecture::Projection;

/// Pairs of a layer: its projections, and its router.
const PAIRS_OF_LAYER: usize = 8;
/// Where the router's stands.
pub const ROUTER: usize = Projection::ALL.len();
const _: () = assert!(ROUTER + 1 == PAIRS_OF_LAYER);

/// An adapter.
pub struct Lora {
    table: Buffer<u8>,
    pub n_experts: usize,
    /// Where the pairs of experts begin in the table.
    pub first_expert: usize,
    pub max_rank: usize,
    /// What the table points to, each tensor once.
    _matrices: Vec<Buffer<u8>>,
    _counted: Counted,
}

/// `struct Pair` in lora.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Pair {
    a: u64,
    b: u64,
    rank: i32,
    b_stride: i32,
    first_column: i32,
    unused: i32,
}

impl Lora {
    pub fn new(context: &Arc<Context>, counter: &Counter, adapter: &Adapter) -> Result<Self, FormatError> {
        let n_layers = adapter.n_layers();
        let expert_of = |module| if let Module::Expert { expert, .. } = module { expert + 1 } else { 0 };
        let n_experts = adapter.mixture_pairs().map(|(_, module, _)| expert_of(module)).max().unwrap_or(0);
        let first_expert = n_layers * PAIRS_OF_LAYER;
        let n_of_experts = Projection::MLP.len() * n_layers * n_experts;
        let mut table = vec![Pair::zeroed(); first_expert + n_of_experts];
        let mut taken = Taken { context, matrices: Vec::new(), at: BTreeMap::new() };
        for layer in 0..n_layers {
            for projection in Projection::ALL {
                if let Some(pair) = adapter.pair(layer, projection) {
                    table[layer * PAIRS_OF_LAYER + projection as usize] = taken.pair(pair)?;
                }
            }
        }
        for (layer, module, pair) in adapter.mixture_pairs() {
            let slot = match module {
                Module::Expert { expert, projection } => {
                    first_expert + (layer * Projection::MLP.len() + of_mlp(projection)) * n_experts + expert
                }
                _ => layer * PAIRS_OF_LAYER + ROUTER,
            };
            table[slot] = taken.pair(pair)?;
        }
        let max_rank = table.iter().map(|pair| pair.rank).max().unwrap_or(0);
        let of_matrices: usize = taken.matrices.iter().map(Buffer::len).sum();
        Ok(Self {
            _counted: counter.count(of_matrices + table.len() * size_of::<Pair>()),
            table: Buffer::of(context, bytemuck::cast_slice(&table)).map_err(device_error)?,
            n_experts,
            first_expert,
            max_rank: usize::try_from(max_rank).unwrap_or(0),
            _matrices: taken.matrices,
        })
    }

    pub fn table(&self) -> u64 {
        self.table.address()
    }
}

/// A projection's place among those of an MLP.
pub fn of_mlp(projection: Projection) -> usize {
    Projection::MLP.iter().position(|known| *known == projection).unwrap_or_default()
}

/// Matrices that are on the device already: fused projections share theirs.
struct Taken<'a> {
    context: &'a Arc<Context>,
    matrices: Vec<Buffer<u8>>,
    /// By the place of the host's values.
    at: BTreeMap<*const u8, u64>,
}

impl Taken<'_> {
    fn pair(&mut self, pair: &LoraPair) -> Result<Pair, FormatError> {
        let rank = pair.rank();
        if rank > MAX_RANK {
            let (found, supported) = (rank.to_string(), format!("1 to {MAX_RANK}"));
            return Err(FormatError::Unsupported { what: "this rank on a GPU", found, supported });
        }
        let number = |n: usize| i32::try_from(n).expect("sizes of a model have 31 bits");
        Ok(Pair {
            a: self.matrix(pair.a())?,
            b: self.matrix(pair.b())?,
            rank: number(rank),
            b_stride: number(pair.n_columns()),
            first_column: number(pair.columns().start),
            unused: 0,
        })
    }

    fn matrix(&mut self, values: &[f16]) -> Result<u64, FormatError> {
        let values: &[u8] = bytemuck::cast_slice(values);
        if let Some(&at) = self.at.get(&values.as_ptr()) {
            return Ok(at);
        }
        let matrix = Buffer::of(self.context, values).map_err(device_error)?;
        let at = matrix.address();
        self.at.insert(values.as_ptr(), at);
        self.matrices.push(matrix);
        Ok(at)
    }
}

/// What lora.cu holds in registers.
const MAX_RANK: usize = 1024;
