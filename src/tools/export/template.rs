//! processed_chat_template.json: what a chat template writes around each message, found by rendering it.
//!
//! Nothing is assumed: what was found is rendered again and compared with the template itself, and a template
//! that is more than frames around messages is reported instead of written down wrong.

use serde_json::{Value, json};

use crate::text::{ChatMessage, ChatTemplate, RenderOptions, SpecialTokens, TemplateSource, TextError};

/// Contents that no template holds.
const SYSTEM: &str = "«first system text»";
const USER: &str = "«second user text»";
const ASSISTANT: &str = "«third assistant text»";
const LATER: &str = "«fourth user text»";

/// The layout of a template, or why it has none.
pub fn processed_template(source: &TemplateSource, model_path: &str) -> Result<Value, String> {
    let jinja = source.jinja.as_deref().ok_or("there is no chat template")?;
    let template = ChatTemplate::from_jinja(jinja, source.variables.clone(), SpecialTokens::new([]))
        .map_err(|error| error.to_string())?;
    let probe = Probe { template: &template };
    let bos = source.variables.token("bos_token").unwrap_or_default();
    let layout = probe.layout(bos, model_path).map_err(|fault| fault.text())?;
    let written = ChatTemplate::from_processed(layout.to_string().as_bytes(), SpecialTokens::new([]))
        .map_err(|error| error.to_string())?;
    compare(&probe, &Probe { template: &written })?;
    Ok(layout)
}

/// Why a template is no layout.
enum Fault {
    Render(TextError),
    Shape(&'static str),
}

impl Fault {
    fn text(self) -> String {
        match self {
            Self::Render(error) => error.to_string(),
            Self::Shape(what) => format!("the template writes {what}"),
        }
    }
}

struct Probe<'a> {
    template: &'a ChatTemplate,
}

impl Probe<'_> {
    fn render(
        &self,
        turns: &[(&str, &str)],
        add_generation_prompt: bool,
        thinking: bool,
    ) -> Result<String, Fault> {
        let messages: Vec<ChatMessage> =
            turns.iter().map(|(role, content)| ChatMessage::new(*role, *content)).collect();
        let enable_thinking = Some(thinking);
        let options = RenderOptions { add_generation_prompt, enable_thinking, ..RenderOptions::default() };
        let rendered = self.template.render(&messages, &options).map_err(Fault::Render)?;
        Ok(rendered.prompt.text().to_owned())
    }

    fn layout(&self, bos: &str, model_path: &str) -> Result<Value, Fault> {
        let whole = [("system", SYSTEM), ("user", USER), ("assistant", ASSISTANT), ("user", LATER)];
        let text = self.render(&whole, false, false)?;
        let (start, rest) = cut(&text, SYSTEM)?;
        let (system_to_user, rest) = cut(rest, USER)?;
        let (user_to_assistant, rest) = cut(rest, ASSISTANT)?;
        let (assistant_to_user, user_suffix) = cut(rest, LATER)?;
        let text = self.render(&whole[..3], false, false)?;
        let (_, assistant_suffix) = cut(&text, ASSISTANT)?;
        let user_prefix = assistant_to_user.strip_prefix(assistant_suffix);
        let user_prefix = user_prefix.ok_or(Fault::Shape("something else behind the last answer"))?;
        let system_suffix = system_to_user.strip_suffix(user_prefix);
        let system_suffix = system_suffix.ok_or(Fault::Shape("the first user message in another way"))?;
        let assistant_prefix = user_to_assistant.strip_prefix(user_suffix);
        let assistant_prefix =
            assistant_prefix.ok_or(Fault::Shape("the last user message in another way"))?;

        let alone = self.render(&[("user", USER)], false, false)?;
        let (before, _) = cut(&alone, USER)?;
        let before = before.strip_suffix(user_prefix);
        let before = before.ok_or(Fault::Shape("a user message without a system message in another way"))?;
        let both = start.strip_prefix(bos).zip(before.strip_prefix(bos));
        let (prompt_prefix, system_prefix, default_block) = match both {
            Some((system_prefix, before)) => (bos, system_prefix, before),
            None => ("", start, before),
        };
        let default = if default_block.is_empty() {
            ""
        } else {
            let inner = default_block.strip_prefix(system_prefix);
            let inner = inner.and_then(|inner| inner.strip_suffix(system_suffix));
            inner.filter(|inner| !inner.is_empty()).ok_or(Fault::Shape("a system block of its own"))?
        };
        let frame = |prefix: &str, suffix: &str| json!({ "prefix": prefix, "suffix": suffix });
        let mut layout = json!({
            "model_path": model_path,
            "roles": {
                "system": frame(system_prefix, system_suffix),
                "user": frame(user_prefix, user_suffix),
                "assistant": frame(assistant_prefix, assistant_suffix),
            },
            "content_types": {},
            "generation_prompt": self.generation_prompt(&alone, false)?,
            "default_system_prompt": default,
            "prompt_prefix": prompt_prefix,
            "trim_content": self.trims()?,
        });
        let thinking = self.generation_prompt(&alone, true)?;
        if layout["generation_prompt"] != thinking {
            layout["generation_prompt_thinking"] = thinking.into();
        }
        Ok(layout)
    }

    fn generation_prompt(&self, without: &str, thinking: bool) -> Result<String, Fault> {
        let with = self.render(&[("user", USER)], true, thinking)?;
        let prompt = with.strip_prefix(without).ok_or(Fault::Shape("no generation prompt at the end"))?;
        Ok(prompt.to_owned())
    }

    /// Whether spaces around a content go.
    fn trims(&self) -> Result<bool, Fault> {
        let spaced = format!(" {USER} ");
        Ok(!self.render(&[("user", &spaced)], false, false)?.contains(&spaced))
    }
}

/// The text before and behind the only place of a content.
fn cut<'t>(text: &'t str, content: &str) -> Result<(&'t str, &'t str), Fault> {
    match text.split_once(content) {
        Some((before, behind)) if !behind.contains(content) => Ok((before, behind)),
        _ => Err(Fault::Shape("a message not exactly once")),
    }
}

/// Both must write the same for usual conversations.
fn compare(template: &Probe, layout: &Probe) -> Result<(), String> {
    let conversations: [&[(&str, &str)]; 6] = [
        &[("user", "Hello")],
        &[("system", "Be brief."), ("user", "Hello")],
        &[("user", "a"), ("assistant", "b"), ("user", "c")],
        &[
            ("system", "s"),
            ("user", "a"),
            ("assistant", "b"),
            ("user", "c"),
            ("assistant", "d"),
            ("user", "e"),
        ],
        &[("system", " s \n"), ("user", "\n a\n\nb "), ("assistant", "b"), ("user", " c")],
        &[("user", "")],
    ];
    for turns in conversations {
        for (add_generation_prompt, thinking) in [(true, false), (true, true), (false, false)] {
            let render =
                |probe: &Probe| probe.render(turns, add_generation_prompt, thinking).map_err(Fault::text);
            let (wanted, found) = (render(template)?, render(layout)?);
            if wanted != found {
                return Err(format!(
                    "for {turns:?} the template writes {wanted:?}, frames would write {found:?}"
                ));
            }
        }
    }
    Ok(())
}
