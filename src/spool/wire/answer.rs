//! One answer. The order of the fields is the order of the keys in the file: by the alphabet.

use std::io::{self, Write};
use std::sync::Arc;

use serde::Serialize;

use super::echo::Echo;
use super::fault::Fault;
use super::finish::{FinishReason, Usage};
use super::limits;
use super::logprobs::Logprobs;
use super::loras::LoraUse;
use super::message::Message;
use super::openai::line::Line;
use super::openai::response::{Response, Said, write_response};
use super::request::BadRequest;

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// `request_idx` modulo the file's batch size.
    pub batch_idx: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
    pub finish_reason: FinishReason,
    pub formatted_complete_request: String,
    pub formatted_system_prompt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Echo>,
    /// By step, each by falling probability; only if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Logprobs>,
    /// The adapter that was used, or asked for if the request failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_name: Option<String>,
    /// The same of a request that asked for several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraUse>,
    pub messages: Vec<Message>,
    pub output_text: String,
    /// Place in the file's `requests`.
    pub request_idx: usize,
    pub token_ids: Vec<u32>,
    pub usage: Usage,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The line of a batch file that it answers, in the words of such files.
    #[serde(skip)]
    pub line: Option<Arc<Line>>,
    /// The further answers to it.
    #[serde(skip)]
    pub choices: Vec<Answer>,
}

impl Answer {
    /// What a generated token of it takes in memory until it is written: its id, about as much text, and as many
    /// log probabilities as may be asked for, 8 bytes each.
    pub const MAX_BYTES_PER_TOKEN: usize = 8 + 8 * limits::NUM_LOGPROBS;

    /// An answer with nothing generated yet; the caller fills in what it has.
    pub fn empty(request_idx: usize, batch_size: usize) -> Self {
        Self {
            batch_idx: request_idx % batch_size.max(1),
            error: None,
            finish_reason: FinishReason::NotFinished,
            formatted_complete_request: String::new(),
            formatted_system_prompt: String::new(),
            id: None,
            logprobs: None,
            lora_name: None,
            loras: Vec::new(),
            messages: Vec::new(),
            output_text: String::new(),
            request_idx,
            token_ids: Vec::new(),
            usage: Usage::default(),
            warnings: Vec::new(),
            line: None,
            choices: Vec::new(),
        }
    }

    /// The answer to a request that cannot be run.
    pub fn failed(request_idx: usize, batch_size: usize, bad: BadRequest) -> Self {
        let finish_reason = FinishReason::Error;
        let BadRequest { fault, id, lora_name, loras, line } = bad;
        Self {
            error: Some(fault),
            finish_reason,
            id,
            lora_name,
            loras,
            line,
            ..Self::empty(request_idx, batch_size)
        }
    }

    /// The adapters' names, in the order of the request.
    pub fn lora_names(&self) -> impl Iterator<Item = &str> {
        self.lora_name.as_deref().into_iter().chain(self.loras.iter().map(|used| used.name.as_str()))
    }

    /// Writes the answer as one line of JSON, which the journal keeps and [`super::AnswerFile`] takes.
    ///
    /// # Errors
    /// The writer's; a number that is not finite becomes null.
    pub fn write_json(&self, out: impl Write) -> io::Result<()> {
        match &self.line {
            Some(line) => write_response(&self.response(line), out),
            None => Ok(serde_json::to_writer(out, self)?),
        }
    }

    fn response<'a>(&'a self, line: &'a Line) -> Response<'a> {
        Response {
            line,
            error: self.error.as_ref(),
            answers: std::iter::once(self).chain(&self.choices).map(Self::said).collect(),
            warnings: &self.warnings,
        }
    }

    fn said(&self) -> Said<'_> {
        Said {
            text: &self.output_text,
            finish_reason: self.finish_reason,
            n_tokens: self.token_ids.len(),
            logprobs: self.logprobs.as_ref(),
            usage: self.usage,
        }
    }

    /// The same as a text.
    pub fn to_json(&self) -> String {
        let mut bytes = Vec::new();
        self.write_json(&mut bytes).expect("memory does not fail, and keys are strings");
        String::from_utf8(bytes).expect("JSON is text")
    }
}
