//! An adapter is read where it is mapped.

use crate::format::{Adapter, LoraPair};
use crate::numbers::Module;

/// An adapter.
pub struct Lora(Adapter);

impl Lora {
    pub fn new(adapter: &Adapter) -> Self {
        Self(adapter.clone())
    }

    /// Whether it changes a router or an expert.
    pub fn has_mixture_pairs(&self) -> bool {
        self.0.mixture_pairs().next().is_some()
    }

    /// `y += (x A) B`
    pub fn pair(&self, layer: usize, module: Module) -> Option<&LoraPair> {
        self.0.pair_of(layer, module)
    }
}
