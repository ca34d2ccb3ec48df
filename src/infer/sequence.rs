//! One request's tokens on their way.

use std::sync::Arc;

use super::sampler::{Sampling, TokenLogprob};
use crate::backend::Backend;
use crate::model::{BLOCK_LEN, Lora};

/// Names a sequence of a [`super::Runner`]; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub(super) u64);

/// What is asked of the model.
pub struct Submission<B: Backend> {
    /// Not empty.
    pub prompt: Vec<u32>,
    /// The adapter and the factor of its update.
    pub lora: Option<(Arc<Lora<B>>, f32)>,
    pub sampling: Sampling,
    /// At least 1; clamped to what the cache holds.
    pub max_new_tokens: usize,
    /// Generation ends with the first of these; it is part of the answer's tokens.
    pub stop_tokens: Arc<[u32]>,
    /// So many alternatives are reported per token.
    pub num_logprobs: usize,
}

/// One generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub id: SequenceId,
    pub token: u32,
    /// The likeliest tokens of this step, falling; empty unless asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Set on the last token.
    pub finish: Option<Finish>,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    EndOfSequence,
    MaxLength,
    /// The logits were not finite numbers: the output's token means nothing.
    NotFinite,
}

/// Why a submission was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    #[error("the prompt is empty")]
    EmptyPrompt,
    #[error(
        "the prompt has {found} tokens, the engine takes at most {max} (build it with a larger --{flag})"
    )]
    PromptTooLong { found: usize, max: usize, flag: &'static str },
    #[error(
        "{n_tokens} tokens take {needed} bytes of keys and values, the memory budget has {available}; \
         shorten the prompt or max_generate_length, or give the daemon more memory"
    )]
    Memory { n_tokens: usize, needed: usize, available: usize },
    #[error("token {token} is outside the vocabulary of {vocab_size}")]
    Token { token: u32, vocab_size: usize },
}

/// A submission that runs or waits.
pub(super) struct Sequence<B: Backend> {
    pub id: SequenceId,
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    /// Tokens whose keys and values are in the cache.
    pub n_computed: usize,
    pub blocks: Vec<u32>,
    pub max_len: usize,
    pub lora: Option<(Arc<Lora<B>>, f32)>,
    pub sampling: Sampling,
    pub stop_tokens: Arc<[u32]>,
    pub num_logprobs: usize,
}

impl<B: Backend> Sequence<B> {
    pub fn new(id: SequenceId, submission: Submission<B>, capacity: usize) -> Self {
        let prompt_len = submission.prompt.len();
        // The last token is never fed back, so its keys need no place.
        let max_len = prompt_len.saturating_add(submission.max_new_tokens.max(1)).min(capacity + 1);
        Self {
            id,
            tokens: submission.prompt,
            prompt_len,
            n_computed: 0,
            blocks: Vec::new(),
            max_len,
            lora: submission.lora,
            sampling: submission.sampling,
            stop_tokens: submission.stop_tokens,
            num_logprobs: submission.num_logprobs,
        }
    }

    /// Blocks of the cache that it holds before its last token.
    pub fn n_blocks_at_end(&self) -> usize {
        (self.max_len - 1).div_ceil(BLOCK_LEN)
    }

    /// Sequences with the same adapter stand together in a step.
    pub fn lora_order(&self) -> usize {
        self.lora.as_ref().map_or(0, |(lora, _)| Arc::as_ptr(lora) as usize)
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
