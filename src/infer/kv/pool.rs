//! The numbers of the cache's blocks, and how many hold each. The last one freed is the first one taken, so that
//! the memory in use stays small.

use std::collections::BTreeSet;

/// Block numbers of one cache.
pub struct Pool {
    free: Vec<u32>,
    /// Free blocks whose memory is still committed.
    touched: BTreeSet<u32>,
    /// `[n_blocks]`; 0 for a free one.
    n_holders: Vec<u32>,
}

impl Pool {
    pub fn new(n_blocks: u32) -> Self {
        Self {
            free: (0..n_blocks).rev().collect(),
            touched: BTreeSet::new(),
            n_holders: vec![0; n_blocks as usize],
        }
    }

    /// A block with one holder, or none.
    pub fn take(&mut self) -> Option<u32> {
        let block = self.free.pop()?;
        self.touched.remove(&block);
        self.n_holders[block as usize] = 1;
        Some(block)
    }

    /// One more holds the block.
    pub fn share(&mut self, block: u32) {
        self.n_holders[block as usize] += 1;
    }

    /// One less holds the block; it is free when that was the last.
    pub fn release(&mut self, block: u32) {
        let n_holders = &mut self.n_holders[block as usize];
        *n_holders -= 1;
        if *n_holders == 0 {
            self.touched.insert(block);
            self.free.push(block);
        }
    }

    /// How many hold the block.
    pub fn n_holders(&self, block: u32) -> u32 {
        self.n_holders[block as usize]
    }

    /// Free blocks that hold memory; they are counted as clean from now on.
    pub fn take_touched(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.touched).into_iter().collect()
    }

    /// Blocks whose memory is committed, held or not.
    pub fn n_committed(&self) -> usize {
        self.n_blocks() - self.n_free() + self.touched.len()
    }

    pub fn n_free(&self) -> usize {
        self.free.len()
    }

    pub fn n_blocks(&self) -> usize {
        self.n_holders.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_free_when_its_last_holder_is_gone() {
        let mut pool = Pool::new(2);
        let first = pool.take().unwrap();
        pool.share(first);
        pool.release(first);
        assert_eq!((pool.n_holders(first), pool.n_free(), pool.n_committed()), (1, 1, 1));
        pool.release(first);
        assert_eq!((pool.n_holders(first), pool.n_free(), pool.n_committed()), (0, 2, 1));
        assert_eq!(pool.take(), Some(first), "the last one freed holds memory already");
        assert_ne!(pool.take(), Some(first));
        assert_eq!(pool.take(), None);
        pool.release(first);
        assert_eq!(pool.take_touched(), [first]);
        assert_eq!((pool.n_committed(), pool.take_touched()), (1, vec![]));
    }
}
