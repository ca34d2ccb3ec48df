//! What goes into a template and what comes out of it.

use serde_json::Value;

use super::prompt::Prompt;

/// What a request asks of the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenderOptions<'a> {
    pub add_generation_prompt: bool,
    /// None leaves the template's variable undefined.
    pub enable_thinking: Option<bool>,
    /// The time that a template may print: seconds since 1970 in the zone to print. Keep it with a job, so that its
    /// prompts stay the same after a restart.
    pub local_time: i64,
    /// The functions that the model may call, as OpenAI describes them.
    pub tools: Option<&'a Value>,
}

/// A conversation as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// `formatted_system_prompt`: the start of the prompt that is the system prompt's; "" if there is none.
    pub system_prompt: String,
    /// `formatted_complete_request` is its text.
    pub prompt: Prompt,
}
