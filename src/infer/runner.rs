//! A decoder, its cache and the sequences in it: the scheduler's plan is computed, and tokens are drawn of what
//! comes out (continuous batching).

use std::collections::HashMap;
use std::sync::OnceLock;

use super::guide::{Allowed, GuideCell};
use super::kv::ledger::BlockCopy;
use super::request::{Drawing, InferError, Output, Request, Submission};
use super::sampler::{Scores, TokenLogprob, log_softmax};
use super::scheduler::{Chunk, Scheduler, SchedulerOptions, StepCounts};
use super::sequence::{Finish, Sequence, SequenceId};
use crate::device::{self, Device, DeviceFault};
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
    /// Bytes that all keys and values may take together; others wait. `usize::MAX` for all.
    pub max_kv_bytes: usize,
    pub prefix_cache: PrefixCache,
}

/// What may be kept of keys and values that no sequence uses, for those that begin with the same tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrefixCache {
    /// So many bytes; 0 turns all sharing off.
    Bytes(u64),
    /// So many blocks of [`BLOCK_LEN`] tokens; 0 turns all sharing off.
    Blocks(usize),
}

impl PrefixCache {
    /// What is kept if nobody says otherwise.
    pub const DEFAULT: Self = Self::Bytes(256 << 20);

    fn n_blocks(self, block_bytes: usize) -> usize {
        match self {
            Self::Bytes(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX) / block_bytes,
            Self::Blocks(n_blocks) => n_blocks,
        }
    }
}

impl RunnerOptions {
    /// The limits that an engine was built for, with `max_step_rows` rows a step and memory for all sequences.
    pub fn of_engine(limits: &Limits, max_step_rows: usize, prefix_cache: PrefixCache) -> Self {
        Self {
            max_batch_size: limits.max_batch_size,
            max_input_len: limits.max_input_len,
            capacity: limits.max_kv_cache_capacity,
            max_step_rows: max_step_rows.max(limits.max_batch_size),
            max_kv_bytes: usize::MAX,
            prefix_cache,
        }
    }
}

/// Memory of the key-value cache, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KvMemory {
    /// Held by sequences.
    pub in_use: u64,
    /// Held by nobody, but kept for sequences that begin with the same tokens.
    pub cached: u64,
    /// What the sequences that run may come to hold.
    pub reserved: u64,
    /// Taken from the system: in use, cached, or kept for the next sequences.
    pub committed: u64,
    /// What all sequences together may take.
    pub capacity: u64,
}

/// A decoder, its cache and the sequences in it.
pub struct Runner<D: Device> {
    decoder: Decoder<D>,
    cache: D::Cache,
    workspace: Workspace<D>,
    options: RunnerOptions,
    scheduler: Scheduler,
    /// Of the sequences that the scheduler has.
    requests: HashMap<SequenceId, Request<D>>,
    /// Why the device computes no more.
    fault: Option<DeviceFault>,
}

impl<D: Device> Runner<D> {
    /// Reserves the cache's address space; memory is committed as sequences grow.
    ///
    /// # Errors
    /// The system's, when the address space cannot be had; one of our own, when blocks cannot be counted.
    pub fn new(decoder: Decoder<D>, options: RunnerOptions) -> std::io::Result<Self> {
        let n_blocks = (options.max_batch_size * options.capacity.div_ceil(BLOCK_LEN))
            .min(options.max_kv_bytes / decoder.block_bytes());
        let count = u32::try_from(n_blocks)
            .map_err(|_| std::io::Error::other(format!("{n_blocks} blocks are more than can be counted")))?;
        let scheduler = Scheduler::new(SchedulerOptions {
            max_batch_size: options.max_batch_size,
            max_step_rows: options.max_step_rows,
            capacity: options.capacity,
            n_blocks: count,
            max_cached_blocks: options.prefix_cache.n_blocks(decoder.block_bytes()),
        });
        Ok(Self {
            cache: decoder.cache(n_blocks)?,
            workspace: decoder.workspace(),
            scheduler,
            requests: HashMap::new(),
            fault: None,
            decoder,
            options,
        })
    }

    pub fn decoder(&self) -> &Decoder<D> {
        &self.decoder
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle()
    }

    /// Whether the sequence has a place and does not wait for one.
    pub fn is_running(&self, id: SequenceId) -> bool {
        self.scheduler.running().iter().any(|sequence| sequence.id == id)
    }

    /// Sequences that have a place.
    pub fn n_running(&self) -> usize {
        self.scheduler.running().len()
    }

    /// Blocks of the cache that sequences hold.
    pub fn n_used_blocks(&self) -> usize {
        self.scheduler.ledger().n_held()
    }

    /// Memory of the cache.
    pub fn kv_memory(&self) -> KvMemory {
        let bytes = |n_blocks: usize| n_blocks as u64 * self.decoder.block_bytes() as u64;
        let ledger = self.scheduler.ledger();
        KvMemory {
            in_use: bytes(ledger.n_held()),
            cached: bytes(ledger.n_cached()),
            reserved: bytes(self.scheduler.n_reserved()),
            committed: bytes(ledger.n_committed()),
            capacity: bytes(ledger.n_blocks()),
        }
    }

    /// What the last step computed.
    pub fn last_step(&self) -> StepCounts {
        self.scheduler.counts()
    }

    /// Queues a request.
    ///
    /// # Errors
    /// [`InferError`] when the prompt does not fit the engine, or the sequence not into the cache.
    pub fn add(&mut self, submission: Submission<D>) -> Result<SequenceId, InferError> {
        self.check(&submission.prompt)?;
        let (task, request) = submission.parts();
        let id = self.scheduler.add(task).map_err(|n_tokens| {
            let [needed, available] = [n_tokens.div_ceil(BLOCK_LEN), self.scheduler.ledger().n_blocks()]
                .map(|n_blocks| n_blocks * self.decoder.block_bytes());
            InferError::Memory { n_tokens, needed, available }
        })?;
        self.requests.insert(id, request);
        Ok(id)
    }

    /// Sequences that may run at once.
    pub fn batch_limit(&self) -> usize {
        self.scheduler.batch_limit()
    }

    /// Lets so many sequences run at once, between 1 and the engine's own limit. Those that run already go on.
    pub fn limit_batch(&mut self, n_sequences: usize) {
        self.scheduler.limit_batch(n_sequences);
    }

    /// Drops a sequence, if it is still there.
    pub fn cancel(&mut self, id: SequenceId) {
        self.scheduler.remove(id);
        self.requests.remove(&id);
    }

    /// Why there are no tokens any more, if the device has failed.
    pub fn fault(&self) -> Option<&DeviceFault> {
        self.fault.as_ref()
    }

    /// Computes one step and returns the tokens it gave; of a device that has failed there are none.
    pub fn step(&mut self) -> Vec<Output> {
        if self.fault.is_some() {
            return Vec::new();
        }
        let chunks = self.scheduler.plan();
        if chunks.is_empty() {
            return Vec::new();
        }
        for &BlockCopy { from, to } in self.scheduler.copies() {
            self.decoder.device().copy_block(&mut self.cache, from, to);
        }
        let (running, requests) = (self.scheduler.running(), &self.requests);
        let segment = |chunk: &Chunk| {
            let sequence = &running[chunk.index];
            segment(sequence, &requests[&sequence.id], chunk.n_tokens)
        };
        let segments: Vec<Segment<'_, D>> = chunks.iter().map(segment).collect();
        let guides = ask_tokens(&self.decoder, running, requests, &chunks);
        let device = self.decoder.device();
        let computed = std::thread::scope(|scope| {
            // What may come next is known before the step: it is found out while somebody else computes.
            if device.leaves_host_free() && !guides.is_empty() {
                scope.spawn(|| guides.iter().for_each(|(guide, row)| prepare(device, guide, *row)));
            }
            self.decoder.forward(&segments, &mut self.cache, &mut self.workspace)
        });
        drop(segments);
        if let Err(fault) = computed {
            self.fault = Some(fault);
            return Vec::new();
        }
        self.finish_step(&chunks)
    }

    /// Gives the memory of unused cache blocks and of all buffers of a step back to the system.
    pub fn give_back_memory(&mut self) {
        self.workspace = self.decoder.workspace();
        self.decoder.device().forget_scratch();
        self.give_back_free_blocks();
    }

    /// Gives the memory of unused cache blocks back to the system.
    pub fn give_back_free_blocks(&mut self) {
        let blocks = self.scheduler.ledger_mut().take_touched();
        self.decoder.device().forget_blocks(&mut self.cache, &blocks);
    }

    /// Forgets the blocks that are kept and that no sequence uses; they are free then.
    pub fn drop_cached_blocks(&mut self) {
        self.scheduler.ledger_mut().drop_cached();
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

    /// Takes the step's logits: one token for every sequence whose last token was computed.
    fn finish_step(&mut self, chunks: &[Chunk]) -> Vec<Output> {
        let ended: Vec<Chunk> =
            chunks.iter().copied().filter(|chunk| self.scheduler.note_computed(*chunk)).collect();
        let drawn = self.draw(&ended);
        let mut outputs = Vec::with_capacity(ended.len());
        for (chunk, Drawn { token, logprob, logprobs }) in ended.into_iter().zip(drawn) {
            let sequence = &self.scheduler.running()[chunk.index];
            let (id, n_cached) = (sequence.id, sequence.n_cached);
            let finish = match token {
                Ok(token) => self.scheduler.push(chunk.index, token),
                Err(why) => Some(why),
            };
            outputs.push(Output { id, token: token.unwrap_or(0), logprob, logprobs, finish, n_cached });
        }
        for output in outputs.iter().filter(|output| output.finish.is_some()) {
            self.cancel(output.id);
        }
        outputs
    }

    /// A token of each row of logits, which are those of these chunks: the device's, or drawn here, the rows side by side.
    fn draw(&self, ended: &[Chunk]) -> Vec<Drawn> {
        let device = self.decoder.device();
        let rows: Vec<(&[f32], &Drawing, u64)> = ended
            .iter()
            .enumerate()
            .map(|(row_idx, chunk)| {
                let sequence = &self.scheduler.running()[chunk.index];
                let request = &self.requests[&sequence.id];
                let logits = self.decoder.logits(&self.workspace, row_idx);
                (logits, &request.drawing, sequence.answer_idx())
            })
            .collect();
        let drawn: Vec<OnceLock<Drawn>> = rows.iter().map(|_| OnceLock::new()).collect();
        device.for_each(rows.len(), &|row_idx| {
            let (logits, drawing, answer_idx) = rows[row_idx];
            let found = match (device.drawn(row_idx), &drawing.guide) {
                (Some(found), _) => Drawn::of(found, drawing),
                (None, None) => draw(logits, drawing, answer_idx, Allowed::All),
                (None, Some(guide)) => guide.with_next(|allowed| draw(logits, drawing, answer_idx, allowed)),
            };
            if let (Some(guide), Ok(token)) = (&drawing.guide, found.token) {
                guide.take(token);
            }
            drawn[row_idx].get_or_init(|| found);
        });
        drawn.into_iter().map(|drawn| drawn.into_inner().expect("every row was drawn from")).collect()
    }
}

/// Draws a token that is allowed.
fn draw(logits: &[f32], drawing: &Drawing, answer_idx: u64, allowed: Allowed<'_>) -> Drawn {
    let nothing = |why| Drawn { token: Err(why), logprob: 0.0, logprobs: Vec::new() };
    let mut scores = Scores::new(logits, &drawing.sampling);
    if !scores.are_finite() {
        return nothing(Finish::NotFinite);
    }
    match allowed {
        Allowed::All => {}
        Allowed::Only(tokens) if scores.keep(tokens) => {}
        Allowed::Only(_) | Allowed::None => return nothing(Finish::DeadEnd),
    }
    let token = scores.choose(&drawing.sampling, answer_idx);
    let (logprobs, logprob) = scores.logprobs(drawing.num_logprobs, token);
    Drawn { token: Ok(token), logprob, logprobs }
}

/// What a row of logits gave.
struct Drawn {
    /// Or why there is none.
    token: Result<u32, Finish>,
    logprob: f32,
    logprobs: Vec<TokenLogprob>,
}

impl Drawn {
    /// What the device has drawn.
    fn of(found: device::Drawn, drawing: &Drawing) -> Self {
        if drawing.num_logprobs == 0 {
            return Self { token: Ok(found.token), logprob: 0.0, logprobs: Vec::new() };
        }
        let of = log_softmax(found.largest, found.sum);
        let logprobs =
            found.likeliest.iter().map(|&(token, logit)| TokenLogprob { token, logprob: of(logit) });
        Self { token: Ok(found.token), logprob: of(found.logit), logprobs: logprobs.collect() }
    }
}

/// Asks the device for the tokens that these chunks will give. Returns the guides of the chunks, each with its row of
/// logits, if it will have one.
fn ask_tokens<'a, D: Device>(
    decoder: &Decoder<D>,
    running: &[Sequence],
    requests: &'a HashMap<SequenceId, Request<D>>,
    chunks: &[Chunk],
) -> Vec<(&'a GuideCell, Option<usize>)> {
    let (mut draws, mut guides) = (Vec::new(), Vec::new());
    for chunk in chunks {
        let sequence = &running[chunk.index];
        let drawing = &requests[&sequence.id].drawing;
        let row = is_last(sequence, chunk.n_tokens).then_some(draws.len());
        if row.is_some() {
            draws.push(drawing.draw(sequence.answer_idx()));
        }
        guides.extend(drawing.guide.as_ref().map(|guide| (guide, row)));
    }
    decoder.device().ask_tokens(&draws, decoder.architecture().vocab_size);
    guides
}

/// Finds out what may come next, and tells the device if it draws from this row of logits.
fn prepare<D: Device>(device: &D, guide: &GuideCell, row: Option<usize>) {
    guide.prepare();
    if let Some(row_idx) = row {
        guide.with_next(|allowed| match allowed {
            Allowed::All => device.allow(row_idx, None),
            Allowed::Only(tokens) => device.allow(row_idx, Some(tokens)),
            // The host says why there is no token.
            Allowed::None => {}
        });
    }
}

/// Whether the next `n_tokens` of a sequence are its last ones: then a token is drawn.
fn is_last(sequence: &Sequence, n_tokens: usize) -> bool {
    sequence.n_computed + n_tokens == sequence.tokens.len()
}

/// The next `n_tokens` of a sequence.
fn segment<'a, D: Device>(
    sequence: &'a Sequence,
    request: &'a Request<D>,
    n_tokens: usize,
) -> Segment<'a, D> {
    let (start, end) = (sequence.n_computed, sequence.n_computed + n_tokens);
    Segment {
        tokens: &sequence.tokens[start..end],
        start,
        blocks: sequence.holding.blocks(),
        loras: request.adapters.iter().map(|used| (&used.lora, used.scale)).collect(),
        logits: if is_last(sequence, n_tokens) { LogitRows::Last } else { LogitRows::None },
    }
}
