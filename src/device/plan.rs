//! What the layers of a step share: made once per step from its segments, and brought to the device once.

use std::ops::Range;
use std::sync::Arc;

/// The rows of a step, one for each token. `L` is the device's adapter.
pub struct StepPlan<L> {
    /// `[n_rows]`
    pub tokens: Vec<u32>,
    /// `[n_rows]`
    pub places: Vec<RowPlace>,
    /// Cache blocks of each sequence, in order.
    pub blocks: Vec<Vec<u32>>,
    /// One for each kind of attention that the layers have.
    pub views: Vec<View>,
    /// By turn: the first adapter of each row that has one, then the second ones, and so on. A row's updates are added
    /// in this order. Within a turn rows are rising, and no row stands in two entries.
    pub adapters: Vec<Vec<AdapterRows<L>>>,
    /// Rows whose logits are wanted, rising.
    pub logit_rows: Vec<usize>,
}

/// Where a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowPlace {
    /// Index into [`StepPlan::blocks`].
    pub sequence: usize,
    pub position: usize,
}

/// How far the rows see in layers of one kind, and how far their heads are turned.
pub struct View {
    /// `[n_rows]`: the first position that a row sees; its own is the last.
    pub starts: Vec<usize>,
    /// `[n_rows, half]`, where `half` is at most half a head.
    pub cos: Vec<f32>,
    /// `[n_rows, half]`
    pub sin: Vec<f32>,
}

/// Consecutive rows that share an adapter and its scale.
pub struct AdapterRows<L> {
    pub rows: Range<usize>,
    pub adapter: Arc<L>,
    /// Multiplies the update; 1 unless the request asks otherwise.
    pub scale: f32,
}

impl<L> StepPlan<L> {
    pub fn n_rows(&self) -> usize {
        self.tokens.len()
    }

    /// Cache blocks of a row's sequence.
    pub fn blocks_of(&self, row_idx: usize) -> &[u32] {
        &self.blocks[self.places[row_idx].sequence]
    }
}
