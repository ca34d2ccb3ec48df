//! The pairs of an adapter, checked once, read where they are mapped, and found by layer and module.

use std::collections::BTreeMap;
use std::ops::Range;

use half::f16;

use super::weights::CHECKED;
use crate::device::check::check_pair;
use crate::format::{Adapter, FormatError, LoraPair, Tensor};
use crate::numbers::Module;
use crate::numbers::architecture::Projection;

/// An adapter.
pub struct Lora {
    /// Of layer and projection.
    pairs: Vec<[Option<Pair>; Projection::ALL.len()]>,
    /// Of routers and experts, by layer.
    mixture_pairs: BTreeMap<(usize, Module), Pair>,
}

/// Two matrices: `y += (x A) B`.
pub struct Pair {
    a: Tensor,
    b: Tensor,
    columns: Range<usize>,
    rank: usize,
}

impl Lora {
    pub fn new(adapter: &Adapter) -> Result<Self, FormatError> {
        let mut pairs = Vec::with_capacity(adapter.n_layers());
        for layer in 0..adapter.n_layers() {
            let mut of_layer = [const { None }; Projection::ALL.len()];
            for (slot, projection) in of_layer.iter_mut().zip(Projection::ALL) {
                *slot = adapter.pair(layer, projection).map(Pair::new).transpose()?;
            }
            pairs.push(of_layer);
        }
        let mixture_pairs = adapter
            .mixture_pairs()
            .map(|(layer, module, pair)| Ok(((layer, module), Pair::new(pair)?)))
            .collect::<Result<_, FormatError>>()?;
        Ok(Self { pairs, mixture_pairs })
    }

    /// Whether it changes a router or an expert.
    pub fn has_mixture_pairs(&self) -> bool {
        !self.mixture_pairs.is_empty()
    }

    pub fn pair(&self, layer: usize, module: Module) -> Option<&Pair> {
        match module {
            Module::One(projection) => self.pairs.get(layer)?[projection as usize].as_ref(),
            _ => self.mixture_pairs.get(&(layer, module)),
        }
    }
}

impl Pair {
    fn new(pair: &LoraPair) -> Result<Self, FormatError> {
        let (rank, _) = check_pair(pair)?;
        let LoraPair { a, b, columns, .. } = pair.clone();
        Ok(Self { a, b, columns, rank })
    }

    /// `[in, rank]`
    pub fn a(&self) -> &[f16] {
        self.a.as_slice().expect(CHECKED)
    }

    /// `[rank, all_out]`
    pub fn b(&self) -> &[f16] {
        self.b.as_slice().expect(CHECKED)
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The columns of B that are the output features.
    pub fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }
}
