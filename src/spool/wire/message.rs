//! A chat message: who speaks, and text items. Images, audio and video are refused by name.

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::fault::{Fault, FaultCode};
use super::json::Value;
use super::limits;
use super::object::{At, Field, Object};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
    /// What a function that was called gave back; only in batch files.
    Tool,
}

/// Whose words a message is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Workflow,
    /// Knows tools and their calls, and a `developer` who is the system.
    OpenAi,
}

impl Role {
    /// The word that requests and templates use.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// One item of a message's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentPart {
    Text(String),
}

impl Serialize for ContentPart {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ContentPart::Text(text) = self;
        let mut item = serializer.serialize_struct("ContentPart", 2)?;
        item.serialize_field("text", text)?;
        item.serialize_field("type", "text")?;
        item.end()
    }
}

/// One message. In an answer it is written with its content as an array, whatever the request had.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Message {
    // The order of the fields is the order of the keys in the answer.
    pub content: Vec<ContentPart>,
    pub role: Role,
    /// What else the template may show: names, and JSON texts.
    #[serde(skip)]
    pub fields: Vec<(&'static str, String)>,
}

impl Message {
    pub fn new(role: Role, content: Vec<ContentPart>) -> Self {
        Self { content, role, fields: Vec::new() }
    }

    /// The items' text, one after the other.
    pub fn text(&self) -> String {
        self.content.iter().map(|ContentPart::Text(text)| text.as_str()).collect()
    }
}

/// Reads `messages`: 1 to [`limits::MESSAGES`], together at most [`limits::TEXT_BYTES`] of text.
pub(super) fn read_messages(
    object: &Object,
    dialect: Dialect,
    warnings: &mut Vec<String>,
) -> Result<Vec<Message>, Fault> {
    let field = object.get("messages").ok_or_else(|| object.missing("messages", "an array of messages"))?;
    if !field.value.is_array() {
        return Err(field.wanted("an array of messages"));
    }
    let mut reading = Reading { dialect, room: limits::TEXT_BYTES, warnings };
    let mut messages = Vec::new();
    for (i, value) in field.value.elements().enumerate() {
        if i == limits::MESSAGES {
            let n = field.value.elements().count();
            return Err(Fault::bad(format!(
                "{}: {n} messages are over the limit of {}",
                field.at,
                limits::MESSAGES
            )));
        }
        messages.push(reading.message(Field { value, at: At::Index(&field.at, i) })?);
    }
    if messages.is_empty() {
        return Err(Fault::bad(format!("{}: empty; wanted at least one message", field.at)));
    }
    Ok(messages)
}

struct Reading<'w> {
    dialect: Dialect,
    /// Bytes of text that the request may still have.
    room: usize,
    warnings: &'w mut Vec<String>,
}

/// Fields of OpenAI's messages beside role and content.
const OPENAI_FIELDS: [&str; 7] =
    ["role", "content", "name", "tool_calls", "tool_call_id", "refusal", "function_call"];

impl Reading<'_> {
    fn message(&mut self, field: Field) -> Result<Message, Fault> {
        let names: &[&str] = match self.dialect {
            Dialect::Workflow => &["role", "content"],
            Dialect::OpenAi => &OPENAI_FIELDS,
        };
        let object = Object::read(field.value, &field.at, names)?;
        object.warn_unknown(self.warnings);
        let role = object.get("role").ok_or_else(|| object.missing("role", "a string"))?;
        let role = match (role.string()?.as_ref(), self.dialect) {
            ("system", _) => Role::System,
            ("user", _) => Role::User,
            ("assistant", _) => Role::Assistant,
            ("developer", Dialect::OpenAi) => Role::System,
            ("tool", Dialect::OpenAi) => Role::Tool,
            (_, Dialect::OpenAi) => {
                return Err(role.wanted("\"system\", \"developer\", \"user\", \"assistant\" or \"tool\""));
            }
            _ => return Err(role.wanted("\"system\", \"user\" or \"assistant\"")),
        };
        let fields = match self.dialect {
            Dialect::Workflow => Vec::new(),
            Dialect::OpenAi => self.fields(&object)?,
        };
        let is_call = fields.iter().any(|(name, _)| *name == "tool_calls");
        let content = match object.get("content") {
            Some(content) => self.content(content)?,
            // Whoever calls a function need not say anything.
            None if is_call => Vec::new(),
            None => return Err(object.missing("content", "a string or an array of content items")),
        };
        Ok(Message { content, role, fields })
    }

    fn content(&mut self, content: Field) -> Result<Vec<ContentPart>, Fault> {
        if content.value.is_string() {
            return Ok(vec![read_text(content, &mut self.room)?]);
        }
        if !content.value.is_array() {
            return Err(content.wanted("a string or an array of content items"));
        }
        let mut items = Vec::new();
        for (i, value) in content.value.elements().enumerate() {
            if i == limits::CONTENT_ITEMS {
                let n = content.value.elements().count();
                let message =
                    format!("{}: {n} items are over the limit of {}", content.at, limits::CONTENT_ITEMS);
                return Err(Fault::bad(message));
            }
            items.push(read_item(
                Field { value, at: At::Index(&content.at, i) },
                &mut self.room,
                self.warnings,
            )?);
        }
        Ok(items)
    }

    /// What templates show of calls and their results. Arguments become what they are JSON of, as templates want them.
    fn fields(&mut self, object: &Object) -> Result<Vec<(&'static str, String)>, Fault> {
        let mut fields = Vec::new();
        for name in ["name", "tool_call_id"] {
            if let Some(field) = object.get(name) {
                field.string_within(limits::NAME_BYTES)?;
                fields.push((name, field.value.text().to_owned()));
            }
        }
        if let Some(field) = object.get("function_call") {
            return Err(Fault::bad(format!("{}: wanted tool_calls, which took its place", field.at)));
        }
        if let Some(field) = object.get("tool_calls").filter(|field| field.value.text() != "[]") {
            let text = read_tool_calls(field)?;
            self.room = self.room.checked_sub(text.len()).ok_or_else(|| too_much_text(&field))?;
            fields.push(("tool_calls", text));
        }
        Ok(fields)
    }
}

/// The calls as JSON, with their arguments as objects.
fn read_tool_calls(field: Field) -> Result<String, Fault> {
    if !field.value.is_array() {
        return Err(field.wanted("an array of calls"));
    }
    let mut calls = String::from("[");
    for (i, value) in field.value.elements().enumerate() {
        let at = At::Index(&field.at, i);
        let call = Object::read(value, &at, &["id", "type", "function"])?;
        let id = call.get("id").map(|id| id.string().map(|_| id.value.text())).transpose()?;
        let function = call.get("function").ok_or_else(|| call.missing("function", "an object"))?;
        let inner = Object::read(function.value, &function.at, &["name", "arguments"])?;
        let name = inner.get("name").ok_or_else(|| inner.missing("name", "a string"))?;
        name.string()?;
        let arguments = match inner.get("arguments") {
            None => "{}".into(),
            Some(arguments) if arguments.value.is_object() => arguments.value.text().into(),
            Some(arguments) => {
                let text = arguments.string()?;
                Value::parse(&text).map_err(|_| arguments.wanted("JSON of an object, as a string"))?;
                text
            }
        };
        let (separator, name) = (if i == 0 { "" } else { "," }, name.value.text());
        let id = id.map_or(String::new(), |id| format!("\"id\":{id},"));
        calls += &format!(
            "{separator}{{{id}\"type\":\"function\",\"function\":{{\"name\":{name},\"arguments\":{arguments}}}}}"
        );
    }
    Ok(calls + "]")
}

fn read_item(field: Field, room: &mut usize, warnings: &mut Vec<String>) -> Result<ContentPart, Fault> {
    let object = Object::read(field.value, &field.at, &["type", "text"])?;
    let kind = object.get("type").ok_or_else(|| object.missing("type", "\"text\""))?;
    let name = kind.string()?;
    let medium = match name.as_ref() {
        "text" => {
            object.warn_unknown(warnings);
            let text = object.get("text").ok_or_else(|| object.missing("text", "a string"))?;
            return read_text(text, room);
        }
        "image" | "image_url" => "images are",
        "audio" | "input_audio" => "audio is",
        "video" => "video is",
        _ => return Err(kind.wanted("\"text\"")),
    };
    let message = format!("{}: {medium} not supported yet; send items of type \"text\" only", field.at);
    Err(Fault::new(FaultCode::UnsupportedContent, message))
}

fn read_text(field: Field, room: &mut usize) -> Result<ContentPart, Fault> {
    let text = field.string_within(limits::CONTENT_BYTES)?;
    *room = room.checked_sub(text.len()).ok_or_else(|| too_much_text(&field))?;
    Ok(ContentPart::Text(text.into_owned()))
}

fn too_much_text(field: &Field) -> Fault {
    let message =
        format!("{}: the request's text is over the limit of {} bytes", field.at, limits::TEXT_BYTES);
    Fault::new(FaultCode::PromptTooLong, message)
}
