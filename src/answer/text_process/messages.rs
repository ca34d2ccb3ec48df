//! What the frames say. Both ends are the same program, so there is no version; whatever does not parse is an error.
//! All numbers are little-endian; a text is its length in four bytes, then its bytes.

use serde_json::Value;

use crate::answer::prompter::{Prepared, PromptRequest};
use crate::answer::text_files::TEXT_FILES;
use crate::spool::wire::{ChatOptions, Fault, FaultCode};
use crate::text::ChatMessage;

/// What the text process is told first, with the files themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The engine's directory, for errors.
    pub directory: Vec<u8>,
    /// Which of the text files come along.
    pub has_file: [bool; TEXT_FILES.len()],
    /// Longest prompt, in tokens.
    pub max_input_len: u64,
    pub time_ms: u64,
    pub memory_bytes: u64,
}

/// An answer that is no frame of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text process sent a message that cannot be read")]
pub struct BadFrame;

/// The codes that a prompt can be refused with.
const CODES: [FaultCode; 3] = [FaultCode::BadRequest, FaultCode::PromptTooLong, FaultCode::Internal];
/// The place of the last, for any other.
const INTERNAL: u8 = 2;

impl Opening {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_text(&mut bytes, &self.directory);
        bytes.extend(self.has_file.map(u8::from));
        for number in [self.max_input_len, self.time_ms, self.memory_bytes] {
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, BadFrame> {
        let mut reader = Reader(bytes);
        Ok(Self {
            directory: reader.text()?.to_owned(),
            has_file: reader.array::<{ TEXT_FILES.len() }>()?.map(|byte| byte != 0),
            max_input_len: reader.u64()?,
            time_ms: reader.u64()?,
            memory_bytes: reader.u64()?,
        })
    }
}

/// The answer to an opening: what is wrong with the text files, if anything is.
pub fn opened_to_bytes(opened: &Result<(), String>) -> Vec<u8> {
    opened.as_ref().err().map_or_else(Vec::new, |why| why.as_bytes().to_owned())
}

pub fn parse_opened(bytes: &[u8]) -> Result<(), String> {
    if bytes.is_empty() { Ok(()) } else { Err(String::from_utf8_lossy(bytes).into_owned()) }
}

pub fn request_to_bytes(request: &PromptRequest) -> Vec<u8> {
    let ChatOptions { apply_chat_template, add_generation_prompt, enable_thinking } = request.chat;
    let mut bytes = Vec::new();
    bytes.extend([apply_chat_template, add_generation_prompt, enable_thinking].map(u8::from));
    bytes.extend(request.local_time.to_le_bytes());
    put_length(&mut bytes, request.messages.len());
    for message in &request.messages {
        put_text(&mut bytes, message.role.as_bytes());
        put_text(&mut bytes, message.content.as_bytes());
        put_length(&mut bytes, message.fields.len());
        for (name, value) in &message.fields {
            put_text(&mut bytes, name.as_bytes());
            put_text(&mut bytes, value.to_string().as_bytes());
        }
    }
    let tools = request.tools.as_ref().map(Value::to_string);
    put_text(&mut bytes, tools.unwrap_or_default().as_bytes());
    bytes
}

pub fn parse_request(bytes: &[u8]) -> Result<PromptRequest, BadFrame> {
    let mut reader = Reader(bytes);
    let [apply_chat_template, add_generation_prompt, enable_thinking] = reader.array()?.map(|byte| byte != 0);
    let local_time = i64::from_le_bytes(reader.array()?);
    let n_messages = reader.u32()?;
    let messages = (0..n_messages).map(|_| parse_message(&mut reader)).collect::<Result<_, BadFrame>>()?;
    let chat = ChatOptions { apply_chat_template, add_generation_prompt, enable_thinking };
    let tools = reader.text()?;
    let tools = if tools.is_empty() { None } else { Some(parse_json(tools)?) };
    Ok(PromptRequest { messages, tools, chat, local_time })
}

fn parse_message(reader: &mut Reader) -> Result<ChatMessage, BadFrame> {
    let message = ChatMessage::new(reader.string()?, reader.string()?);
    let field = |reader: &mut Reader| Ok((reader.string()?, parse_json(reader.text()?)?));
    let n_fields = reader.u32()?;
    let fields = (0..n_fields).map(|_| field(reader)).collect::<Result<_, BadFrame>>()?;
    Ok(ChatMessage { fields, ..message })
}

fn parse_json(text: &[u8]) -> Result<Value, BadFrame> {
    serde_json::from_slice(text).map_err(|_| BadFrame)
}

pub fn answer_to_bytes(answer: &Result<Prepared, Fault>) -> Vec<u8> {
    let mut bytes = Vec::new();
    match answer {
        Ok(Prepared { system_prompt, prompt_text, tokens }) => {
            bytes.push(u8::MAX);
            put_text(&mut bytes, system_prompt.as_bytes());
            put_text(&mut bytes, prompt_text.as_bytes());
            bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
        }
        Err(Fault { code, message }) => {
            let code = (0..).zip(CODES).find(|(_, known)| known == code);
            bytes.push(code.map_or(INTERNAL, |(place, _)| place));
            put_text(&mut bytes, message.as_bytes());
        }
    }
    bytes
}

pub fn parse_answer(bytes: &[u8]) -> Result<Result<Prepared, Fault>, BadFrame> {
    let mut reader = Reader(bytes);
    let [kind] = reader.array()?;
    if kind != u8::MAX {
        let code = *CODES.get(usize::from(kind)).ok_or(BadFrame)?;
        return Ok(Err(Fault::new(code, reader.string()?)));
    }
    let (system_prompt, prompt_text) = (reader.string()?, reader.string()?);
    let (tokens, rest) = reader.0.as_chunks();
    if !rest.is_empty() {
        return Err(BadFrame);
    }
    let tokens = tokens.iter().map(|token| u32::from_le_bytes(*token)).collect();
    Ok(Ok(Prepared { system_prompt, prompt_text, tokens }))
}

fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    put_length(bytes, text.len());
    bytes.extend(text);
}

/// A length that no request reaches makes a frame that does not parse.
fn put_length(bytes: &mut Vec<u8>, n: usize) {
    bytes.extend(u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
}

/// What is left of a frame.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadFrame> {
        let (array, rest) = self.0.split_first_chunk().ok_or(BadFrame)?;
        self.0 = rest;
        Ok(*array)
    }

    fn u32(&mut self) -> Result<u32, BadFrame> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, BadFrame> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<&'a [u8], BadFrame> {
        let length = self.u32()? as usize;
        let (text, rest) = self.0.split_at_checked(length).ok_or(BadFrame)?;
        self.0 = rest;
        Ok(text)
    }

    fn string(&mut self) -> Result<String, BadFrame> {
        String::from_utf8(self.text()?.to_owned()).map_err(|_| BadFrame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let opening = Opening {
            directory: b"/engine".to_vec(),
            has_file: [true, false, true, true, false, true],
            max_input_len: 1024,
            time_ms: 10_000,
            memory_bytes: 1 << 40,
        };
        assert_eq!(Opening::parse(&opening.to_bytes()), Ok(opening));
        for opened in [Ok(()), Err("no template".to_owned())] {
            assert_eq!(parse_opened(&opened_to_bytes(&opened)), opened);
        }
        let messages = [("system", "Be brief."), ("user", ""), ("user", "é <|im_end|>\0")];
        let mut messages: Vec<ChatMessage> = messages.map(|(role, text)| ChatMessage::new(role, text)).into();
        messages[1].fields = vec![("tool_calls".to_owned(), serde_json::json!([{ "é": 1.5 }]))];
        let request = PromptRequest {
            messages,
            tools: Some(serde_json::json!([{ "type": "function" }])),
            chat: ChatOptions {
                apply_chat_template: true,
                add_generation_prompt: false,
                enable_thinking: true,
            },
            local_time: -7,
        };
        let bytes = request_to_bytes(&request);
        assert_eq!(parse_request(&bytes), Ok(request));
        for end in 0..bytes.len() {
            assert_eq!(parse_request(&bytes[..end]), Err(BadFrame), "{end}");
        }
        let prepared =
            Prepared { system_prompt: "s".into(), prompt_text: "sé".into(), tokens: vec![0, 7, u32::MAX] };
        let fault = Fault::new(FaultCode::PromptTooLong, "too long");
        for answer in [Ok(prepared), Err(fault)] {
            let bytes = answer_to_bytes(&answer);
            assert_eq!(parse_answer(&bytes), Ok(answer));
            assert_eq!(parse_answer(&bytes[..bytes.len() - 1]), Err(BadFrame));
        }
    }
}
