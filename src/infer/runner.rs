//! Continuous batching: every step takes one token of each sequence that generates and a chunk of the
//! prompts that still have to be read. New sequences join as soon as a place is free.

use std::collections::VecDeque;

use super::blocks::Blocks;
use super::sampler::Scores;
use super::sequence::{Finish, InferError, Output, Sequence, SequenceId, Submission};
use crate::backend::Backend;
use crate::format::Limits;
use crate::model::{BLOCK_LEN, Decoder, LogitRows, Segment, Workspace};

/// Limits of a runner.
#[derive(Debug, Clone)]
pub struct RunnerOptions {
    /// Sequences that run at once.
    pub max_batch_size: usize,
    /// Tokens of a prompt.
    pub max_input_len: usize,
    /// Positions that one sequence may hold.
    pub capacity: usize,
    /// Rows of a step; longer prompts are read in chunks.
    pub max_step_rows: usize,
    /// Bytes that the keys and values of all sequences may take together; others wait. `usize::MAX` for all.
    pub max_kv_bytes: usize,
}

impl RunnerOptions {
    /// The limits that an engine was built for, with `max_step_rows` rows a step and memory for all sequences.
    pub fn of_engine(limits: &Limits, max_step_rows: usize) -> Self {
        Self {
            max_batch_size: limits.max_batch_size,
            max_input_len: limits.max_input_len,
            capacity: limits.max_kv_cache_capacity,
            max_step_rows: max_step_rows.max(limits.max_batch_size),
            max_kv_bytes: usize::MAX,
        }
    }
}

/// What the last step computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepCounts {
    /// Tokens of prompts.
    pub n_prompt_tokens: usize,
    /// Prompts whose last token was among them.
    pub n_prompts_read: usize,
    /// Sequences that were generating already.
    pub n_generating: usize,
}

/// Memory of the key-value cache, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KvMemory {
    /// Held by sequences.
    pub in_use: u64,
    /// What the sequences that run may come to hold.
    pub reserved: u64,
    /// Taken from the system: in use, or kept for the next sequences.
    pub committed: u64,
    /// What all sequences together may take.
    pub capacity: u64,
}

/// A decoder, its cache and the sequences in it.
pub struct Runner<B: Backend> {
    decoder: Decoder<B>,
    cache: B::Cache,
    workspace: Workspace<B>,
    options: RunnerOptions,
    blocks: Blocks,
    /// Sequences that may run at once, at most `options.max_batch_size`.
    batch_limit: usize,
    running: Vec<Sequence<B>>,
    waiting: VecDeque<Sequence<B>>,
    next_id: u64,
    counts: StepCounts,
}

impl<B: Backend> Runner<B> {
    /// Reserves the cache's address space; memory is committed as sequences grow.
    ///
    /// # Errors
    /// The system's, when the address space cannot be had; one of our own, when blocks cannot be counted.
    pub fn new(decoder: Decoder<B>, options: RunnerOptions) -> std::io::Result<Self> {
        // A sequence starts only if its blocks up to its end are free of others: nobody is ever preempted.
        let n_blocks = (options.max_batch_size * options.capacity.div_ceil(BLOCK_LEN))
            .min(options.max_kv_bytes / decoder.block_bytes());
        let count = u32::try_from(n_blocks)
            .map_err(|_| std::io::Error::other(format!("{n_blocks} blocks are more than can be counted")))?;
        Ok(Self {
            cache: decoder.cache(n_blocks)?,
            workspace: decoder.workspace(),
            blocks: Blocks::new(count),
            batch_limit: options.max_batch_size,
            running: Vec::new(),
            waiting: VecDeque::new(),
            next_id: 0,
            counts: StepCounts::default(),
            decoder,
            options,
        })
    }

    pub fn decoder(&self) -> &Decoder<B> {
        &self.decoder
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Whether the sequence has a place and does not wait for one.
    pub fn is_running(&self, id: SequenceId) -> bool {
        self.running.iter().any(|sequence| sequence.id == id)
    }

    /// Sequences that have a place.
    pub fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Blocks of the cache that sequences hold.
    pub fn n_used_blocks(&self) -> usize {
        self.blocks.n_used()
    }

    /// Memory of the cache.
    pub fn kv_memory(&self) -> KvMemory {
        let bytes = |n_blocks: usize| n_blocks as u64 * self.decoder.block_bytes() as u64;
        KvMemory {
            in_use: bytes(self.blocks.n_used()),
            reserved: bytes(self.n_reserved()),
            committed: bytes(self.blocks.n_committed()),
            capacity: bytes(self.blocks.n_blocks()),
        }
    }

    /// What the last step computed.
    pub fn last_step(&self) -> StepCounts {
        self.counts
    }

    /// Queues a request.
    ///
    /// # Errors
    /// [`InferError`] when the prompt does not fit the engine, or the sequence not into the cache.
    pub fn add(&mut self, submission: Submission<B>) -> Result<SequenceId, InferError> {
        self.check(&submission.prompt)?;
        let id = SequenceId(self.next_id);
        let sequence = Sequence::new(id, submission, self.options.capacity);
        let (wanted, found) = (sequence.n_blocks_at_end(), self.blocks.n_blocks());
        if wanted > found {
            let [needed, available] = [wanted, found].map(|n| n * self.decoder.block_bytes());
            return Err(InferError::Memory { needed, available, n_tokens: sequence.max_len - 1 });
        }
        self.next_id += 1;
        self.waiting.push_back(sequence);
        Ok(id)
    }

    /// Sequences that may run at once.
    pub fn batch_limit(&self) -> usize {
        self.batch_limit
    }

    /// Lets so many sequences run at once, between 1 and the engine's own limit. Those that run already go on.
    pub fn limit_batch(&mut self, n_sequences: usize) {
        self.batch_limit = n_sequences.clamp(1, self.options.max_batch_size);
    }

    /// Drops a sequence, if it is still there.
    pub fn cancel(&mut self, id: SequenceId) {
        self.waiting.retain(|sequence| sequence.id != id);
        if let Some(index) = self.running.iter().position(|sequence| sequence.id == id) {
            let sequence = self.running.swap_remove(index);
            self.blocks.release(sequence.blocks);
        }
    }

    /// Computes one step and returns the tokens it gave.
    pub fn step(&mut self) -> Vec<Output> {
        self.admit();
        self.counts = StepCounts::default();
        let chunks = self.plan();
        if chunks.is_empty() {
            return Vec::new();
        }
        let segments: Vec<Segment<'_, B>> = chunks
            .iter()
            .map(|&(index, n_tokens)| {
                let sequence = &self.running[index];
                let end = sequence.n_computed + n_tokens;
                Segment {
                    tokens: &sequence.tokens[sequence.n_computed..end],
                    start: sequence.n_computed,
                    blocks: &sequence.blocks,
                    lora: sequence.lora.as_ref().map(|(lora, scale)| (lora, *scale)),
                    logits: if end == sequence.tokens.len() { LogitRows::Last } else { LogitRows::None },
                }
            })
            .collect();
        self.decoder.forward(&segments, &mut self.cache, &mut self.workspace);
        drop(segments);
        self.settle(&chunks)
    }

    /// Gives the memory of unused cache blocks and of all buffers of a step back to the system.
    pub fn give_back_memory(&mut self) {
        self.workspace = self.decoder.workspace();
        self.decoder.backend().forget_scratch();
        self.give_back_free_blocks();
    }

    /// Gives the memory of unused cache blocks back to the system.
    pub fn give_back_free_blocks(&mut self) {
        let blocks = self.blocks.take_touched();
        self.decoder.backend().forget_blocks(&mut self.cache, &blocks);
    }

    /// Blocks that the running sequences hold at their ends.
    fn n_reserved(&self) -> usize {
        self.running.iter().map(Sequence::n_blocks_at_end).sum()
    }

    fn check(&self, prompt: &[u32]) -> Result<(), InferError> {
        let vocab_size = self.decoder.architecture().vocab_size;
        if prompt.is_empty() {
            return Err(InferError::EmptyPrompt);
        }
        for (max, flag) in
            [(self.options.max_input_len, "maxInputLen"), (self.options.capacity, "maxKVCacheCapacity")]
        {
            if prompt.len() > max {
                return Err(InferError::PromptTooLong { found: prompt.len(), max, flag });
            }
        }
        match prompt.iter().find(|&&token| token as usize >= vocab_size) {
            Some(&token) => Err(InferError::Token { token, vocab_size }),
            None => Ok(()),
        }
    }

    fn admit(&mut self) {
        let mut n_free = self.blocks.n_blocks() - self.n_reserved();
        while self.running.len() < self.batch_limit {
            // The first one waits for its blocks, and the others behind it: a long one is not passed for ever.
            let Some(sequence) = self.waiting.pop_front_if(|next| next.n_blocks_at_end() <= n_free) else {
                break;
            };
            n_free -= sequence.n_blocks_at_end();
            self.running.push(sequence);
        }
        self.running.sort_by_key(|sequence| (sequence.lora_order(), sequence.id));
    }

    /// `(index in running, tokens to compute)`, with blocks for them taken.
    fn plan(&mut self) -> Vec<(usize, usize)> {
        let pending = |sequence: &Sequence<B>| sequence.tokens.len() - sequence.n_computed;
        let n_generating = self.running.iter().filter(|sequence| pending(sequence) == 1).count();
        let mut rows_left = self.options.max_step_rows.saturating_sub(n_generating);
        // Prompts are read in the order they came.
        let mut order: Vec<usize> = (0..self.running.len()).collect();
        order.sort_by_key(|&index| self.running[index].id);
        let mut n_tokens = vec![0; self.running.len()];
        for index in order {
            n_tokens[index] = match pending(&self.running[index]) {
                1 => 1,
                n => n.min(rows_left),
            };
            if pending(&self.running[index]) > 1 {
                rows_left -= n_tokens[index];
            }
        }
        for (sequence, &n) in self.running.iter_mut().zip(&n_tokens) {
            while sequence.blocks.len() * BLOCK_LEN < sequence.n_computed + n {
                sequence
                    .blocks
                    .push(self.blocks.take().expect("admission keeps blocks for every sequence that runs"));
            }
        }
        n_tokens.into_iter().enumerate().filter(|&(_, n)| n > 0).collect()
    }

    /// Takes the step's logits: one token for every sequence whose last token was computed.
    fn settle(&mut self, chunks: &[(usize, usize)]) -> Vec<Output> {
        let mut outputs = Vec::new();
        let mut finished = Vec::new();
        for &(index, n_tokens) in chunks {
            let sequence = &mut self.running[index];
            let is_reading = sequence.n_computed < sequence.prompt_len;
            sequence.n_computed += n_tokens;
            if is_reading {
                self.counts.n_prompt_tokens += n_tokens;
                self.counts.n_prompts_read += usize::from(sequence.n_computed == sequence.prompt_len);
            } else {
                self.counts.n_generating += 1;
            }
            if sequence.n_computed < sequence.tokens.len() {
                continue;
            }
            let logits = self.decoder.logits(&self.workspace, outputs.len());
            let scores = Scores::new(logits, &sequence.sampling);
            let answer_idx = (sequence.tokens.len() - sequence.prompt_len) as u64;
            let (token, finish, logprobs) = if scores.are_finite() {
                let token = scores.choose(&sequence.sampling, answer_idx);
                (token, sequence.push(token), scores.logprobs(sequence.num_logprobs))
            } else {
                (0, Some(Finish::NotFinite), Vec::new())
            };
            if finish.is_some() {
                finished.push(index);
            }
            outputs.push(Output { id: sequence.id, token, logprobs, finish });
        }
        for index in finished.into_iter().rev() {
            let sequence = self.running.remove(index);
            self.blocks.release(sequence.blocks);
        }
        outputs
    }
}
