//! Who holds which block: sequences, and the prefixes that are kept for those to come.
//!
//! A sequence takes the blocks of its beginning that are there already, computes the others into blocks of its
//! own, and lets others find each one as soon as it is full, and the last one when it ends. A block that begins as one of
//! others does is copied, and computed from where they part. What nobody uses is evicted when blocks are needed.

use std::sync::Arc;

use super::pool::Pool;
use super::prefix::{AdapterKey, Key, NodeId, Parent, Prefix};
use crate::model::BLOCK_LEN;

/// The blocks of one cache.
pub struct Ledger {
    pool: Pool,
    prefix: Prefix,
    /// Blocks that are kept though no sequence uses them; with 0 nothing is shared at all.
    max_cached: usize,
    /// Raised by every release.
    now: u64,
}

/// The blocks of a sequence.
#[derive(Debug, Default)]
pub struct Holding {
    /// By position.
    blocks: Vec<u32>,
    /// Of the first blocks, as many as are full and known to others.
    nodes: Vec<NodeId>,
}

/// What a sequence's blocks hold.
#[derive(Clone, Copy)]
pub struct Contents<'a> {
    pub adapters: &'a Arc<[AdapterKey]>,
    pub tokens: &'a [u32],
    pub sharing: Sharing,
    /// Of the tokens, those that others may find.
    pub n_given: usize,
}

/// What a sequence takes from others and leaves to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharing {
    /// Whether it takes what others have computed.
    pub takes: bool,
    /// Whether others may find its answer, and not its prompt alone.
    pub gives_answer: bool,
    /// So many first tokens are what later requests will begin with: they are forgotten after all others.
    pub n_kept: usize,
}

/// Blocks of a sequence that it would find.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    pub n_blocks: usize,
    /// Of them those that no other sequence uses.
    pub n_unused: usize,
}

/// A block whose first positions are those of another one: all of it is copied, before anything of the step is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCopy {
    pub from: u32,
    pub to: u32,
}

impl Holding {
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Whether all blocks are full and known to others, so that the next one may be somebody else's.
    pub fn is_full(&self) -> bool {
        self.blocks.len() == self.nodes.len()
    }

    /// Positions that have a place.
    pub fn n_positions(&self) -> usize {
        self.blocks.len() * BLOCK_LEN
    }
}

impl Default for Sharing {
    /// Takes and gives all, and keeps nothing longer than others do.
    fn default() -> Self {
        Self { takes: true, gives_answer: true, n_kept: 0 }
    }
}

impl Contents<'_> {
    /// Whether the block after those that the sequence holds may be one that others have.
    pub fn takes_next(self, holding: &Holding) -> bool {
        self.sharing.takes && holding.is_full()
    }

    /// Whether others may find the block that comes after the full ones.
    pub fn gives_next(self, holding: &Holding) -> bool {
        (holding.nodes.len() + 1) * BLOCK_LEN <= self.n_given
    }

    /// The key of the block at `block_idx` below `parents`, which are all before it.
    fn key(self, parents: &[NodeId]) -> Key {
        let start = parents.len() * BLOCK_LEN;
        Key::new(self.parent(parents), &self.tokens[start..start + BLOCK_LEN])
    }

    /// What stands before the block below `parents`.
    fn parent(self, parents: &[NodeId]) -> Parent {
        parents.last().map_or_else(|| Parent::Root(Arc::clone(self.adapters)), |id| Parent::Node(*id))
    }
}

impl Ledger {
    /// At most `max_cached` blocks are kept while no sequence uses them; with 0 no block is shared.
    pub fn new(n_blocks: u32, max_cached: usize) -> Self {
        Self { pool: Pool::new(n_blocks), prefix: Prefix::new(), max_cached, now: 0 }
    }

    /// What a sequence that holds nothing would find.
    pub fn find(&self, contents: Contents<'_>) -> Found {
        let mut holding = Holding::default();
        let mut found = Found::default();
        while let Some(id) = self.next_shared(&holding, contents) {
            let block = self.prefix.block(id);
            found.n_blocks += 1;
            found.n_unused += usize::from(self.pool.n_holders(block) == 1);
            holding.blocks.push(block);
            holding.nodes.push(id);
        }
        found
    }

    /// Takes the blocks that are there already, up to the last one that leaves a token to compute.
    pub fn attach(&mut self, holding: &mut Holding, contents: Contents<'_>) {
        while let Some(id) = self.next_shared(holding, contents) {
            holding.blocks.push(self.use_node(id));
            self.enter(holding, contents, id);
        }
    }

    /// The key of the block that comes after the full ones, if a sequence may take it from whoever fills it.
    pub fn next_key(&self, holding: &Holding, contents: Contents<'_>) -> Option<Key> {
        // A token is always left to compute, for its logits.
        let n_left = contents.tokens.len() - holding.nodes.len() * BLOCK_LEN;
        (self.max_cached > 0 && n_left > BLOCK_LEN).then(|| contents.key(&holding.nodes))
    }

    /// Begins the block after the full ones with what another block has of its tokens, if one has any. Returns what is
    /// to be copied and the tokens that are there then.
    pub fn begin(&mut self, holding: &mut Holding, contents: Contents<'_>) -> Option<(BlockCopy, usize)> {
        if self.max_cached == 0 || !contents.takes_next(holding) {
            return None;
        }
        let (_, before_last) = contents.tokens.split_last()?;
        let wanted = before_last.get(holding.n_positions()..)?;
        let (id, n_tokens) = self.prefix.longest(&contents.parent(&holding.nodes), wanted)?;
        let from = self.prefix.block(id);
        // It may be the very block, if that was the only one to be had.
        let to = self.take()?;
        holding.blocks.push(to);
        Some((BlockCopy { from, to }, n_tokens))
    }

    /// Takes blocks for so many positions; less where there are not enough.
    pub fn grow(&mut self, holding: &mut Holding, n_positions: usize) {
        while holding.n_positions() < n_positions {
            let Some(block) = self.take() else { return };
            holding.blocks.push(block);
        }
    }

    /// Lets others find what is full: `n_computed` tokens are in the blocks.
    pub fn publish(&mut self, holding: &mut Holding, contents: Contents<'_>, n_computed: usize) {
        while self.max_cached > 0
            && holding.nodes.len() < n_computed / BLOCK_LEN
            && contents.gives_next(holding)
        {
            let block_idx = holding.nodes.len();
            let key = contents.key(&holding.nodes);
            let own = holding.blocks[block_idx];
            let id = match self.prefix.find(&key) {
                // Two computed the same, bit for bit: one of them is enough.
                Some(id) => {
                    holding.blocks[block_idx] = self.use_node(id);
                    self.pool.release(own);
                    id
                }
                None => {
                    self.pool.share(own);
                    self.prefix.insert(key, own, block_idx)
                }
            };
            self.enter(holding, contents, id);
        }
    }

    /// The sequence needs its blocks no more; others still find the full ones, and the one in which it ended:
    /// `n_computed` tokens are in the blocks.
    pub fn release(&mut self, mut holding: Holding, contents: Contents<'_>, n_computed: usize) {
        self.publish_tail(&mut holding, contents, n_computed);
        self.now += 1;
        for (block_idx, block) in holding.blocks.into_iter().enumerate().rev() {
            self.pool.release(block);
            if let Some(id) = holding.nodes.get(block_idx)
                && self.pool.n_holders(block) == 1
            {
                self.prefix.set_unused(*id, self.now);
            }
        }
        while self.prefix.n_unused() > self.max_cached {
            self.evict();
        }
    }

    /// Forgets what no sequence uses.
    pub fn drop_cached(&mut self) {
        while self.evict() {}
    }

    /// Free blocks that hold memory; they are counted as clean from now on.
    pub fn take_touched(&mut self) -> Vec<u32> {
        self.pool.take_touched()
    }

    /// Blocks that sequences hold.
    pub fn n_held(&self) -> usize {
        self.n_blocks() - self.n_available()
    }

    /// Blocks that are kept and that no sequence uses.
    pub fn n_cached(&self) -> usize {
        self.prefix.n_unused()
    }

    /// Blocks that can be had.
    pub fn n_available(&self) -> usize {
        self.pool.n_free() + self.n_cached()
    }

    /// Blocks whose memory is committed.
    pub fn n_committed(&self) -> usize {
        self.pool.n_committed()
    }

    pub fn n_blocks(&self) -> usize {
        self.pool.n_blocks()
    }

    /// Lets others find the block after the full ones by the tokens that are in it.
    fn publish_tail(&mut self, holding: &mut Holding, contents: Contents<'_>, n_computed: usize) {
        let block_idx = holding.nodes.len();
        let (start, end) = (block_idx * BLOCK_LEN, n_computed.min(contents.n_given));
        if self.max_cached == 0 || end <= start {
            return;
        }
        let key = Key::new(contents.parent(&holding.nodes), &contents.tokens[start..end]);
        if self.prefix.find(&key).is_none() {
            let block = holding.blocks[block_idx];
            self.pool.share(block);
            holding.nodes.push(self.prefix.insert(key, block, block_idx));
        }
    }

    fn next_shared(&self, holding: &Holding, contents: Contents<'_>) -> Option<NodeId> {
        let key = contents.takes_next(holding).then(|| self.next_key(holding, contents)).flatten()?;
        self.prefix.find(&key)
    }

    fn use_node(&mut self, id: NodeId) -> u32 {
        let block = self.prefix.block(id);
        if self.pool.n_holders(block) == 1 {
            self.prefix.set_used(id);
        }
        self.pool.share(block);
        block
    }

    fn enter(&mut self, holding: &mut Holding, contents: Contents<'_>, id: NodeId) {
        holding.nodes.push(id);
        if holding.nodes.len() * BLOCK_LEN <= contents.sharing.n_kept {
            self.prefix.keep(id);
        }
    }

    fn take(&mut self) -> Option<u32> {
        self.pool.take().or_else(|| self.evict().then(|| self.pool.take()).flatten())
    }

    fn evict(&mut self) -> bool {
        let block = self.prefix.evict();
        block.into_iter().for_each(|block| self.pool.release(block));
        block.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    fn contents(tokens: &[u32]) -> Contents<'_> {
        static BASE: LazyLock<Arc<[AdapterKey]>> = LazyLock::new(|| [].into());
        Contents { adapters: &BASE, tokens, sharing: Sharing::default(), n_given: usize::MAX }
    }

    /// Computes all tokens but the last, as far as they are not there.
    fn compute(ledger: &mut Ledger, contents: Contents<'_>) -> Holding {
        let mut holding = Holding::default();
        let n_computed = contents.tokens.len() - 1;
        ledger.attach(&mut holding, contents);
        ledger.grow(&mut holding, n_computed);
        ledger.publish(&mut holding, contents, n_computed);
        holding
    }

    fn counts(ledger: &Ledger) -> [usize; 3] {
        [ledger.n_held(), ledger.n_cached(), ledger.n_available()]
    }

    #[test]
    fn a_block_is_held_by_all_who_use_it_and_kept_when_they_are_gone() {
        let mut ledger = Ledger::new(10, usize::MAX);
        let tokens: Vec<u32> = (0..60).collect();
        let first = compute(&mut ledger, contents(&tokens));
        assert_eq!(first.blocks().len(), 4);
        let found = ledger.find(contents(&tokens));
        assert_eq!(found, Found { n_blocks: 3, n_unused: 0 });
        let second = compute(&mut ledger, contents(&tokens));
        assert_eq!(second.blocks()[..3], first.blocks()[..3]);
        assert_eq!(counts(&ledger), [5, 0, 5]);
        ledger.release(first, contents(&tokens), 59);
        assert_eq!(counts(&ledger), [4, 1, 6]);
        ledger.release(second, contents(&tokens), 59);
        assert_eq!(counts(&ledger), [0, 4, 10], "three full ones, and the end that both had");
        assert_eq!(ledger.find(contents(&tokens)), Found { n_blocks: 3, n_unused: 3 });
        // A token is left to compute.
        assert_eq!(ledger.find(contents(&tokens[..48])).n_blocks, 2);
        assert_eq!(ledger.find(contents(&tokens[..49])).n_blocks, 3);
        ledger.drop_cached();
        assert_eq!((counts(&ledger), ledger.n_committed()), ([0, 0, 10], 5));
    }

    #[test]
    fn a_block_that_parts_from_another_is_begun_with_a_copy() {
        let mut ledger = Ledger::new(4, usize::MAX);
        let first: Vec<u32> = (0..40).collect();
        let holding = compute(&mut ledger, contents(&first));
        let mut second = first.clone();
        second[20] = 7;
        let [from, own] = [holding.blocks()[1], holding.blocks()[2]];
        let mut begin = |tokens: &[u32], sharing| {
            let mut holding = Holding::default();
            let contents = Contents { sharing, ..contents(tokens) };
            ledger.attach(&mut holding, contents);
            let begun = ledger.begin(&mut holding, contents);
            assert_eq!(ledger.begin(&mut holding, contents), None, "it is begun once");
            let blocks = holding.blocks().to_vec();
            ledger.release(holding, contents, 0);
            (begun.map(|(copy, n_tokens)| (copy.from, copy.to == blocks[blocks.len() - 1], n_tokens)), blocks)
        };
        let alone = Sharing { takes: false, ..Sharing::default() };
        assert_eq!(begin(&second, Sharing::default()).0, Some((from, true, 4)));
        assert_ne!(begin(&second, Sharing::default()).1[1], own);
        // A token is left to compute.
        assert_eq!(begin(&first[..32], Sharing::default()).0, Some((from, true, 15)));
        assert_eq!(begin(&first[..17], Sharing::default()).0, None);
        assert_eq!(begin(&first[..18], Sharing::default()).0, Some((from, true, 1)));
        assert_eq!(begin(&second, alone).0, None);
        ledger.release(holding, contents(&first), 39);
        let mut greedy = Holding::default();
        ledger.grow(&mut greedy, 2 * BLOCK_LEN);
        let mut holding = Holding::default();
        ledger.attach(&mut holding, contents(&second));
        let (copy, n_tokens) = ledger.begin(&mut holding, contents(&second)).unwrap();
        assert_eq!((copy.from, copy.to, n_tokens), (from, from, 4), "there was no other block");
        assert_eq!(
            ledger.begin(&mut Holding::default(), contents(&[0, 1, 9])),
            None,
            "there is no block at all"
        );
    }

    #[test]
    fn two_who_computed_the_same_end_with_one_block() {
        let mut ledger = Ledger::new(10, usize::MAX);
        let tokens: Vec<u32> = (0..40).collect();
        let mut both: Vec<Holding> = (0..2).map(|_| Holding::default()).collect();
        both.iter_mut().for_each(|holding| ledger.grow(holding, 39));
        assert_eq!(ledger.n_held(), 6);
        both.iter_mut().for_each(|holding| ledger.publish(holding, contents(&tokens), 39));
        assert_eq!(both[0].blocks()[..2], both[1].blocks()[..2]);
        assert_ne!(both[0].blocks()[2], both[1].blocks()[2]);
        assert_eq!(ledger.n_held(), 4);
        both.into_iter().for_each(|holding| ledger.release(holding, contents(&tokens), 39));
        assert_eq!(counts(&ledger), [0, 3, 10]);
    }

    #[test]
    fn only_what_nobody_uses_is_evicted_the_oldest_first_and_what_is_kept_last() {
        let mut ledger = Ledger::new(8, usize::MAX);
        let tokens = |mark: u32, len: u32| -> Vec<u32> { (0..len).map(|i| mark * 1000 + i).collect() };
        let all = [tokens(0, 40), tokens(1, 40), tokens(2, 40)];
        let system = Contents { sharing: Sharing { n_kept: 20, ..Sharing::default() }, ..contents(&all[0]) };
        for asked in [system, contents(&all[1])] {
            let holding = compute(&mut ledger, asked);
            ledger.release(holding, asked, 39);
        }
        let used = compute(&mut ledger, contents(&all[2]));
        assert_eq!(counts(&ledger), [3, 5, 5], "the end of the first was needed");
        let n_found = |ledger: &Ledger| all.each_ref().map(|tokens| ledger.find(contents(tokens)).n_blocks);
        let mut greedy = Holding::default();
        for (n_blocks, wanted) in
            [(1, [1, 2, 2]), (2, [1, 2, 2]), (3, [1, 1, 2]), (4, [1, 0, 2]), (5, [0, 0, 2]), (6, [0, 0, 2])]
        {
            ledger.grow(&mut greedy, n_blocks * BLOCK_LEN);
            assert_eq!(n_found(&ledger), wanted, "{n_blocks} blocks");
        }
        assert_eq!(greedy.blocks().len(), 5, "there are no more");
        ledger.release(used, contents(&all[2]), 39);
        ledger.release(greedy, contents(&[]), 0);
        assert_eq!(counts(&ledger), [0, 3, 8]);
    }

    #[test]
    fn who_does_not_share_takes_or_gives_nothing() {
        let tokens: Vec<u32> = (0..60).collect();
        let mut ledger = Ledger::new(20, usize::MAX);
        let of_prompt = Contents { n_given: 33, ..contents(&tokens) };
        let holding = compute(&mut ledger, of_prompt);
        assert_eq!(ledger.find(contents(&tokens)).n_blocks, 2, "what is beyond the prompt is not found");
        let alone = Contents { sharing: Sharing { takes: false, ..Sharing::default() }, ..contents(&tokens) };
        assert_eq!(ledger.find(alone).n_blocks, 0);
        ledger.release(holding, of_prompt, 59);
        assert_eq!(counts(&ledger), [0, 3, 20]);
        let mut holding = Holding::default();
        ledger.attach(&mut holding, contents(&tokens));
        let begun = ledger.begin(&mut holding, contents(&tokens));
        assert_eq!(begun.map(|(_, n_tokens)| n_tokens), Some(1), "of the end as well");
    }

    #[test]
    fn so_many_are_kept_and_with_none_nothing_is_shared() {
        let tokens: Vec<u32> = (0..100).collect();
        for (max_cached, n_cached) in [(0, 0), (1, 1), (4, 4), (100, 7)] {
            let mut ledger = Ledger::new(20, max_cached);
            let holding = compute(&mut ledger, contents(&tokens));
            let n_found = if max_cached > 0 { 6 } else { 0 };
            assert_eq!(ledger.find(contents(&tokens)), Found { n_blocks: n_found, n_unused: 0 });
            ledger.release(holding, contents(&tokens), 99);
            // The end is none that another takes as it is.
            let n_found = n_cached.min(6);
            assert_eq!(ledger.find(contents(&tokens)), Found { n_blocks: n_found, n_unused: n_found });
            assert_eq!(counts(&ledger), [0, n_cached, 20]);
        }
    }
}
