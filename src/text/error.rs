//! What can be wrong with a tokenizer, a template or a request's text, and what to do about it.

/// Why text could not be turned into tokens or a file of the tokenizer was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TextError {
    /// A file is damaged: truncated, not JSON, or contradicting itself.
    #[error("{file} is damaged: {why}; copy it again from the checkpoint")]
    Damaged { file: &'static str, why: String },
    /// A compiled tokenizer that cannot be used.
    #[error("the token table is damaged: {why}; build the engine again")]
    Table { why: String },
    /// A valid file that asks for something this program does not do.
    #[error(
        "{file}: {what} {found} is not supported; supported: {supported}; use a checkpoint with one of these"
    )]
    Unsupported { file: &'static str, what: &'static str, found: String, supported: &'static str },
    /// The template called `raise_exception`: the messages are not what it takes.
    #[error("the chat template refuses the messages: {message}; change the request's messages")]
    Template { message: String },
    /// The template cannot be compiled.
    #[error("the chat template cannot be read: {why}; repair chat_template in the checkpoint")]
    TemplateSource { why: String },
    /// The template failed while it was rendered.
    #[error("the chat template fails: {why}; change the messages, or repair chat_template in the checkpoint")]
    TemplateRun { why: String },
    /// A role that the processed template has no text for.
    #[error("role {role:?} is not in the chat template; use one of {known}")]
    Role { role: String, known: String },
    /// More text than a prompt may have.
    #[error("the prompt has {found} bytes of text, more than the limit of {limit}; shorten the messages")]
    TooLong { found: usize, limit: usize },
    /// More text than the tokens of a prompt can hold, whatever it is.
    #[error(
        "the prompt has {found} bytes of text, more than {max_bytes}, which is what {max_tokens} tokens can hold; \
         shorten the messages"
    )]
    TooManyBytes { found: usize, max_bytes: usize, max_tokens: usize },
    /// The messages hold so many private-use characters that none are left to mark their text with.
    #[error("the messages hold private-use characters from end to end of their planes; remove some of them")]
    NoColours,
    /// The template does with contents what cannot be followed.
    #[error(
        "the chat template changes or compares the messages in a way that hides which special tokens are its own; \
         change the messages, or repair chat_template in the checkpoint"
    )]
    Unclear,
    /// A template that is no program has a place for what is said and nothing else.
    #[error(
        "the engine's template is processed_chat_template.json, which shows no tools; \
         build the engine from a checkpoint with chat_template.jinja, or leave tools and tool_calls out"
    )]
    NoTools,
    /// The tokenizer has no tokens for a text.
    #[error("the tokenizer cannot encode the prompt: {why}; change the text, or repair tokenizer.json")]
    Encode { why: String },
}

/// The name that errors of tokenizer.json carry.
pub(super) const TOKENIZER_FILE: &str = "tokenizer.json";

/// A damaged tokenizer.
pub(super) fn damaged(why: String) -> TextError {
    TextError::Damaged { file: TOKENIZER_FILE, why }
}

/// A tokenizer that asks for something else.
pub(super) fn unsupported(what: &'static str, found: &str, supported: &'static str) -> TextError {
    TextError::Unsupported { file: TOKENIZER_FILE, what, found: found.to_owned(), supported }
}
