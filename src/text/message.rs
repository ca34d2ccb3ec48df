//! What a request says: messages of a role and its text.

use serde_json::Value;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// "system", "user", "assistant", or what else the template knows.
    pub role: String,
    /// The whole text. The items of a content array are joined by nothing: that is the documented format's rule.
    pub content: String,
    /// What else a template may show: `tool_calls`, `tool_call_id`, `name`.
    pub fields: Vec<(String, Value)>,
}

impl ChatMessage {
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: text.into(), fields: Vec::new() }
    }
}
