//! From messages to the prompt that the model was trained on.

use super::error::TextError;
use super::jinja::JinjaTemplate;
use super::message::ChatMessage;
use super::processed::ProcessedTemplate;
use super::prompt::Prompt;
use super::render::{RenderOptions, Rendered};
use super::source::TemplateVariables;
use super::special::SpecialTokens;

/// A checkpoint's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    kind: Form,
    /// Of conversations with tools; none: as the others.
    of_tools: Option<Box<JinjaTemplate>>,
    special: SpecialTokens,
}

#[derive(Debug)]
enum Form {
    Jinja(Box<JinjaTemplate>),
    Processed(ProcessedTemplate),
}

impl ChatTemplate {
    /// A template in Jinja, as transformers runs it. `special` comes from the tokenizer that will read the prompts.
    ///
    /// # Errors
    /// `TemplateSource` if it does not compile.
    pub fn from_jinja(
        source: &str,
        variables: TemplateVariables,
        special: SpecialTokens,
    ) -> Result<Self, TextError> {
        let jinja = JinjaTemplate::compile(source, variables)?;
        Ok(Self { kind: Form::Jinja(Box::new(jinja)), of_tools: None, special })
    }

    /// The bytes of a processed_chat_template.json.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn from_processed(json: &[u8], special: SpecialTokens) -> Result<Self, TextError> {
        Ok(Self { kind: Form::Processed(ProcessedTemplate::parse(json)?), of_tools: None, special })
    }

    /// The same with another template, in Jinja, for conversations with tools.
    ///
    /// # Errors
    /// `TemplateSource` if it does not compile.
    pub fn with_tool_template(self, source: &str, variables: TemplateVariables) -> Result<Self, TextError> {
        let of_tools = JinjaTemplate::compile(source, variables)?;
        Ok(Self { of_tools: Some(Box::new(of_tools)), ..self })
    }

    /// Renders a conversation. The template sees every content as one string, the parts of a content array joined by
    /// nothing (the documented rule), also where it could show lists. Special tokens spelled out in contents or roles
    /// stay ordinary text in the prompt.
    ///
    /// # Errors
    /// `Template` if the template refuses the messages, `Role`, `NoTools`, `TemplateRun`, `TooLong`, `NoColours`,
    /// `Unclear`.
    pub fn render(&self, messages: &[ChatMessage], options: &RenderOptions) -> Result<Rendered, TextError> {
        match (&self.kind, &self.of_tools) {
            (_, Some(of_tools)) if options.tools.is_some() => {
                of_tools.render(messages, &self.special, options)
            }
            (Form::Jinja(template), _) => template.render(messages, &self.special, options),
            (Form::Processed(template), _) => template.render(messages, &self.special, options),
        }
    }

    /// Without a template (`apply_chat_template` false): the contents, joined by nothing. Here the request writes the
    /// whole prompt, so special tokens spelled out in it are special tokens.
    ///
    /// # Errors
    /// `TooLong`.
    pub fn plain(messages: &[ChatMessage]) -> Result<Rendered, TextError> {
        let text: String = messages.iter().map(|message| message.content.as_str()).collect();
        let is_system = |message: &&ChatMessage| message.role == "system";
        let system = messages.first().filter(is_system).map(|message| message.content.clone());
        Ok(Rendered { system_prompt: system.unwrap_or_default(), prompt: Prompt::trusted(text)? })
    }
}

impl Default for RenderOptions<'_> {
    fn default() -> Self {
        Self { add_generation_prompt: true, enable_thinking: None, local_time: 0, tools: None }
    }
}
