//! How an answer ended, and what it took.

use serde::Serialize;

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinishReason {
    EndOfSequence,
    MaxLength,
    StopWords,
    Cancelled,
    Error,
    NotFinished,
}

/// Tokens read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Usage {
    pub cached_tokens: usize,
    pub generated_tokens: usize,
    pub prompt_tokens: usize,
}
