//! Blocks by what they hold: the block's tokens, all that stands before them, and the adapters that computed
//! them. Two blocks that agree in these hold the same bits, whoever computed them.
//!
//! A block is a node of a tree. Its key is its parent and its own tokens, and keys are compared as a whole, never
//! by a hash alone; a node's number is never used twice. So a found node means equal tokens up to the root.

use std::cmp::Reverse;
use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;

use crate::model::BLOCK_LEN;

/// What of an adapter decides over keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterKey {
    content: u64,
    scale_bits: u32,
}

/// Stands in a key where a block holds nothing: no token of a vocabulary, so that no sequence takes such a block as it is.
const NOTHING: u32 = u32::MAX;

/// Names a node; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

/// What a block holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    parent: Parent,
    tokens: [u32; BLOCK_LEN],
}

/// What stands before a block.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Parent {
    /// Nothing: the first block of a sequence with these adapters, in the order of their sums.
    Root(Arc<[AdapterKey]>),
    Node(NodeId),
}

struct Node {
    key: Key,
    block: u32,
    /// Blocks before it.
    depth: usize,
    /// Whether others go first when blocks are needed.
    is_kept: bool,
    /// When it fell out of use; meaningless while it is used.
    last_used: u64,
}

/// The order of eviction. Whoever uses a node uses its parents, so that a parent is never before its child.
type Age = (bool, u64, Reverse<usize>, NodeId);

/// The blocks of one cache that may be found, used by sequences or not.
pub struct Prefix<S = RandomState> {
    nodes: HashMap<NodeId, Node>,
    by_key: HashMap<Key, NodeId, S>,
    /// The nodes that stand next below each parent.
    children: HashMap<Parent, Vec<NodeId>>,
    /// Those that no sequence uses.
    unused: BTreeSet<Age>,
    next_id: u64,
}

impl AdapterKey {
    /// Equal `content` is equal bytes of the adapter.
    pub fn new(content: u64, scale: f32) -> Self {
        Self { content, scale_bits: scale.to_bits() }
    }
}

impl Key {
    /// `tokens` are those of one block, or its first ones if it is not full.
    ///
    /// # Panics
    /// When they are more.
    pub fn new(parent: Parent, tokens: &[u32]) -> Self {
        let mut all = [NOTHING; BLOCK_LEN];
        all[..tokens.len()].copy_from_slice(tokens);
        Self { parent, tokens: all }
    }
}

impl<S: BuildHasher + Default> Prefix<S> {
    pub fn new() -> Self {
        Self {
            nodes: HashMap::new(),
            by_key: HashMap::default(),
            children: HashMap::new(),
            unused: BTreeSet::new(),
            next_id: 0,
        }
    }

    pub fn find(&self, key: &Key) -> Option<NodeId> {
        self.by_key.get(key).copied()
    }

    /// The node below `parent` that has most of these tokens at its beginning, and how many; none if that is none.
    pub fn longest(&self, parent: &Parent, tokens: &[u32]) -> Option<(NodeId, usize)> {
        let n_common = |id: &NodeId| {
            let own = &self.nodes[id].key.tokens;
            own.iter().zip(tokens).take_while(|(own, wanted)| own == wanted).count()
        };
        let children = self.children.get(parent)?;
        let best = children.iter().map(|id| (*id, n_common(id))).max_by_key(|(_, n_tokens)| *n_tokens);
        best.filter(|(_, n_tokens)| *n_tokens > 0)
    }

    /// The node's block.
    pub fn block(&self, id: NodeId) -> u32 {
        self.nodes[&id].block
    }

    /// Adds a node that is used. `depth` blocks stand before it; its key is not there yet.
    pub fn insert(&mut self, key: Key, block: u32, depth: usize) -> NodeId {
        let id = NodeId(self.next_id);
        self.next_id += 1;
        self.nodes.insert(id, Node { key: key.clone(), block, depth, is_kept: false, last_used: 0 });
        self.children.entry(key.parent.clone()).or_default().push(id);
        let before = self.by_key.insert(key, id);
        debug_assert!(before.is_none(), "one node for each content");
        id
    }

    /// Others go before this node, which is used, from now on.
    pub fn keep(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.is_kept = true;
        }
    }

    /// A sequence uses the node again.
    pub fn set_used(&mut self, id: NodeId) {
        let was_unused = self.unused.remove(&self.nodes[&id].age(id));
        debug_assert!(was_unused);
    }

    /// No sequence uses the node any more, `now` being later than all before.
    pub fn set_unused(&mut self, id: NodeId, now: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.last_used = now;
            self.unused.insert(node.age(id));
        }
    }

    /// Forgets the unused node that was used least recently, of those that are not kept first. Returns its block.
    pub fn evict(&mut self) -> Option<u32> {
        let (.., id) = self.unused.pop_first()?;
        let node = self.nodes.remove(&id)?;
        self.by_key.remove(&node.key);
        if let Some(children) = self.children.get_mut(&node.key.parent) {
            children.retain(|child| *child != id);
            if children.is_empty() {
                self.children.remove(&node.key.parent);
            }
        }
        Some(node.block)
    }

    pub fn n_unused(&self) -> usize {
        self.unused.len()
    }
}

impl Node {
    fn age(&self, id: NodeId) -> Age {
        (self.is_kept, self.last_used, Reverse(self.depth), id)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    use super::*;

    /// Every key has the same hash.
    #[derive(Default)]
    struct Same;

    impl Hasher for Same {
        fn finish(&self) -> u64 {
            7
        }

        fn write(&mut self, _: &[u8]) {}
    }

    impl BuildHasher for Same {
        type Hasher = Self;

        fn build_hasher(&self) -> Self {
            Self
        }
    }

    fn tokens(last: u32) -> [u32; BLOCK_LEN] {
        let mut tokens = [5; BLOCK_LEN];
        tokens[BLOCK_LEN - 1] = last;
        tokens
    }

    fn base() -> Parent {
        Parent::Root([].into())
    }

    #[test]
    fn equal_hashes_are_told_apart_by_what_the_blocks_hold() {
        let mut prefix = Prefix::<Same>::new();
        let adapters = |used: &[(u64, f32)]| {
            Parent::Root(used.iter().map(|(content, scale)| AdapterKey::new(*content, *scale)).collect())
        };
        let first = prefix.insert(Key::new(base(), &tokens(0)), 0, 0);
        let keys = [
            Key::new(base(), &tokens(1)),
            Key::new(adapters(&[(0, 1.0)]), &tokens(0)),
            Key::new(adapters(&[(0, 0.5)]), &tokens(0)),
            Key::new(adapters(&[(1, 1.0)]), &tokens(0)),
            Key::new(adapters(&[(0, 1.0), (1, 1.0)]), &tokens(0)),
            Key::new(adapters(&[(1, 1.0), (0, 1.0)]), &tokens(0)),
            Key::new(adapters(&[(0, 1.0), (0, 1.0)]), &tokens(0)),
            Key::new(adapters(&[(0, 1.0), (1, 0.5)]), &tokens(0)),
            Key::new(Parent::Node(first), &tokens(0)),
        ];
        for (block, key) in (1..).zip(&keys) {
            assert_eq!(prefix.find(key), None, "block {block}");
            prefix.insert(key.clone(), block, 0);
        }
        for (block, key) in (1..).zip(&keys) {
            assert_eq!(prefix.find(key).map(|id| prefix.block(id)), Some(block));
        }
    }

    #[test]
    fn what_comes_again_under_an_old_parent_is_not_found_under_the_new_one() {
        let mut prefix = Prefix::<RandomState>::new();
        let root = Key::new(base(), &tokens(0));
        let old = prefix.insert(root.clone(), 0, 0);
        let child = Key::new(Parent::Node(old), &tokens(1));
        prefix.set_unused(old, 1);
        assert_eq!(prefix.evict(), Some(0));
        let new = prefix.insert(root, 0, 0);
        assert_ne!(old, new);
        assert_ne!(child, Key::new(Parent::Node(new), &tokens(1)));
    }

    #[test]
    fn the_least_recently_used_goes_first_and_children_before_their_parents() {
        let mut prefix = Prefix::<RandomState>::new();
        let mut insert =
            |parent, last, block, depth| prefix.insert(Key::new(parent, &tokens(last)), block, depth);
        let system = insert(base(), 0, 0, 0);
        let [first, second] = [1, 2].map(|block| insert(Parent::Node(system), block, block, 1));
        let other = insert(base(), 9, 3, 0);
        let used = insert(base(), 8, 4, 0);
        prefix.keep(system);
        prefix.set_unused(second, 1);
        prefix.set_unused(other, 2);
        prefix.set_unused(first, 3);
        prefix.set_unused(system, 3);
        prefix.set_used(second);
        prefix.set_unused(second, 4);
        assert_eq!(prefix.n_unused(), 4);
        let order: Vec<u32> = std::iter::from_fn(|| prefix.evict()).collect();
        assert_eq!(order, [3, 1, 2, 0]);
        assert_eq!(prefix.block(used), 4, "what is used is never evicted");
    }

    #[test]
    fn the_longest_beginning_is_found_below_its_parent_alone() {
        let mut prefix = Prefix::<RandomState>::new();
        let mut block = [5; BLOCK_LEN];
        let all = prefix.insert(Key::new(base(), &block), 0, 0);
        block[4] = 6;
        let four = prefix.insert(Key::new(base(), &block), 1, 0);
        let below = prefix.insert(Key::new(Parent::Node(all), &block), 2, 1);
        let longest = |prefix: &Prefix, parent: Parent, tokens: &[u32]| prefix.longest(&parent, tokens);
        assert_eq!(longest(&prefix, base(), &[5; 9]), Some((all, 9)));
        assert_eq!(longest(&prefix, base(), &[5, 5, 5, 5, 6, 7]), Some((four, 5)));
        assert_eq!(longest(&prefix, base(), &[7, 5]), None);
        assert_eq!(longest(&prefix, Parent::Node(all), &[5; 9]), Some((below, 4)));
        assert_eq!(longest(&prefix, Parent::Node(four), &[5; 9]), None);
        prefix.set_unused(all, 1);
        assert_eq!(prefix.evict(), Some(0));
        assert_eq!(longest(&prefix, base(), &[5; 9]), Some((four, 4)), "what is forgotten is not found");
        let tail = prefix.insert(Key::new(base(), &[5; 7]), 3, 0);
        assert_eq!(longest(&prefix, base(), &[5; 9]), Some((tail, 7)));
        assert_eq!(prefix.find(&Key::new(base(), &[5; BLOCK_LEN])), None);
    }
}
