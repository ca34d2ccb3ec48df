//! What a request says: messages of a role and its text.

use std::borrow::Cow;

use serde_json::Value;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// "system", "user", "assistant", or what else the template knows.
    pub role: String,
    pub content: Content,
    /// What else a template may show: `tool_calls`, `tool_call_id`, `name`.
    pub fields: Vec<(String, Value)>,
}

/// The text of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Text(String),
    /// The text parts of a content array, in order.
    Parts(Vec<String>),
}

impl ChatMessage {
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: Content::Text(text.into()), fields: Vec::new() }
    }
}

impl Content {
    /// The whole text. Parts are joined by nothing: that is the documented format's rule.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Parts(parts) => Cow::Owned(parts.concat()),
        }
    }
}
