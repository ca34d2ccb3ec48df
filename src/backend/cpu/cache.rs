//! Keys and values in blocks of an anonymous map: address space is reserved at once, memory is committed
//! when a block is first written and given back by [`Cache::forget`].
//!
//! Layout of a block: (layer, key | value, kv_head, position in block, head_stride).

use half::f16;
use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};

use crate::backend::{CacheElement, CacheShape};
use crate::kernels::attention::{CacheValues, HeadCache};
use crate::kernels::simd::LANES;

/// The cache of one engine.
pub struct Cache {
    map: MmapMut,
    shape: CacheShape,
}

/// Which half of a position's entry.
#[derive(Clone, Copy)]
pub enum Part {
    Key,
    Value,
}

impl Cache {
    pub fn new(shape: CacheShape) -> std::io::Result<Self> {
        let n_bytes = Self::block_bytes(&shape)
            .checked_mul(shape.n_blocks)
            .ok_or_else(|| std::io::Error::other("the key-value cache is larger than the address space"))?;
        let map = MmapOptions::new().len(n_bytes).no_reserve_swap().map_anon()?;
        Ok(Self { map, shape })
    }

    /// Bytes of one block.
    pub fn block_bytes(shape: &CacheShape) -> usize {
        block_elements(shape) * element_size(shape.element)
    }

    pub fn shape(&self) -> &CacheShape {
        &self.shape
    }

    /// What [`crate::kernels::Kernels::attend`] reads for one head of one layer.
    pub fn head<'a>(&'a self, layer: usize, head: usize, blocks: &'a [u32]) -> HeadCache<'a> {
        HeadCache {
            values: match self.shape.element {
                CacheElement::F32 => CacheValues::F32(bytemuck::cast_slice(&self.map)),
                CacheElement::F16 => CacheValues::F16(bytemuck::cast_slice(&self.map)),
            },
            blocks,
            block_len: self.shape.block_len,
            block_stride: block_elements(&self.shape),
            key_offset: self.offset(layer, Part::Key, head),
            value_offset: self.offset(layer, Part::Value, head),
            head_stride: self.head_stride(),
        }
    }

    /// Writes the heads of one position: `row` is `[n_kv_heads, head_dim]`.
    /// `narrow` rounds f32 to f16.
    pub fn write(
        &mut self,
        (layer, part): (usize, Part),
        (block, slot): (u32, usize),
        row: &[f32],
        narrow: impl Fn(&[f32], &mut [f16]),
    ) {
        let head_dim = self.shape.head_dim;
        for (head, values) in row.chunks_exact(head_dim).enumerate() {
            let start = block as usize * block_elements(&self.shape)
                + self.offset(layer, part, head)
                + slot * self.head_stride();
            match self.shape.element {
                CacheElement::F32 => {
                    let all: &mut [f32] = bytemuck::cast_slice_mut(&mut self.map);
                    all[start..start + head_dim].copy_from_slice(values);
                }
                CacheElement::F16 => {
                    let all: &mut [f16] = bytemuck::cast_slice_mut(&mut self.map);
                    narrow(values, &mut all[start..start + head_dim]);
                }
            }
        }
    }

    /// Gives the whole pages inside these blocks back to the system. The blocks must hold nothing needed.
    pub fn forget(&mut self, blocks: &[u32]) {
        let block_bytes = Self::block_bytes(&self.shape);
        let page = page_size();
        for &block in blocks {
            let start = (block as usize * block_bytes).next_multiple_of(page);
            let end = (block as usize + 1) * block_bytes / page * page;
            if start < end {
                // SAFETY: a private anonymous map reads as zeros afterwards, and &mut says nobody reads now.
                let advice =
                    unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
                // Only advice: pages that stay are merely not given back.
                let _ = advice;
            }
        }
    }

    fn head_stride(&self) -> usize {
        self.shape.head_dim.next_multiple_of(LANES)
    }

    fn offset(&self, layer: usize, part: Part, head: usize) -> usize {
        let part_idx = match part {
            Part::Key => 0,
            Part::Value => 1,
        };
        ((layer * 2 + part_idx) * self.shape.n_kv_heads + head) * self.shape.block_len * self.head_stride()
    }
}

/// Bytes of a page: 4 KiB mostly, up to 64 KiB on some arm64 kernels.
fn page_size() -> usize {
    // SAFETY: sysconf only reads.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(1 << 16)
}

fn block_elements(shape: &CacheShape) -> usize {
    shape.n_layers * 2 * shape.n_kv_heads * shape.block_len * shape.head_dim.next_multiple_of(LANES)
}

fn element_size(element: CacheElement) -> usize {
    match element {
        CacheElement::F32 => 4,
        CacheElement::F16 => 2,
    }
}
