//! What of a line of a batch file its answer needs.

use super::calls::Calls;
use crate::spool::wire::echo::Echo;

/// What the answer to a line says beside the model's words.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Names the line among all that this machine answers: the job's id and the place in the file.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// As it was written; none where the line gives none.
    pub custom_id: Option<Echo>,
    pub endpoint: Endpoint,
    /// The served model or an adapter; empty where the line gives none.
    pub model: String,
    /// Answers that are wanted.
    pub n_choices: usize,
    /// How calls of tools are read from the answer; none leaves it a text.
    pub calls: Option<Calls>,
    /// Alternatives of each token beside the one that was drawn, where they are wanted.
    pub n_alternatives: Option<usize>,
}

/// What a line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Chat,
    Completions,
}

/// What the answers' ids begin with, and their time. The same after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    pub name: String,
    /// Seconds since 1970.
    pub created: u64,
}

impl Endpoint {
    /// By the url.
    pub const ALL: [(&'static str, Self); 2] =
        [("/v1/chat/completions", Self::Chat), ("/v1/completions", Self::Completions)];
}

impl Line {
    /// Nothing is known of it yet.
    pub fn unread(stamp: &Stamp, index: usize) -> Self {
        Self {
            id: format!("{}-{index}", stamp.name),
            created: stamp.created,
            custom_id: None,
            endpoint: Endpoint::Chat,
            model: String::new(),
            n_choices: 1,
            calls: None,
            n_alternatives: None,
        }
    }
}
