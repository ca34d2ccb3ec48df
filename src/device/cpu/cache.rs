//! Keys and values in blocks of an anonymous map: address space is reserved at once, memory is committed
//! when a block is first written and given back by [`Cache::forget`].
//!
//! Layout of a block: of each layer and head the keys (head_dim, position in block), then the values (position in
//! block, head_stride), as [`crate::kernels::attention`] reads them. Codes of eight bits are followed by the scales of
//! the positions, f32: each head of a position has one for its key and one for its value, its largest magnitude / 127.

use half::f16;
use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};

use crate::device::{CacheElement, CacheShape};
use crate::kernels::attention::{CacheValues, HeadCache};
use crate::numbers::architecture::MAX_HEAD_DIM;
use crate::numbers::int8::int8_row;

/// Elements that are rounded at a time.
const ROUNDED: usize = 256;

/// The cache of one engine.
pub struct Cache {
    map: MmapMut,
    shape: CacheShape,
}

/// Which half of a position's entry.
#[derive(Clone, Copy)]
pub enum Half {
    Key,
    Value,
}

impl Cache {
    pub fn new(shape: CacheShape) -> std::io::Result<Self> {
        let n_bytes = shape
            .block_bytes()
            .checked_mul(shape.n_blocks)
            .ok_or_else(|| std::io::Error::other("the key-value cache is larger than the address space"))?;
        let map = MmapOptions::new().len(n_bytes).no_reserve_swap().map_anon()?;
        Ok(Self { map, shape })
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
                CacheElement::I8 => CacheValues::I8(bytemuck::cast_slice(&self.map)),
            },
            blocks,
            block_stride: self.shape.block_elements(),
            key_offset: self.offset(layer, Half::Key, head),
            value_offset: self.offset(layer, Half::Value, head),
            head_stride: self.shape.head_stride(),
        }
    }

    /// For writing positions from several threads.
    pub fn writer(&mut self) -> CacheWriter<'_> {
        CacheWriter { map: self.map.as_mut_ptr(), shape: &self.shape }
    }

    /// Gives the whole pages inside these blocks back to the system. The blocks must hold nothing needed.
    pub fn forget(&mut self, blocks: &[u32]) {
        let block_bytes = self.shape.block_bytes();
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

    /// Copies a whole block.
    pub fn copy_block(&mut self, from: u32, to: u32) {
        let n_bytes = self.shape.block_bytes();
        let [from, to] = [from, to].map(|block| block as usize * n_bytes);
        self.map.copy_within(from..from + n_bytes, to);
    }

    fn offset(&self, layer: usize, part: Half, head: usize) -> usize {
        offset(&self.shape, layer, part, head)
    }
}

/// Writes positions of a cache.
#[derive(Clone, Copy)]
pub struct CacheWriter<'a> {
    map: *mut u8,
    shape: &'a CacheShape,
}

// SAFETY: whoever writes promises that nobody else touches the position.
unsafe impl Send for CacheWriter<'_> {}
// SAFETY: as above.
unsafe impl Sync for CacheWriter<'_> {}

impl CacheWriter<'_> {
    /// Writes the heads of one position: `row` is `[n_kv_heads, head_dim]`;
    /// `narrow` rounds f32 to f16.
    ///
    /// # Safety
    /// The block lies in the cache, the slot in the block, and nobody else touches this position.
    pub unsafe fn write(
        self,
        (layer, part): (usize, Half),
        (block, slot): (u32, usize),
        row: &[f32],
        narrow: impl Fn(&[f32], &mut [f16]),
    ) {
        let shape = self.shape;
        let mut halves = [f16::ZERO; ROUNDED];
        let mut codes = [0_i8; MAX_HEAD_DIM];
        for (head, values) in row.chunks_exact(shape.head_dim).enumerate() {
            let start = block as usize * shape.block_elements() + offset(shape, layer, part, head);
            let place = |d: usize| match part {
                Half::Key => start + d * shape.block_len + slot,
                Half::Value => start + slot * shape.head_stride() + d,
            };
            // SAFETY: the caller's promise; the places lie in the block.
            unsafe {
                match shape.element {
                    CacheElement::F32 => {
                        let all = self.map.cast::<f32>();
                        values.iter().enumerate().for_each(|(d, value)| *all.add(place(d)) = *value);
                    }
                    CacheElement::F16 => {
                        let all = self.map.cast::<f16>();
                        for (chunk_idx, chunk) in values.chunks(ROUNDED).enumerate() {
                            let halves = &mut halves[..chunk.len()];
                            narrow(chunk, halves);
                            let first = chunk_idx * ROUNDED;
                            halves
                                .iter()
                                .enumerate()
                                .for_each(|(i, half)| *all.add(place(first + i)) = *half);
                        }
                    }
                    CacheElement::I8 => {
                        let all = self.map.cast::<i8>();
                        let codes = &mut codes[..values.len()];
                        let scale = position_codes(values, codes);
                        codes.iter().enumerate().for_each(|(d, code)| *all.add(place(d)) = *code);
                        let scales = all.add(start + shape.block_len * shape.head_stride()).cast::<f32>();
                        scales.add(slot).write_unaligned(scale);
                    }
                }
            }
        }
    }
}

/// Codes of a head's key or value, and their scale; NaN if one of them is no number, so that nobody overlooks it.
fn position_codes(values: &[f32], codes: &mut [i8]) -> f32 {
    let scale = int8_row(values, codes);
    if values.iter().all(|value| value.is_finite()) { scale } else { f32::NAN }
}

/// Elements from a block's first to a head's.
fn offset(shape: &CacheShape, layer: usize, part: Half, head: usize) -> usize {
    let part_idx = match part {
        Half::Key => 0,
        Half::Value => 1,
    };
    ((layer * 2 + part_idx) * shape.n_kv_heads + head) * shape.part_elements()
}

/// Bytes of a page: 4 KiB mostly, up to 64 KiB on some arm64 kernels.
fn page_size() -> usize {
    // SAFETY: sysconf only reads.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(1 << 16)
}
