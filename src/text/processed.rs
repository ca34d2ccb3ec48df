//! processed_chat_template.json: what stands before and behind each message, without a program.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::TextError;
use super::message::ChatMessage;
use super::prompt::Prompt;
use super::render::{RenderOptions, Rendered};
use super::special::SpecialTokens;

/// A checked processed_chat_template.json.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Wire")]
pub(super) struct ProcessedTemplate {
    roles: BTreeMap<String, Frame>,
    generation_prompt: String,
    generation_prompt_thinking: Option<String>,
    default_system_prompt: String,
    prompt_prefix: String,
    trim_content: bool,
}

#[derive(Debug, Deserialize)]
struct Frame {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    suffix: String,
}

#[derive(Deserialize)]
struct Wire {
    roles: BTreeMap<String, Frame>,
    generation_prompt: String,
    #[serde(default)]
    generation_prompt_thinking: Option<String>,
    #[serde(default)]
    default_system_prompt: Option<String>,
    #[serde(default)]
    prompt_prefix: Option<String>,
    #[serde(default)]
    trim_content: Option<bool>,
}

impl TryFrom<Wire> for ProcessedTemplate {
    type Error = &'static str;

    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        if !wire.roles.contains_key("user") {
            return Err("roles has no \"user\"");
        }
        Ok(Self {
            roles: wire.roles,
            generation_prompt: wire.generation_prompt,
            generation_prompt_thinking: wire.generation_prompt_thinking,
            default_system_prompt: wire.default_system_prompt.unwrap_or_default(),
            prompt_prefix: wire.prompt_prefix.unwrap_or_default(),
            trim_content: wire.trim_content.unwrap_or(false),
        })
    }
}

impl ProcessedTemplate {
    /// # Errors
    /// `Damaged`.
    pub fn parse(json: &[u8]) -> Result<Self, TextError> {
        serde_json::from_slice(json).map_err(|error| TextError::Damaged {
            file: "processed_chat_template.json",
            why: error.to_string(),
        })
    }

    /// The system block (the first message if it is the system's, else the default one if there is any), then every
    /// message, then the generation prompt. The system prompt includes `prompt_prefix`, so that it begins the prompt.
    ///
    /// # Errors
    /// `Role` for a role without an entry, `NoTools`, `TooLong`, `NoColours`.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        special: &SpecialTokens,
        options: &RenderOptions,
    ) -> Result<Rendered, TextError> {
        if options.tools.is_some() || messages.iter().any(|message| !message.fields.is_empty()) {
            return Err(TextError::NoTools);
        }
        let all_text = self.all_text();
        let contents = messages.iter().map(|message| message.content.as_str());
        let colours = special.colours(contents.chain([all_text.as_str()]))?;
        let mut text = self.prompt_prefix.clone();
        let explicit = messages.first().filter(|message| message.role == "system");
        let default = Some(self.default_system_prompt.as_str()).filter(|prompt| !prompt.is_empty());
        let mut system_prompt = String::new();
        if let Some(ChatMessage { content, .. }) = explicit {
            self.append(&mut text, "system", &colours.paint(self.trimmed(content)))?;
            system_prompt = colours.strip(&text).into_owned();
        } else if let Some(content) = default {
            self.append(&mut text, "system", self.trimmed(content))?;
            system_prompt.clone_from(&text);
        }
        for message in &messages[usize::from(explicit.is_some())..] {
            self.append(&mut text, &message.role, &colours.paint(self.trimmed(&message.content)))?;
        }
        if options.add_generation_prompt {
            let thinking =
                self.generation_prompt_thinking.as_ref().filter(|_| options.enable_thinking == Some(true));
            text.push_str(thinking.unwrap_or(&self.generation_prompt));
        }
        Ok(Rendered { system_prompt, prompt: Prompt::from_coloured(&text, &colours)? })
    }

    /// Every text that the template can write.
    fn all_text(&self) -> String {
        let frames = self.roles.values().flat_map(|frame| [frame.prefix.as_str(), frame.suffix.as_str()]);
        let thinking = self.generation_prompt_thinking.as_deref().unwrap_or_default();
        let rest = [&self.generation_prompt, thinking, &self.default_system_prompt, &self.prompt_prefix];
        frames.chain(rest).collect()
    }

    fn append(&self, text: &mut String, role: &str, content: &str) -> Result<(), TextError> {
        let Some(frame) = self.roles.get(role) else {
            let known = self.roles.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(TextError::Role { role: role.to_owned(), known });
        };
        text.extend([&frame.prefix, content, &frame.suffix]);
        Ok(())
    }

    fn trimmed<'a>(&self, content: &'a str) -> &'a str {
        let is_space = |character: char| character.is_ascii_whitespace() || character == '\u{B}';
        if self.trim_content { content.trim_matches(is_space) } else { content }
    }
}
