//! Keys, values and attention: attention.cu.

use super::cache::Cache;
use super::gpu::Cuda;
use super::operation::{Attention, Store};
use super::rows::Rows;
use super::step::Step;
use crate::cuda::Argument;
use crate::device::{Attend, CacheShape};
use crate::kernels::attention::BLOCK_LEN;

impl Cuda {
    /// See [`crate::device::Device::store`].
    pub(super) fn store_rows(&self, step: &Step, cache: &mut Cache, layer: usize, k: &Rows, v: &Rows) {
        assert!(k.n_rows() == step.n_rows && v.n_rows() == step.n_rows && k.stride() == v.stride());
        if layer == 0 {
            self.take_blocks(cache, &step.written);
        }
        let &CacheShape { n_kv_heads, head_dim, .. } = cache.shape();
        assert!(k.width() == n_kv_heads * head_dim && v.width() == k.width());
        let store = Store {
            cache: cache.arguments(layer),
            n_kv_heads,
            head_dim,
            k: k.at(),
            v: v.at(),
            n_rows: step.n_rows,
            stride: k.stride(),
            places: [step.positions, step.first_block, step.blocks],
        };
        // SAFETY: the blocks are there, and every row has a position of its own.
        unsafe { self.write_down(store) };
    }

    /// See [`crate::device::Device::attend`].
    pub(super) fn attend_all(&self, step: &Step, q: &Rows, cache: &Cache, task: Attend, y: &mut Rows) {
        let &CacheShape { n_kv_heads, head_dim, block_len, .. } = cache.shape();
        let view = &step.views[task.view];
        assert!(block_len == BLOCK_LEN && q.width() == y.width() && q.width().is_multiple_of(head_dim));
        assert!(q.n_rows() == step.n_rows && y.n_rows() == step.n_rows);
        let n_heads = q.width() / head_dim;
        let none = Argument::Address(0);
        let mut scratch = self.scratch();
        let (outs, weights) = if view.max_parts > 1 {
            let n_parts = step.n_rows * n_heads * view.max_parts;
            let outs = self.room(&mut scratch.outs, n_parts * head_dim);
            (outs, self.room(&mut scratch.weights, n_parts * 2))
        } else {
            (none, none)
        };
        let attention = Attention {
            cache: cache.arguments(task.layer),
            n_kv_heads,
            n_shared: n_heads / n_kv_heads,
            head_dim,
            q: q.at(),
            y: y.at_mut(),
            n_rows: step.n_rows,
            stride: q.stride(),
            scale: task.scale,
            places: [step.positions, step.first_block, step.blocks],
            starts: view.starts,
            max_parts: view.max_parts,
            outs,
            weights,
        };
        // SAFETY: every position that a row sees was written; outs and weights have room for all parts.
        unsafe { self.write_down(attention) };
    }
}
