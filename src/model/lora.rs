//! An adapter on a backend, and the rows of a step that use it.

use std::sync::Arc;

use crate::backend::{Backend, LoraRows};
use crate::format::architecture::{Architecture, Projection};
use crate::format::{Adapter, FormatError};

/// The pairs of an adapter where the backend can use them.
pub struct Lora<B: Backend> {
    /// `[n_layers][7]`
    pairs: Vec<[Option<B::Lora>; 7]>,
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
        Ok(Self { pairs })
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

/// The groups' entries for one projection; empty where no adapter of the step touches it.
pub fn entries<'a, B: Backend>(
    groups: &'a [LoraGroup<'a, B>],
    layer: usize,
    projection: Projection,
) -> Vec<LoraRows<'a, B::Lora>> {
    groups
        .iter()
        .filter_map(|group| {
            let pair = group.lora.pair(layer, projection)?;
            Some(LoraRows { rows: group.rows.clone(), pair, scale: group.scale })
        })
        .collect()
}
