//! Keys and values in blocks, as attention.cu has them. Blocks lie in chunks that are taken when the first of their blocks
//! is written, and given back when none of them is needed.

use std::sync::Arc;

use super::gpu::{Cuda, whole};
use super::purpose::{Counted, Counter};
use crate::cuda::{Argument, Buffer, Context, CudaError, Pinned};
use crate::device::CacheShape;

/// Bytes of a chunk, about.
const CHUNK_BYTES: usize = 4 << 20;

/// The cache of one engine.
pub struct Cache {
    shape: CacheShape,
    blocks_per_chunk: usize,
    chunks: Vec<Option<(Buffer<u8>, Counted)>>,
    counter: Counter,
    /// Addresses of the chunks, where kernels read them.
    table: Pinned<u64>,
    /// Whether a block was written since it was forgotten.
    is_used: Vec<bool>,
}

impl Cache {
    pub fn new(context: &Arc<Context>, counter: &Counter, shape: CacheShape) -> Result<Self, CudaError> {
        let blocks_per_chunk = (CHUNK_BYTES / shape.block_bytes()).max(1);
        let n_chunks = shape.n_blocks.div_ceil(blocks_per_chunk);
        Ok(Self {
            blocks_per_chunk,
            counter: counter.clone(),
            chunks: (0..n_chunks).map(|_| None).collect(),
            table: Pinned::new(context, n_chunks.max(1))?,
            is_used: vec![false; shape.n_blocks],
            shape,
        })
    }

    pub fn shape(&self) -> &CacheShape {
        &self.shape
    }

    /// As `Cache` in attention.cu, for one layer.
    pub fn arguments(&self, layer: usize) -> [Argument; 7] {
        [
            Argument::Address(self.table.address()),
            whole(self.blocks_per_chunk),
            whole(self.shape.block_bytes()),
            whole(self.shape.element.n_bytes()),
            whole(self.shape.n_kv_heads),
            whole(self.shape.head_dim),
            whole(layer),
        ]
    }
}

impl Cuda {
    /// Makes sure that there is memory for these blocks.
    pub(super) fn take_blocks(&self, cache: &mut Cache, blocks: &[u32]) {
        for &block in blocks {
            let block = block as usize;
            if std::mem::replace(&mut cache.is_used[block], true) {
                continue;
            }
            let chunk_idx = block / cache.blocks_per_chunk;
            if cache.chunks[chunk_idx].is_some() {
                continue;
            }
            let n_bytes = cache.blocks_per_chunk * cache.shape.block_bytes();
            let Some(chunk) = self.note(Buffer::zeros(&self.context, n_bytes)) else {
                cache.is_used[block] = false;
                return;
            };
            // SAFETY: kernels that are asked for do not read this entry: no block of the chunk was in use.
            unsafe { cache.table.as_mut_slice()[chunk_idx] = chunk.address() };
            cache.chunks[chunk_idx] = Some((chunk, cache.counter.count(n_bytes)));
        }
    }

    /// See [`crate::device::Device::copy_block`].
    pub(super) fn copy(&self, cache: &mut Cache, from: u32, to: u32) {
        self.take_blocks(cache, &[to]);
        let n_bytes = cache.shape.block_bytes();
        let place = |block: u32| {
            let (chunk_idx, block_idx) =
                (block as usize / cache.blocks_per_chunk, block as usize % cache.blocks_per_chunk);
            cache.chunks[chunk_idx].as_ref().map(|(chunk, _)| (chunk, block_idx * n_bytes))
        };
        // Without memory for one of them the step has failed already.
        if let (Some((source, from)), Some((target, to))) = (place(from), place(to)) {
            self.note(source.copy_to(from, n_bytes, target, to));
        }
    }

    /// See [`crate::device::Device::forget_blocks`].
    pub(super) fn forget(cache: &mut Cache, blocks: &[u32]) {
        for &block in blocks {
            cache.is_used[block as usize] = false;
        }
        let per_chunk = cache.blocks_per_chunk;
        for (chunk, is_used) in cache.chunks.iter_mut().zip(cache.is_used.chunks(per_chunk)) {
            if !is_used.contains(&true) {
                *chunk = None;
            }
        }
    }
}
