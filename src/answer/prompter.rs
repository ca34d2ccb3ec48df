//! A request's messages to the tokens that the model reads: the template, the bound on bytes, the tokenizer.
//!
//! All of it may be hostile: a template, a tokenizer and the messages. `run` does it here; the daemon in a process of
//! its own (text_process/), which has limits.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::error::AnswerError;
use super::text_files::TextFiles;
use crate::spool::wire::{ChatOptions, Fault, FaultCode, Message, Request};
use crate::text::{ChatMessage, ChatTemplate, RenderOptions, TextError, Tokenizer};

/// What of a request becomes its prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptRequest {
    pub messages: Vec<ChatMessage>,
    /// Functions that the model may call.
    pub tools: Option<Value>,
    pub chat: ChatOptions,
    /// What a template may print as the date: seconds since 1970, as the clock on the wall shows them.
    pub local_time: i64,
}

/// A prompt that is ready to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// `formatted_system_prompt`.
    pub system_prompt: String,
    /// `formatted_complete_request`.
    pub prompt_text: String,
    pub tokens: Vec<u32>,
}

/// The text side of an engine.
pub struct Prompter {
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    /// Longest prompt, in tokens.
    max_input_len: usize,
}

impl PromptRequest {
    pub fn new(request: &Request, unix_time: i64) -> Self {
        let tools = request.tools.as_deref().map(json);
        let messages = request.messages.iter().map(message).collect();
        Self { messages, tools, chat: request.chat, local_time: local_time(unix_time) }
    }
}

fn message(said: &Message) -> ChatMessage {
    let fields = said.fields.iter().map(|(name, text)| ((*name).to_owned(), json(text)));
    ChatMessage { fields: fields.collect(), ..ChatMessage::new(said.role.as_str(), said.text()) }
}

/// A text that was checked when the request was read.
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// Now, in seconds since 1970.
pub fn unix_time() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// A time as this machine's zone has it, which templates print in transformers too.
fn local_time(unix_time: i64) -> i64 {
    let mut local = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to variables that live until the call returns; a zeroed tm is a value.
    let local = unsafe {
        libc::localtime_r(&raw const unix_time, local.as_mut_ptr());
        local.assume_init()
    };
    unix_time.saturating_add(local.tm_gmtoff)
}

impl Prompter {
    /// Compiles the template.
    ///
    /// # Errors
    /// [`AnswerError`] with the file that is wrong.
    pub fn new(
        files: &TextFiles,
        tokenizer: Arc<Tokenizer>,
        max_input_len: usize,
    ) -> Result<Self, AnswerError> {
        let template = files.template(tokenizer.special_tokens())?;
        Ok(Self { tokenizer, template, max_input_len })
    }

    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// # Errors
    /// A [`Fault`] with what the template or the tokenizer says; what cannot fit is refused by its bytes.
    pub fn prepare(&self, request: &PromptRequest) -> Result<Prepared, Fault> {
        let (messages, chat) = (&request.messages, &request.chat);
        let rendered = if chat.apply_chat_template {
            let no_template = || {
                Fault::new(
                    FaultCode::BadRequest,
                    "the engine has no chat template; set apply_chat_template to false",
                )
            };
            let options = RenderOptions {
                add_generation_prompt: chat.add_generation_prompt,
                enable_thinking: Some(chat.enable_thinking),
                local_time: request.local_time,
                tools: request.tools.as_ref(),
            };
            self.template.as_ref().ok_or_else(no_template)?.render(messages, &options)
        } else {
            ChatTemplate::plain(messages)
        };
        let rendered = rendered.map_err(text_fault)?;
        self.tokenizer.check_bytes(&rendered.prompt, self.max_input_len).map_err(text_fault)?;
        let tokens = self.tokenizer.encode(&rendered.prompt).map_err(text_fault)?;
        let prompt_text = rendered.prompt.text().to_owned();
        Ok(Prepared { system_prompt: rendered.system_prompt, prompt_text, tokens })
    }
}

fn text_fault(error: TextError) -> Fault {
    let code = match error {
        TextError::TooLong { .. } | TextError::TooManyBytes { .. } => FaultCode::PromptTooLong,
        _ => FaultCode::BadRequest,
    };
    Fault::new(code, error.to_string())
}
