//! A text read by a model: for what it shows on the way, or for how well it is foretold.

use std::sync::Arc;

use memmap2::MmapOptions;

use super::checkpoint::{Entry, Plan};
use super::observe::Observations;
use super::streamed::{Sources, Streamed};
use super::texts::Sequence;
use crate::device::Cpu;
use crate::format::engine::{Item, items};
use crate::format::{EngineConfig, FormatError, TensorFile};
use crate::model::{BLOCK_LEN, Decoder, LogitRows, Segment, Workspace, block_ids};

/// Tokens that are computed together: each use of a matrix costs its conversion once, which is little beside so many
/// products; and what they take is little beside the largest tensor.
const ROWS: usize = 256;
/// Logits that are held at once.
const LOGIT_ELEMENTS: usize = 16 << 20;

/// A model over sources.
pub struct Reading<'a> {
    decoder: Decoder<Streamed<'a>>,
}

impl<'a> Reading<'a> {
    /// Watches what `observations` names.
    ///
    /// # Errors
    /// [`FormatError`] for a tensor that the sources lack.
    pub fn new(
        cpu: &'a Cpu,
        config: &EngineConfig,
        sources: &'a Sources,
        observations: Observations,
    ) -> Result<Self, FormatError> {
        let device = Streamed::new(cpu, sources, observations);
        let blank = blank_tensors(&items(&config.architecture, config.precision));
        let blank = blank
            .map_err(|error| FormatError::Damaged { what: "model in memory", why: error.to_string() })?;
        Ok(Self { decoder: Decoder::new(device, config, &blank)? })
    }

    /// Reads the sequences without logits; `progress` gets the tokens of each step.
    ///
    /// # Errors
    /// The system's, when there is no room for the caches.
    pub fn read(&self, sequences: &[Sequence], progress: &dyn Fn(u64)) -> std::io::Result<()> {
        let mut workspace = self.decoder.workspace();
        for batch in batches(sequences, ROWS) {
            self.step(batch, LogitRows::None, ROWS, &mut workspace, &mut |_, _, _| {})?;
            progress(n_tokens(batch));
        }
        Ok(())
    }

    /// What was seen; nothing is watched any more.
    pub fn observations(&self) -> Observations {
        std::mem::take(&mut *self.decoder.device().observations())
    }

    /// exp of the mean of `-ln p` over the judged tokens of each sequence.
    ///
    /// # Errors
    /// The system's, when there is no room for the caches.
    pub fn perplexity(&self, sequences: &[Sequence], progress: &dyn Fn(u64)) -> std::io::Result<f64> {
        let rows = (LOGIT_ELEMENTS / self.decoder.architecture().vocab_size).clamp(16, ROWS);
        let mut workspace = self.decoder.workspace();
        let (mut surprise, mut n) = (0.0, 0);
        for batch in batches(sequences, rows) {
            let mut judge = |sequence: &Sequence, position: usize, logits: &[f32]| {
                let next = sequence.tokens.get(position + 1);
                if let Some(&next) = next.filter(|_| position + 1 >= sequence.judged_from) {
                    surprise += surprise_of(logits, next as usize);
                    n += 1;
                }
            };
            self.step(batch, LogitRows::All, rows, &mut workspace, &mut judge)?;
            progress(n_tokens(batch));
        }
        Ok((surprise / f64::from(n.max(1))).exp())
    }

    /// Reads some sequences together, at most `n_rows` tokens at a time; `take` gets each row of logits with its
    /// sequence and position.
    fn step(
        &self,
        batch: &[Sequence],
        logits: LogitRows,
        n_rows: usize,
        workspace: &mut Workspace<Streamed<'a>>,
        take: &mut dyn FnMut(&Sequence, usize, &[f32]),
    ) -> std::io::Result<()> {
        let mut n_blocks = 0;
        let blocks: Vec<Vec<u32>> = batch
            .iter()
            .map(|sequence| {
                let start = n_blocks;
                n_blocks += sequence.tokens.len().div_ceil(BLOCK_LEN);
                block_ids(start..n_blocks)
            })
            .collect();
        let mut cache = self.decoder.cache(n_blocks)?;
        // More than one piece only where the batch is one long sequence.
        let longest = batch.iter().map(|sequence| sequence.tokens.len()).max().unwrap_or(0);
        for start in (0..longest).step_by(n_rows) {
            let part = |sequence: &Sequence| start..sequence.tokens.len().min(start + n_rows);
            let segments: Vec<Segment<'_, Streamed<'a>>> = batch
                .iter()
                .zip(&blocks)
                .map(|(sequence, blocks)| {
                    let tokens = &sequence.tokens[part(sequence)];
                    Segment { tokens, start, blocks, loras: Vec::new(), logits }
                })
                .collect();
            let computed = self.decoder.forward(&segments, &mut cache, workspace);
            if computed.map_err(std::io::Error::other)? == 0 {
                continue;
            }
            let rows =
                batch.iter().flat_map(|sequence| part(sequence).map(move |position| (sequence, position)));
            for (row_idx, (sequence, position)) in rows.enumerate() {
                take(sequence, position, self.decoder.logits(workspace, row_idx));
            }
        }
        Ok(())
    }
}

/// Runs of sequences with at most `n_rows` tokens together, or of one that is longer.
fn batches(sequences: &[Sequence], n_rows: usize) -> Vec<&[Sequence]> {
    let mut batches = Vec::new();
    let mut rest = sequences;
    while !rest.is_empty() {
        let mut n = 0;
        let fits = |sequence: &&Sequence| {
            n += sequence.tokens.len();
            n <= n_rows
        };
        let (batch, left) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        batches.push(batch);
        rest = left;
    }
    batches
}

fn n_tokens(sequences: &[Sequence]) -> u64 {
    sequences.iter().map(|sequence| sequence.tokens.len() as u64).sum()
}

/// `-ln` of the softmax's value for `token`.
fn surprise_of(logits: &[f32], token: usize) -> f64 {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |most, logit| most.max(*logit));
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    sum.ln() - f64::from(logits[token] - largest)
}

/// A decoder asks a file for its tensors. This one has names and shapes, but nothing was ever written to the
/// places of the bytes, so that they take no memory: the rows come from the sources.
fn blank_tensors(items: &[Item]) -> std::io::Result<TensorFile> {
    let entries = items.iter().flat_map(Item::stored);
    let plan = Plan::new(entries.map(|stored| Entry::new(stored.name, stored.dtype, stored.shape)).collect());
    let too_large = |_| std::io::Error::other("the weights are larger than the address space");
    let n_bytes = usize::try_from(plan.n_bytes()).map_err(too_large)?;
    let mut map = MmapOptions::new().len(n_bytes).no_reserve_swap().map_anon()?;
    map[..plan.header().len()].copy_from_slice(plan.header());
    TensorFile::parse(Arc::new(map.make_read_only()?)).map_err(std::io::Error::other)
}
