//! Keys, values and attention: attention.cu.

use super::cache::Cache;
use super::gpu::{Cuda, grid, whole};
use super::rows::Rows;
use super::step::Step;
use crate::cuda::{Argument, Grid};
use crate::device::{Attend, CacheShape};
use crate::kernels::attention::{BLOCK_LEN, PART};

/// Queries that share keys and values in one block of threads.
const QUERIES: usize = 4;

impl Cuda {
    /// See [`crate::device::Device::store`].
    pub(super) fn store_rows(&self, step: &Step, cache: &mut Cache, layer: usize, k: &Rows, v: &Rows) {
        assert!(k.n_rows() == step.n_rows && v.n_rows() == step.n_rows && k.stride() == v.stride());
        if layer == 0 {
            self.take_blocks(cache, &step.written);
        }
        let n_kv_heads = cache.shape().n_kv_heads;
        let mut arguments = cache.arguments(layer).to_vec();
        arguments.extend([k.at(), v.at(), whole(k.stride()), step.positions, step.first_block, step.blocks]);
        // SAFETY: the blocks are there, and every row has a position of its own.
        unsafe {
            self.launch(&self.kernels.store_positions, grid(n_kv_heads, 2, step.n_rows), &arguments);
        }
    }

    /// See [`crate::device::Device::attend`].
    pub(super) fn attend_all(&self, step: &Step, q: &Rows, cache: &Cache, task: Attend, y: &mut Rows) {
        let &CacheShape { n_kv_heads, head_dim, block_len, .. } = cache.shape();
        let view = &step.views[task.view];
        assert!(block_len == BLOCK_LEN && q.width() == y.width() && q.width().is_multiple_of(head_dim));
        assert!(q.n_rows() == step.n_rows && y.n_rows() == step.n_rows);
        let n_heads = q.width() / head_dim;
        let n_shared = n_heads / n_kv_heads;
        let none = Argument::Address(0);
        let mut scratch = self.scratch();
        let (outs, weights) = if view.max_parts > 1 {
            let n_parts = step.n_rows * n_heads * view.max_parts;
            let outs = self.room(&mut scratch.outs, n_parts * head_dim);
            (outs, self.room(&mut scratch.weights, n_parts * 2))
        } else {
            (none, none)
        };
        let stride = whole(q.stride());
        let y_at = y.at_mut();
        let mut arguments = cache.arguments(task.layer).to_vec();
        arguments.extend([q.at(), stride, whole(n_shared), Argument::F32(task.scale)]);
        arguments.extend([step.positions, view.starts, step.first_block, step.blocks, y_at, outs, weights]);
        let shared = QUERIES * (head_dim + PART) * size_of::<f32>();
        let shared = u32::try_from(shared).expect("heads are some hundred wide");
        let blocks = grid(step.n_rows, n_kv_heads * n_shared.div_ceil(QUERIES), view.max_parts);
        // SAFETY: every position that a row sees was written; outs and weights have room for all parts.
        unsafe {
            self.launch(&self.kernels.attend, Grid { shared, ..blocks }, &arguments);
            if view.max_parts > 1 {
                let combine = [
                    step.positions,
                    view.starts,
                    outs,
                    weights,
                    whole(view.max_parts),
                    y_at,
                    stride,
                    whole(head_dim),
                ];
                self.launch(&self.kernels.combine_parts, grid(step.n_rows, n_heads, 1), &combine);
            }
        }
    }
}
