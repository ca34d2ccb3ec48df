//! One request's tokens on their way.

use std::cmp::Reverse;
use std::sync::Arc;

use super::kv::ledger::{Contents, Holding, Sharing};
use super::kv::prefix::AdapterKey;
use crate::model::BLOCK_LEN;

/// Names a sequence of a [`super::Runner`]; never used twice, and rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub(super) u64);

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    EndOfSequence,
    MaxLength,
    /// The logits were not finite numbers: the output's token means nothing.
    NotFinite,
    /// No token of the vocabulary may come next.
    DeadEnd,
}

/// What the scheduler is told of a request.
pub struct Task {
    /// Not empty.
    pub prompt: Vec<u32>,
    /// In the order of their sums; empty for the base model.
    pub adapters: Arc<[AdapterKey]>,
    /// A higher one goes first.
    pub priority: i32,
    pub max_new_tokens: usize,
    /// Generation ends with the first of these.
    pub stop_tokens: Arc<[u32]>,
    pub sharing: Sharing,
}

/// A task that runs or waits.
pub struct Sequence {
    pub id: SequenceId,
    pub priority: i32,
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    pub adapters: Arc<[AdapterKey]>,
    /// Tokens whose keys and values are in its blocks; fewer than `tokens`.
    pub n_computed: usize,
    /// The most that `n_computed` has been; a preempted sequence computes those below again.
    pub n_seen: usize,
    /// Of the prompt, tokens that were first seen in blocks of others.
    pub n_cached: usize,
    pub holding: Holding,
    /// The step that had a row for its answer last, whether there was a block for it or not.
    pub last_turn: u64,
    /// Tokens at its end, if nothing stops it before.
    max_len: usize,
    stop_tokens: Arc<[u32]>,
    sharing: Sharing,
}

impl Sequence {
    pub fn new(id: SequenceId, task: Task, capacity: usize) -> Self {
        let prompt_len = task.prompt.len();
        // The last token is never fed back, so its keys need no place.
        let max_len = prompt_len.saturating_add(task.max_new_tokens.max(1)).min(capacity + 1);
        Self {
            id,
            priority: task.priority,
            tokens: task.prompt,
            prompt_len,
            adapters: task.adapters,
            n_computed: 0,
            n_seen: 0,
            n_cached: 0,
            holding: Holding::default(),
            last_turn: 0,
            max_len,
            stop_tokens: task.stop_tokens,
            sharing: task.sharing,
        }
    }

    /// Who goes first: the higher priority, then who came first. It never changes.
    pub fn rank(&self) -> (Reverse<i32>, SequenceId) {
        (Reverse(self.priority), self.id)
    }

    /// Tokens that are not computed; one while it generates.
    pub fn n_pending(&self) -> usize {
        self.tokens.len() - self.n_computed
    }

    /// Positions that it holds before its last token.
    pub fn n_positions_at_end(&self) -> usize {
        self.max_len - 1
    }

    /// Blocks that it holds before its last token.
    pub fn n_blocks_at_end(&self) -> usize {
        self.n_positions_at_end().div_ceil(BLOCK_LEN)
    }

    /// Blocks for the tokens that it has.
    pub fn n_blocks_now(&self) -> usize {
        self.tokens.len().min(self.n_positions_at_end()).div_ceil(BLOCK_LEN)
    }

    /// The place of the next token in the answer.
    pub fn answer_idx(&self) -> u64 {
        (self.tokens.len() - self.prompt_len) as u64
    }

    /// What its blocks hold, beside them.
    pub fn parts(&mut self) -> (&mut Holding, Contents<'_>) {
        let Self { adapters, tokens, sharing, prompt_len, holding, .. } = self;
        (holding, contents(adapters, tokens, *sharing, *prompt_len))
    }

    /// What its blocks hold.
    pub fn contents(&self) -> Contents<'_> {
        contents(&self.adapters, &self.tokens, self.sharing, self.prompt_len)
    }

    /// Takes the next token; says whether it was the last.
    pub fn push(&mut self, token: u32) -> Option<Finish> {
        self.tokens.push(token);
        if self.stop_tokens.contains(&token) {
            Some(Finish::EndOfSequence)
        } else if self.tokens.len() >= self.max_len {
            Some(Finish::MaxLength)
        } else {
            None
        }
    }
}

fn contents<'a>(
    adapters: &'a Arc<[AdapterKey]>,
    tokens: &'a [u32],
    sharing: Sharing,
    prompt_len: usize,
) -> Contents<'a> {
    let n_given = if sharing.gives_answer { usize::MAX } else { prompt_len };
    Contents { adapters, tokens, sharing, n_given }
}
