//! What is asked of a step's rows of logits and what comes out: tables in memory that the host and the device see, as
//! sampling.cu reads and writes them.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytemuck::{Pod, Zeroable};

use super::scratch::Grown;
use crate::cuda::{Argument, Context, CudaError, Pinned};
use crate::device::{Among, Draw, Drawn, Rule};

/// Tokens of a row that are put in order, at most; where all may come, the host's first try.
const MAX_ORDERED: usize = 256;
/// Likeliest tokens of a row that are told, at most.
const MAX_LOGPROBS: usize = 64;
/// Words before the mask of a row: what is told, and what brings the mask to a boundary of 16 bytes.
const MASK_HEAD: usize = 4;

/// `enum Rule` in sampling.cu.
const LEFT: u32 = 0;
const LARGEST: u32 = 1;
const OF_LIKELIEST: u32 = 2;
const OF_ALL: u32 = 3;
/// `enum Told`
const NOTHING: u32 = 0;
const ALL_TOKENS: u32 = 1;
const SOME_TOKENS: u32 = 2;

/// `struct Draw`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Entry {
    random: f64,
    inverse_temperature: f64,
    top_p: f64,
    rule: u32,
    n_first: u32,
    n_logprobs: u32,
    first_bias: u32,
    n_biases: u32,
    is_guided: u32,
}

/// `struct Answer`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Answer {
    sum: f64,
    is_drawn: u32,
    token: u32,
    logit: f32,
    largest: f32,
    n_likeliest: u32,
    unused: u32,
}

/// `struct Bias` and `struct Likely`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct TokenValue {
    token: u32,
    value: f32,
}

/// The tables, and the buffers between the kernels; kept from step to step.
#[derive(Default)]
pub struct Draws {
    /// Rows of the step that is asked for; 0 where all of them are the host's.
    pub n_rows: usize,
    /// Some of them need sums over the vocabulary.
    pub has_sums: bool,
    /// `[n_rows]`
    entries: Option<Pinned<Entry>>,
    biases: Option<Pinned<TokenValue>>,
    /// `[n_rows, mask_stride]`
    masks: Option<Pinned<u32>>,
    pub mask_stride: usize,
    /// `[n_rows]`
    answers: Option<Pinned<Answer>>,
    /// `[n_rows, MAX_LOGPROBS]`
    likeliest: Option<Pinned<TokenValue>>,
    pub buffers: Buffers,
}

/// Where kernels leave what other kernels need.
#[derive(Default)]
pub struct Buffers {
    /// Logits with the bias, of tokens that may come: `[n_rows, stride]`.
    pub scores: Grown<f32>,
    /// `[n_rows, n_parts, 128]`
    pub groups: Grown<u32>,
    /// `struct ScorePart`: `[n_rows, n_parts, 4]`.
    pub parts: Grown<u32>,
    /// At the temperature, and at 1: `[n_rows, 2, n_sum_parts]`.
    pub sums: Grown<f64>,
}

/// Where kernels find the tables.
pub struct Tables {
    pub entries: Argument,
    pub biases: Argument,
    pub masks: Argument,
    pub answers: Argument,
    pub likeliest: Argument,
}

impl Draws {
    /// Writes down what is asked; of rows that need sums over the vocabulary `max_sums` are taken, and others are left to
    /// the host.
    ///
    /// # Errors
    /// [`CudaError`]: 2 when memory runs out.
    ///
    /// # Safety
    /// No kernel that reads or writes the tables is under way.
    pub unsafe fn write(
        &mut self,
        context: &Arc<Context>,
        (draws, vocab_size): (&[Draw<'_>], usize),
        max_sums: usize,
    ) -> Result<(), CudaError> {
        let (mut entries, mut biases) = (Vec::with_capacity(draws.len()), Vec::new());
        let mut n_sums = 0;
        for draw in draws {
            let mut entry = entry(draw);
            if entry.rule != LEFT && entry.needs_sum() {
                n_sums += 1;
                if n_sums > max_sums {
                    entry.rule = LEFT;
                }
            }
            if entry.rule != LEFT {
                (entry.first_bias, entry.n_biases) = (word(biases.len()), word(draw.logit_bias.len()));
                biases.extend(draw.logit_bias.iter().map(|&(token, value)| TokenValue { token, value }));
            }
            entries.push(entry);
        }
        (self.n_rows, self.has_sums) = (0, n_sums > 0);
        if entries.iter().all(|entry| entry.rule == LEFT) {
            return Ok(());
        }
        let n_rows = draws.len();
        self.mask_stride = MASK_HEAD + vocab_size.div_ceil(32).next_multiple_of(4);
        if draws.iter().any(|draw| draw.is_guided) {
            room(context, &mut self.masks, n_rows * self.mask_stride)?;
        }
        let told = self.masks.iter().flat_map(|masks| masks.words().iter().step_by(self.mask_stride));
        told.for_each(|told| told.store(NOTHING, Ordering::Relaxed));
        room(context, &mut self.likeliest, n_rows * MAX_LOGPROBS)?;
        // SAFETY: the caller's promise.
        unsafe {
            put(room(context, &mut self.entries, n_rows)?, &entries);
            put(room(context, &mut self.biases, biases.len())?, &biases);
            put(room(context, &mut self.answers, n_rows)?, &vec![Answer::zeroed(); n_rows]);
        }
        self.n_rows = n_rows;
        Ok(())
    }

    /// See [`crate::device::Device::allow`].
    pub fn allow(&self, row_idx: usize, tokens: Option<&[u32]>) {
        let Some(masks) = self.masks.as_ref().filter(|_| row_idx < self.n_rows) else { return };
        let row = &masks.words()[row_idx * self.mask_stride..][..self.mask_stride];
        let (head, mask) = row.split_at(MASK_HEAD);
        if let Some(tokens) = tokens {
            let words = tokens.iter().copied().chain(iter::repeat(0));
            mask.iter().zip(words).for_each(|(to, word)| to.store(word, Ordering::Relaxed));
        }
        let told = if tokens.is_some() { SOME_TOKENS } else { ALL_TOKENS };
        // Who sees this sees the mask.
        head[0].store(told, Ordering::Release);
    }

    /// What a row gave, if it was decided.
    ///
    /// # Safety
    /// Everything was waited for.
    pub unsafe fn answer(&self, row_idx: usize) -> Option<Drawn> {
        if row_idx >= self.n_rows {
            return None;
        }
        // SAFETY: the caller's promise.
        let (answers, likeliest) =
            unsafe { (self.answers.as_ref()?.as_slice(), self.likeliest.as_ref()?.as_slice()) };
        let answer = Some(&answers[row_idx]).filter(|answer| answer.is_drawn == 1)?;
        let likeliest = &likeliest[row_idx * MAX_LOGPROBS..][..answer.n_likeliest as usize];
        Some(Drawn {
            token: answer.token,
            logit: answer.logit,
            likeliest: likeliest.iter().map(|likely| (likely.token, likely.value)).collect(),
            largest: answer.largest,
            sum: answer.sum,
        })
    }

    pub fn tables(&self) -> Tables {
        Tables {
            entries: at(self.entries.as_ref()),
            biases: at(self.biases.as_ref()),
            masks: at(self.masks.as_ref()),
            answers: at(self.answers.as_ref()),
            likeliest: at(self.likeliest.as_ref()),
        }
    }
}

impl Entry {
    fn needs_sum(&self) -> bool {
        self.rule == OF_ALL || self.n_logprobs > 0
    }
}

/// Without its bias.
fn entry(draw: &Draw<'_>) -> Entry {
    let mut entry =
        Entry { n_logprobs: word(draw.num_logprobs), is_guided: draw.is_guided.into(), ..Entry::zeroed() };
    match draw.rule {
        Rule::Largest => entry.rule = LARGEST,
        Rule::Random { among, top_p, inverse_temperature, random } => {
            (entry.top_p, entry.inverse_temperature, entry.random) = (top_p, inverse_temperature, random);
            (entry.rule, entry.n_first) = match among {
                Among::Likeliest(n) if n <= MAX_ORDERED => (OF_LIKELIEST, word(n)),
                Among::Likeliest(_) => (LEFT, 0),
                Among::All => (OF_ALL, word(MAX_ORDERED)),
            };
        }
    }
    if draw.num_logprobs > MAX_LOGPROBS {
        entry.rule = LEFT;
    }
    entry
}

/// Room for so many, and for one at least; what it held is lost.
fn room<'a, T: Pod>(
    context: &Arc<Context>,
    memory: &'a mut Option<Pinned<T>>,
    len: usize,
) -> Result<&'a mut Pinned<T>, CudaError> {
    let len = len.max(1);
    if memory.as_ref().is_some_and(|memory| memory.len() < len) {
        *memory = None;
    }
    match memory {
        Some(memory) => Ok(memory),
        None => Ok(memory.insert(Pinned::new(context, len.next_power_of_two())?)),
    }
}

/// # Safety
/// As of [`Pinned::as_mut_slice`].
unsafe fn put<T: Pod>(memory: &mut Pinned<T>, values: &[T]) {
    // SAFETY: the caller's promise.
    unsafe { memory.as_mut_slice()[..values.len()].copy_from_slice(values) };
}

fn at<T: Pod>(memory: Option<&Pinned<T>>) -> Argument {
    Argument::Address(memory.map_or(0, Pinned::address))
}

fn word(n: usize) -> u32 {
    u32::try_from(n).expect("rows and tokens have 31 bits")
}
