//! Who computes what in the next step. Pure: it knows tokens and block numbers, and neither a model nor a clock.
//!
//! A sequence is admitted when the blocks that its tokens need now can be had. Where blocks run out later, those of
//! the lowest rank make room: their blocks are given up, they wait again, and what they had generated is read again
//! like a prompt. The one of the highest rank is never preempted, and it fits alone: so every sequence comes to its
//! end, whatever the others do.
//!
//! In a step the tokens of the answers come first, but for a quarter of the rows where prompts wait to be read. Of
//! several sequences with the same beginning one computes it, and the others take it when it is there: its blocks
//! as they are, and a copy of the one in which they part.

use std::collections::{HashSet, VecDeque};
use std::mem::take;

use super::kv::ledger::{BlockCopy, Ledger};
use super::kv::prefix::Key;
use super::sequence::{Finish, Sequence, SequenceId, Task};

/// A running sequence is left so many blocks beyond those that its tokens need, before one more is admitted.
const RESERVE: usize = 1;
/// While prompts wait, one row of so many is theirs.
const PROMPT_SHARE: usize = 4;

/// Limits of a scheduler.
#[derive(Debug, Clone)]
pub struct SchedulerOptions {
    /// Sequences that run at once.
    pub max_batch_size: usize,
    /// Rows of a step; longer prompts are read in chunks.
    pub max_step_rows: usize,
    /// Positions that one sequence may hold.
    pub capacity: usize,
    /// Blocks of the cache.
    pub n_blocks: u32,
    /// Of them, those that may be kept for later sequences while none uses them; 0 shares no block.
    pub max_cached_blocks: usize,
}

/// Consecutive tokens of a sequence, to be computed from its first pending one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// For [`Scheduler::running`], until the step is settled.
    pub index: usize,
    pub n_tokens: usize,
}

/// What a step computed. Every token of a prompt is counted once: as computed or as cached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepCounts {
    /// Tokens of prompts that were computed.
    pub n_prompt_tokens: usize,
    /// Tokens of prompts that were there already.
    pub n_cached_tokens: usize,
    /// Prompts whose last token was among them.
    pub n_prompts_read: usize,
    /// Sequences that were generating already.
    pub n_generating: usize,
    /// Tokens of preempted sequences that were computed again.
    pub n_recomputed_tokens: usize,
    /// Sequences that made room for others.
    pub n_preempted: usize,
}

/// The sequences, and the blocks that they hold.
pub struct Scheduler {
    options: SchedulerOptions,
    ledger: Ledger,
    /// Sequences that may run at once, at most `options.max_batch_size`.
    batch_limit: usize,
    /// By rank.
    running: Vec<Sequence>,
    /// By rank; preempted ones among them.
    waiting: VecDeque<Sequence>,
    next_id: u64,
    n_steps: u64,
    counts: StepCounts,
    /// Of the last plan.
    copies: Vec<BlockCopy>,
}

/// How the rows of a step are divided.
struct Budget {
    /// For tokens of prompts.
    n_prompt_rows: usize,
    /// Sequences whose next token is not computed in this step, for there are more than rows.
    passed_over: HashSet<SequenceId>,
}

impl StepCounts {
    /// Rows of the step.
    pub fn n_rows(&self) -> usize {
        self.n_prompt_tokens + self.n_recomputed_tokens + self.n_generating
    }

    /// Adds those of another step.
    pub fn add(&mut self, other: Self) {
        self.n_prompt_tokens += other.n_prompt_tokens;
        self.n_cached_tokens += other.n_cached_tokens;
        self.n_prompts_read += other.n_prompts_read;
        self.n_generating += other.n_generating;
        self.n_recomputed_tokens += other.n_recomputed_tokens;
        self.n_preempted += other.n_preempted;
    }
}

impl Scheduler {
    pub fn new(options: SchedulerOptions) -> Self {
        Self {
            ledger: Ledger::new(options.n_blocks, options.max_cached_blocks),
            batch_limit: options.max_batch_size,
            running: Vec::new(),
            waiting: VecDeque::new(),
            next_id: 0,
            n_steps: 0,
            counts: StepCounts::default(),
            copies: Vec::new(),
            options,
        }
    }

    /// Queues a task.
    ///
    /// # Errors
    /// The positions that it holds at its end, when there are not blocks enough for it alone.
    pub fn add(&mut self, task: Task) -> Result<SequenceId, usize> {
        let sequence = Sequence::new(SequenceId(self.next_id), task, self.options.capacity);
        if sequence.n_blocks_at_end() > self.ledger.n_blocks() {
            return Err(sequence.n_positions_at_end());
        }
        self.next_id += 1;
        let id = sequence.id;
        self.queue(sequence);
        Ok(id)
    }

    /// Drops a sequence, if it is still there. Returns whether it was.
    pub fn remove(&mut self, id: SequenceId) -> bool {
        if let Some(index) = self.running.iter().position(|sequence| sequence.id == id) {
            let mut sequence = self.running.remove(index);
            self.give_up_blocks(&mut sequence);
            return true;
        }
        let n_before = self.waiting.len();
        self.waiting.retain(|sequence| sequence.id != id);
        self.waiting.len() < n_before
    }

    /// What the next step computes, with blocks for it; sequences with the same adapters stand together. Empty only
    /// if there is nothing to do.
    pub fn plan(&mut self) -> Vec<Chunk> {
        self.n_steps += 1;
        self.counts = StepCounts::default();
        self.copies.clear();
        self.admit();
        for index in 0..self.running.len() {
            self.take_cached(index);
        }
        let Budget { mut n_prompt_rows, passed_over } = self.budget();
        let mut underway: HashSet<Key> = HashSet::new();
        let mut chunks = Vec::new();
        // From the highest rank on; those at the end may be preempted meanwhile.
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &self.running[index];
            let is_reading = sequence.n_pending() > 1;
            let n_wanted = if !is_reading {
                usize::from(!passed_over.contains(&sequence.id))
            } else if self.is_behind(index, &mut underway) || n_prompt_rows == 0 {
                0
            } else {
                self.begin_block(index);
                self.running[index].n_pending().min(n_prompt_rows)
            };
            let n_tokens = self.make_room(index, n_wanted);
            let sequence = &mut self.running[index];
            if is_reading {
                n_prompt_rows -= n_tokens;
            } else if n_wanted > 0 {
                sequence.last_turn = self.n_steps;
            }
            if n_tokens > 0 {
                chunks.push(Chunk { index, n_tokens });
            }
            index += 1;
        }
        let place = |chunk: &Chunk| (&self.running[chunk.index].adapters, self.running[chunk.index].id);
        chunks.sort_by(|a, b| place(a).cmp(&place(b)));
        chunks
    }

    /// What is to be copied before the last plan is computed, one after the other.
    pub fn copies(&self) -> &[BlockCopy] {
        &self.copies
    }

    /// The chunk of the last plan is computed. Returns whether that was the sequence's last token, so that there are
    /// logits for the next one.
    pub fn note_computed(&mut self, chunk: Chunk) -> bool {
        let sequence = &mut self.running[chunk.index];
        let end = sequence.n_computed + chunk.n_tokens;
        let n_new = end.saturating_sub(sequence.n_seen);
        self.counts.n_recomputed_tokens += chunk.n_tokens - n_new;
        if sequence.n_seen < sequence.prompt_len {
            self.counts.n_prompt_tokens += n_new;
            self.counts.n_prompts_read += usize::from(end == sequence.prompt_len);
        } else {
            self.counts.n_generating += n_new;
        }
        sequence.n_computed = end;
        sequence.n_seen += n_new;
        let (holding, contents) = sequence.parts();
        self.ledger.publish(holding, contents, end);
        sequence.n_pending() == 0
    }

    /// Gives the sequence at `index` its next token; says whether it was the last.
    pub fn push(&mut self, index: usize, token: u32) -> Option<Finish> {
        self.running[index].push(token)
    }

    /// Sequences that run, by rank.
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// What the last step computed.
    pub fn counts(&self) -> StepCounts {
        self.counts
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Blocks that the running sequences hold at their ends, as far as there are so many.
    pub fn n_reserved(&self) -> usize {
        let wanted: usize = self.running.iter().map(Sequence::n_blocks_at_end).sum();
        wanted.min(self.ledger.n_blocks()).max(self.ledger.n_held())
    }

    /// Sequences that may run at once.
    pub fn batch_limit(&self) -> usize {
        self.batch_limit
    }

    /// Lets so many sequences run at once, between 1 and the scheduler's own limit. Those that run already go on.
    pub fn limit_batch(&mut self, n_sequences: usize) {
        self.batch_limit = n_sequences.clamp(1, self.options.max_batch_size);
    }

    /// The first one waits for its blocks, and the others behind it: a long one is not passed for ever.
    fn admit(&mut self) {
        let missing = |sequence: &Sequence| {
            RESERVE + sequence.n_blocks_now().saturating_sub(sequence.holding.blocks().len())
        };
        let mut n_missing: usize = self.running.iter().map(missing).sum();
        while self.running.len() < self.batch_limit {
            let Some(next) = self.waiting.front() else { return };
            let found = self.ledger.find(next.contents());
            let n_needed = next.n_blocks_now() - found.n_blocks + found.n_unused + RESERVE;
            if !self.running.is_empty() && n_missing + n_needed > self.ledger.n_available() {
                return;
            }
            let Some(sequence) = self.waiting.pop_front() else { return };
            let index = self.running.partition_point(|running| running.rank() < sequence.rank());
            self.running.insert(index, sequence);
            self.take_cached(index);
            n_missing += missing(&self.running[index]);
        }
    }

    /// Takes the blocks that others have computed, where the sequence stands before one.
    fn take_cached(&mut self, index: usize) {
        let sequence = &mut self.running[index];
        if sequence.n_computed < sequence.holding.n_positions() {
            return;
        }
        let (holding, contents) = sequence.parts();
        self.ledger.attach(holding, contents);
        let n_computed = sequence.holding.n_positions();
        self.note_cached(index, n_computed);
    }

    /// Copies what another block has of the sequence's next one.
    fn begin_block(&mut self, index: usize) {
        let (holding, contents) = self.running[index].parts();
        let n_before = holding.n_positions();
        if let Some((copy, n_tokens)) = self.ledger.begin(holding, contents) {
            self.copies.push(copy);
            self.note_cached(index, n_before + n_tokens);
        }
    }

    /// So many tokens of the sequence are there without being computed.
    fn note_cached(&mut self, index: usize, n_computed: usize) {
        let sequence = &mut self.running[index];
        sequence.n_computed = n_computed;
        let n_new = sequence.n_computed.saturating_sub(sequence.n_seen);
        sequence.n_seen += n_new;
        sequence.n_cached += n_new;
        self.counts.n_cached_tokens += n_new;
    }

    /// Whether one of a higher rank computes the block that this one would begin; else this one is known to.
    fn is_behind(&self, index: usize, underway: &mut HashSet<Key>) -> bool {
        let sequence = &self.running[index];
        let (holding, contents) = (&sequence.holding, sequence.contents());
        let Some(key) = self.ledger.next_key(holding, contents) else { return false };
        if contents.takes_next(holding) && underway.contains(&key) {
            return true;
        }
        if contents.gives_next(holding) {
            underway.insert(key);
        }
        false
    }

    fn budget(&self) -> Budget {
        let mut generating: Vec<&Sequence> =
            self.running.iter().filter(|next| next.n_pending() == 1).collect();
        let n_rows = self.options.max_step_rows;
        let is_reading = generating.len() < self.running.len();
        let n_kept = if is_reading { (n_rows / PROMPT_SHARE).max(1) } else { 0 };
        // Whoever is first can always have blocks, and so the step is never empty for want of them.
        let first = self.running.first().map(|sequence| sequence.id);
        let n_least = usize::from(generating.first().map(|sequence| sequence.id) == first);
        let n_served = n_rows.saturating_sub(n_kept).max(n_least).min(generating.len());
        generating.sort_by_key(|next| (Some(next.id) != first, next.last_turn, next.rank()));
        Budget {
            n_prompt_rows: n_rows.saturating_sub(n_served),
            passed_over: generating[n_served..].iter().map(|sequence| sequence.id).collect(),
        }
    }

    /// Takes blocks for the next `n_wanted` tokens of the sequence at `index`, from those of lower rank where they
    /// are not to be had otherwise. Returns for how many tokens there is room.
    fn make_room(&mut self, index: usize, n_wanted: usize) -> usize {
        loop {
            let is_last = index + 1 == self.running.len();
            let sequence = &mut self.running[index];
            let end = sequence.n_computed + n_wanted;
            self.ledger.grow(&mut sequence.holding, end);
            if sequence.holding.n_positions() >= end || is_last {
                return n_wanted.min(sequence.holding.n_positions() - sequence.n_computed);
            }
            self.preempt_last();
        }
    }

    fn preempt_last(&mut self) {
        let Some(mut sequence) = self.running.pop() else { return };
        self.give_up_blocks(&mut sequence);
        self.counts.n_preempted += 1;
        self.queue(sequence);
    }

    fn give_up_blocks(&mut self, sequence: &mut Sequence) {
        let (holding, n_computed) = (take(&mut sequence.holding), take(&mut sequence.n_computed));
        self.ledger.release(holding, sequence.contents(), n_computed);
    }

    fn queue(&mut self, sequence: Sequence) {
        let index = self.waiting.partition_point(|waiting| waiting.rank() < sequence.rank());
        self.waiting.insert(index, sequence);
    }
}
