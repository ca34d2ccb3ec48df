//! What is asked of the model, and what comes back.

use std::sync::Arc;

use super::guide::{Guide, GuideCell};
use super::kv::ledger::Sharing;
use super::kv::prefix::AdapterKey;
use super::sampler::{Sampling, TokenLogprob};
use super::sequence::{Finish, SequenceId, Task};
use crate::device::{Device, Draw};

/// What is asked of the model.
pub struct Submission<D: Device> {
    /// Not empty.
    pub prompt: Vec<u32>,
    /// Their updates are added in this order, which decides over the last bits; none for the base model.
    pub adapters: Vec<AdapterUse<D>>,
    pub sampling: Sampling,
    /// None: the answer may be anything.
    pub guide: Option<Box<dyn Guide>>,
    /// At least 1; clamped to what the cache holds.
    pub max_new_tokens: usize,
    /// Generation ends with the first of these; it is part of the answer's tokens.
    pub stop_tokens: Arc<[u32]>,
    /// So many alternatives are reported per token.
    pub num_logprobs: usize,
    /// A higher one goes first where places or memory are short.
    pub priority: i32,
    pub sharing: Sharing,
}

/// An adapter and how much of it.
pub struct AdapterUse<D: Device> {
    pub lora: Arc<D::Lora>,
    /// The factor of its update.
    pub scale: f32,
    /// Names its bytes: what was computed with one adapter is used for another one of the same number.
    pub content: u64,
}

/// One generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub id: SequenceId,
    pub token: u32,
    /// The natural logarithm of its probability, as those of `logprobs`; 0 unless they are asked for.
    pub logprob: f32,
    /// The likeliest tokens of this step, falling; empty unless asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Set on the last token.
    pub finish: Option<Finish>,
    /// Tokens of the prompt that others had computed before.
    pub n_cached: usize,
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

/// What the runner keeps of a submission.
pub struct Request<D: Device> {
    pub adapters: Vec<AdapterUse<D>>,
    pub drawing: Drawing,
}

/// How tokens are drawn for it.
pub struct Drawing {
    pub sampling: Sampling,
    pub guide: Option<GuideCell>,
    pub num_logprobs: usize,
}

impl Drawing {
    /// What a device is asked for the token at `index` of the answer.
    pub fn draw(&self, index: u64) -> Draw<'_> {
        Draw {
            rule: self.sampling.rule(index),
            logit_bias: &self.sampling.logit_bias,
            is_guided: self.guide.is_some(),
            num_logprobs: self.num_logprobs,
        }
    }
}

impl<D: Device> Submission<D> {
    /// What the scheduler is told, and what the runner keeps.
    pub fn parts(self) -> (Task, Request<D>) {
        let task = Task {
            prompt: self.prompt,
            adapters: self.adapters.iter().map(|used| AdapterKey::new(used.content, used.scale)).collect(),
            priority: self.priority,
            max_new_tokens: self.max_new_tokens,
            stop_tokens: self.stop_tokens,
            sharing: self.sharing,
        };
        let drawing = Drawing {
            sampling: self.sampling,
            guide: self.guide.map(GuideCell::new),
            num_logprobs: self.num_logprobs,
        };
        (task, Request { adapters: self.adapters, drawing })
    }
}
