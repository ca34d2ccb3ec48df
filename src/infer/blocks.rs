//! Which blocks of the key-value cache are free. The last one freed is the first one taken, so that the
//! memory in use stays small.

use std::collections::BTreeSet;

/// Block numbers of one cache.
pub struct Blocks {
    free: Vec<u32>,
    /// Free blocks whose memory is still committed.
    touched: BTreeSet<u32>,
    n_blocks: u32,
}

impl Blocks {
    pub fn new(n_blocks: u32) -> Self {
        Self { free: (0..n_blocks).rev().collect(), touched: BTreeSet::new(), n_blocks }
    }

    /// A block of one's own, or none.
    pub fn take(&mut self) -> Option<u32> {
        let block = self.free.pop()?;
        self.touched.remove(&block);
        Some(block)
    }

    /// Gives blocks back that [`Blocks::take`] gave.
    pub fn release(&mut self, blocks: Vec<u32>) {
        self.touched.extend(&blocks);
        self.free.extend(blocks.into_iter().rev());
    }

    /// Free blocks that hold memory; they are counted as clean from now on.
    pub fn take_touched(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.touched).into_iter().collect()
    }

    /// Blocks whose memory is committed, in use or not.
    pub fn n_committed(&self) -> usize {
        self.n_used() + self.touched.len()
    }

    pub fn n_blocks(&self) -> usize {
        self.n_blocks as usize
    }

    pub fn n_used(&self) -> usize {
        self.n_blocks() - self.free.len()
    }
}
