//! An adapter on a backend, and the rows of a step that use it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backend::{Backend, LoraRows};
use crate::format::{Adapter, FormatError};
use crate::numbers::Module;
use crate::numbers::architecture::{Architecture, Projection};

/// The pairs of an adapter where the backend can use them.
pub struct Lora<B: Backend> {
    /// `[n_layers][7]`
    pairs: Vec<[Option<B::Lora>; 7]>,
    /// Of routers and experts, by layer.
    mixture_pairs: BTreeMap<(usize, Module), B::Lora>,
}

impl<B: Backend> Lora<B> {
    /// Takes the tensors of an adapter that was bound to this architecture.
    ///
    /// # Errors
    /// [`FormatError`] when the backend cannot use a tensor.
    pub fn new(backend: &B, architecture: &Architecture, adapter: &Adapter) -> Result<Self, FormatError> {
        let mut pairs = Vec::with_capacity(architecture.n_layers);
        for layer in 0..architecture.n_layers {
            let mut of_layer = [const { None }; 7];
            for (slot, projection) in of_layer.iter_mut().zip(Projection::ALL) {
                if let Some(pair) = adapter.pair(layer, projection) {
                    *slot = Some(backend.lora(pair.a.clone(), pair.b.clone(), pair.columns.clone())?);
                }
            }
            pairs.push(of_layer);
        }
        let mixture_pairs = adapter
            .mixture_pairs()
            .map(|(layer, module, pair)| {
                let pair = backend.lora(pair.a.clone(), pair.b.clone(), pair.columns.clone())?;
                Ok(((layer, module), pair))
            })
            .collect::<Result<_, FormatError>>()?;
        Ok(Self { pairs, mixture_pairs })
    }

    /// Whether it changes a router or an expert.
    pub fn has_mixture_pairs(&self) -> bool {
        !self.mixture_pairs.is_empty()
    }

    /// Of a router or an expert.
    pub fn mixture_pair(&self, layer: usize, module: Module) -> Option<&B::Lora> {
        self.mixture_pairs.get(&(layer, module))
    }

    pub fn pair(&self, layer: usize, projection: Projection) -> Option<&B::Lora> {
        self.pairs[layer][projection as usize].as_ref()
    }
}

/// Consecutive rows of a step that share an adapter and its scale.
pub struct LoraGroup<'a, B: Backend> {
    pub rows: std::ops::Range<usize>,
    pub lora: &'a Arc<Lora<B>>,
    pub scale: f32,
}

/// The groups' entries for one module; empty where no adapter of the step touches it. Experts have entries of
/// their own, for their rows lie elsewhere.
pub fn entries<'a, B: Backend>(
    groups: &'a [LoraGroup<'a, B>],
    layer: usize,
    module: Module,
) -> Vec<LoraRows<'a, B::Lora>> {
    let pair = |lora: &'a Lora<B>| match module {
        Module::One(projection) => lora.pair(layer, projection),
        _ => lora.mixture_pair(layer, module),
    };
    groups
        .iter()
        .filter_map(|group| {
            Some(LoraRows { rows: group.rows.clone(), pair: pair(group.lora)?, scale: group.scale })
        })
        .collect()
}
