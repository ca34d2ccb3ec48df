//! A chat message: who speaks, and text items. Images, audio and video are refused by name.

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::fault::{Fault, FaultCode};
use super::limits;
use super::object::{At, Field, Object};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    /// The word that requests and templates use.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
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
}

impl Message {
    /// The items' text, one after the other.
    pub fn text(&self) -> String {
        self.content.iter().map(|ContentPart::Text(text)| text.as_str()).collect()
    }
}

/// Reads `messages`: 1 to [`limits::MESSAGES`], together at most [`limits::TEXT_BYTES`] of text.
pub(super) fn read_messages(object: &Object, warnings: &mut Vec<String>) -> Result<Vec<Message>, Fault> {
    let field = object.get("messages").ok_or_else(|| object.missing("messages", "an array of messages"))?;
    if !field.value.is_array() {
        return Err(field.wanted("an array of messages"));
    }
    let (mut messages, mut room) = (Vec::new(), limits::TEXT_BYTES);
    for (i, value) in field.value.elements().enumerate() {
        if i == limits::MESSAGES {
            let n = field.value.elements().count();
            return Err(Fault::bad(format!(
                "{}: {n} messages are over the limit of {}",
                field.at,
                limits::MESSAGES
            )));
        }
        let message = Field { value, at: At::Index(&field.at, i) };
        messages.push(read_message(message, &mut room, warnings)?);
    }
    if messages.is_empty() {
        return Err(Fault::bad(format!("{}: empty; wanted at least one message", field.at)));
    }
    Ok(messages)
}

fn read_message(field: Field, room: &mut usize, warnings: &mut Vec<String>) -> Result<Message, Fault> {
    let object = Object::read(field.value, &field.at, &["role", "content"])?;
    object.warn_unknown(warnings);
    let role = object.get("role").ok_or_else(|| object.missing("role", "a string"))?;
    let role = match role.string()?.as_ref() {
        "system" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        _ => return Err(role.wanted("\"system\", \"user\" or \"assistant\"")),
    };
    let content = object
        .get("content")
        .ok_or_else(|| object.missing("content", "a string or an array of content items"))?;
    if content.value.is_string() {
        return Ok(Message { content: vec![read_text(content, room)?], role });
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
        items.push(read_item(Field { value, at: At::Index(&content.at, i) }, room, warnings)?);
    }
    Ok(Message { content: items, role })
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
    *room = room.checked_sub(text.len()).ok_or_else(|| {
        let message =
            format!("{}: the request's text is over the limit of {} bytes", field.at, limits::TEXT_BYTES);
        Fault::new(FaultCode::PromptTooLong, message)
    })?;
    Ok(ContentPart::Text(text.into_owned()))
}
