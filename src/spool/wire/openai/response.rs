//! The answer to a line, as one line of a batch's output file.

use std::io::{self, Write};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::calls::{Call, read_calls};
use super::line::{Endpoint, Line, Stamp};
use crate::spool::wire::echo::Echo;
use crate::spool::wire::fault::{Fault, FaultCode};
use crate::spool::wire::finish::{FinishReason, Usage};
use crate::spool::wire::logprobs::{Logprobs, NamedLogprob};

/// The answer to a line.
pub struct Response<'a> {
    pub line: &'a Line,
    pub error: Option<&'a Fault>,
    /// By choice; at least one.
    pub answers: Vec<Said<'a>>,
    pub warnings: &'a [String],
}

/// What the model said in one choice.
pub struct Said<'a> {
    pub text: &'a str,
    pub finish_reason: FinishReason,
    /// The token that ends it included.
    pub n_tokens: usize,
    /// By token: the drawn one, then the likeliest.
    pub logprobs: Option<&'a Logprobs>,
    pub usage: Usage,
}

/// Writes the answer to a line, without a line feed.
///
/// # Errors
/// The writer's.
pub fn write_response(response: &Response, out: impl Write) -> io::Result<()> {
    let Response { line, error, .. } = *response;
    let status_code = error.map_or(200, |fault| status_code(fault.code));
    let error = error.map(ErrorBody::of);
    let body = match &error {
        Some(error) => Body::Error { error },
        None => Body::Answer(Completion::of(response)),
    };
    let output = Output {
        id: format!("batch_req_{}", line.id),
        custom_id: line.custom_id.as_ref(),
        response: Some(HttpResponse { status_code, request_id: format!("req_{}", line.id), body }),
        error: error.as_ref(),
    };
    Ok(serde_json::to_writer(out, &output)?)
}

/// Writes the one line of a file that was refused as a whole.
///
/// # Errors
/// The writer's.
pub fn write_refusal(fault: &Fault, stamp: &Stamp, out: impl Write) -> io::Result<()> {
    let id = format!("batch_req_{}", Line::unread(stamp, 0).id);
    let error = ErrorBody::of(fault);
    Ok(serde_json::to_writer(out, &Output { id, custom_id: None, response: None, error: Some(&error) })?)
}

fn status_code(code: FaultCode) -> u16 {
    match code {
        FaultCode::UnknownAdapter => 404,
        FaultCode::TooLarge => 413,
        FaultCode::GaveUp | FaultCode::Cancelled | FaultCode::Internal | FaultCode::AdapterChanged => 500,
        _ => 400,
    }
}

#[derive(Serialize)]
struct Output<'a> {
    id: String,
    custom_id: Option<&'a Echo>,
    response: Option<HttpResponse<'a>>,
    error: Option<&'a ErrorBody<'a>>,
}

#[derive(Serialize)]
struct HttpResponse<'a> {
    status_code: u16,
    request_id: String,
    body: Body<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Answer(Completion<'a>),
    Error { error: &'a ErrorBody<'a> },
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: &'static str,
}

/// A chat.completion or text_completion object.
#[derive(Serialize)]
struct Completion<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    usage: TokenCounts,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [String],
}

#[derive(Serialize)]
#[serde(untagged)]
enum Choice<'a> {
    Chat {
        index: usize,
        message: Message<'a>,
        logprobs: Option<ChatLogprobs<'a>>,
        finish_reason: &'static str,
    },
    Text {
        index: usize,
        text: &'a str,
        logprobs: Option<TextLogprobs>,
        finish_reason: &'static str,
    },
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<&'a str>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

#[derive(Serialize)]
struct ToolCall {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: FunctionCall,
}

#[derive(Serialize)]
struct FunctionCall {
    name: String,
    arguments: String,
}

#[derive(Serialize)]
struct ChatLogprobs<'a> {
    content: Vec<TokenEntry<'a>>,
    refusal: Option<()>,
}

#[derive(Serialize)]
struct TokenEntry<'a> {
    #[serde(flatten)]
    drawn: NamedLogprob<'a>,
    top_logprobs: Vec<NamedLogprob<'a>>,
}

#[derive(Serialize)]
struct TextLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<serde_json::Map<String, serde_json::Value>>,
    /// In characters, as Python counts them.
    text_offset: Vec<usize>,
}

#[derive(Serialize)]
struct TokenCounts {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptTokens,
}

#[derive(Serialize)]
struct PromptTokens {
    cached_tokens: usize,
}

impl<'a> ErrorBody<'a> {
    fn of(fault: &'a Fault) -> Self {
        let kind = match status_code(fault.code) {
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let code = match fault.code {
            FaultCode::UnknownAdapter => "model_not_found",
            FaultCode::PromptTooLong => "context_length_exceeded",
            code => code.name(),
        };
        // A message about a field begins with it.
        let param = fault.message.strip_prefix("body.").and_then(|rest| rest.split_once(": "));
        Self { message: &fault.message, kind, param: param.map(|(field, _)| field), code }
    }
}

impl<'a> Completion<'a> {
    fn of(response: &Response<'a>) -> Self {
        let Response { line, answers, warnings, .. } = response;
        let (prefix, object) = match line.endpoint {
            Endpoint::Chat => ("chatcmpl", "chat.completion"),
            Endpoint::Completions => ("cmpl", "text_completion"),
        };
        let choice = |(index, said)| match line.endpoint {
            Endpoint::Chat => chat_choice(index, said, line),
            Endpoint::Completions => text_choice(index, said, line),
        };
        // All choices have the same prompt.
        let first = answers.first().map(|said| said.usage).unwrap_or_default();
        let completion_tokens = answers.iter().map(|said| said.usage.generated_tokens).sum();
        Self {
            id: format!("{prefix}-{}", line.id),
            object,
            created: line.created,
            model: &line.model,
            choices: answers.iter().enumerate().map(choice).collect(),
            usage: TokenCounts {
                prompt_tokens: first.prompt_tokens,
                completion_tokens,
                total_tokens: first.prompt_tokens + completion_tokens,
                prompt_tokens_details: PromptTokens { cached_tokens: first.cached_tokens },
            },
            warnings,
        }
    }
}

fn chat_choice<'a>(index: usize, said: &Said<'a>, line: &'a Line) -> Choice<'a> {
    let text = said.text;
    // What was cut is no call, though it may look like one.
    let is_whole = said.finish_reason != FinishReason::MaxLength;
    let read = line.calls.as_ref().filter(|_| is_whole).and_then(|wanted| read_calls(text, wanted));
    let (content, calls) = match read {
        Some((content, calls)) => (Some(content).filter(|content| !content.is_empty()), calls),
        None => (Some(text), Vec::new()),
    };
    let finish_reason = if calls.is_empty() { finish_reason(said) } else { "tool_calls" };
    let tool_call = |(idx, Call { name, arguments })| ToolCall {
        id: call_id(&line.id, index, idx),
        kind: "function",
        function: FunctionCall { name, arguments },
    };
    let message = Message {
        role: "assistant",
        content,
        refusal: None,
        tool_calls: calls.into_iter().enumerate().map(tool_call).collect(),
    };
    let logprobs = said.logprobs.map(|logprobs| ChatLogprobs {
        content: steps(said, logprobs)
            .map(|mut step| TokenEntry {
                drawn: step.next().unwrap_or_default(),
                top_logprobs: step.take(line.n_alternatives.unwrap_or(0)).collect(),
            })
            .collect(),
        refusal: None,
    });
    Choice::Chat { index, message, logprobs, finish_reason }
}

fn text_choice<'a>(index: usize, said: &Said<'a>, line: &Line) -> Choice<'a> {
    let logprobs = said.logprobs.map(|logprobs| {
        let (mut tokens, mut token_logprobs, mut top_logprobs, mut text_offset) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut offset = 0;
        for mut step in steps(said, logprobs) {
            let drawn = step.next().unwrap_or_default();
            text_offset.push(offset);
            token_logprobs.push(drawn.logprob);
            let token = drawn.text();
            offset += token.chars().count();
            tokens.push(token);
            let alternatives = step.take(line.n_alternatives.unwrap_or(0));
            top_logprobs.push(alternatives.map(|entry| (entry.text(), entry.logprob.into())).collect());
        }
        TextLogprobs { tokens, token_logprobs, top_logprobs, text_offset }
    });
    Choice::Text { index, text: said.text, logprobs, finish_reason: finish_reason(said) }
}

/// The tokens of the text: each step has the drawn one first, then the likeliest. The token that ends the answer is none
/// of the text's.
fn steps<'a>(
    said: &Said,
    logprobs: &'a Logprobs,
) -> impl Iterator<Item = impl Iterator<Item = NamedLogprob<'a>>> {
    let n_ends = usize::from(said.finish_reason == FinishReason::EndOfSequence);
    logprobs.steps().take(said.n_tokens.saturating_sub(n_ends))
}

fn finish_reason(said: &Said) -> &'static str {
    match said.finish_reason {
        FinishReason::MaxLength => "length",
        _ => "stop",
    }
}

/// Nine letters and digits: some templates take no other ids.
fn call_id(line: &str, choice_idx: usize, call_idx: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digest = Sha256::digest(format!("{line}/{choice_idx}/{call_idx}"));
    digest.iter().take(9).map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
}
