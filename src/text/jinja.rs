//! Chat templates in Jinja, with the environment that transformers gives them.
//!
//! A template comes with a checkpoint and may be hostile: fuel bounds the steps and the bytes of one rendering.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::Value as Json;

use super::calendar::strftime;
use super::coloured::coloured_environment;
use super::error::TextError;
use super::filters::add_filters;
use super::message::ChatMessage;
use super::methods::{method, print};
use super::prompt::{MAX_PROMPT_BYTES, Prompt};
use super::remainder;
use super::render::{RenderOptions, Rendered};
use super::scan::{Literal, literals, rewrite, tags};
use super::source::TemplateVariables;
use super::special::{Colours, SpecialTokens};

const NAME: &str = "chat_template";
/// Steps and units of 64 bytes that one rendering may use. 64 long messages need under a tenth of it.
const FUEL: u64 = 400_000;
/// The same with colours, which have up to four bytes for one.
const COLOURED_FUEL: u64 = 5 * FUEL;
/// Stack of a compilation and of a rendering: enough for what scan.rs lets through, and
/// to drop a value nested as deeply as the fuel allows. Untouched pages cost nothing.
const STACK_BYTES: usize = 64 << 20;
/// Roles of templates that do not compare them with anything.
const ROLES: [&str; 5] = ["system", "user", "assistant", "tool", "developer"];
/// A message that no conversation holds: it finds where the first user's block begins.
const PROBE: &str = "jetspool-probe-3f1c";

/// A compiled template.
#[derive(Debug)]
pub(super) struct JinjaTemplate {
    environment: Environment<'static>,
    variables: TemplateVariables,
    /// Plain Jinja, with calls for the operator `%`.
    source: String,
    literals: Vec<Literal>,
}

/// What the template gave to `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// Which literals are coloured before the second rendering: those of the template that occur in contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Painting {
    Nothing,
    /// What cannot be a part of a special token, or is looked for with `in`; no words, which may be keys.
    Marks,
    /// Words too.
    All,
}

impl JinjaTemplate {
    /// Compiles on a thread of its own: the parser recurses.
    ///
    /// # Errors
    /// `TemplateSource`.
    pub fn compile(source: &str, variables: TemplateVariables) -> Result<Self, TextError> {
        let wrong = |why: String| TextError::TemplateSource { why };
        let source = plain_syntax(source);
        let source = remainder::rewrite(&source, &tags(&source).map_err(wrong)?);
        let literals = literals(&source).map_err(wrong)?;
        let environment = with_stack(wrong, || {
            let mut environment = environment()?;
            environment.add_template_owned(NAME, source.clone()).map_err(|error| wrong(error.to_string()))?;
            Ok(environment)
        })?;
        Ok(Self { environment, variables, source, literals })
    }

    /// Renders on a thread of its own: values that a hostile template nests deeply are dropped by recursion.
    ///
    /// # Errors
    /// `Template`, `TemplateRun`, `TooLong`, `NoColours`, `Unclear`.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        special: &SpecialTokens,
        options: &RenderOptions,
    ) -> Result<Rendered, TextError> {
        with_stack(|why| TextError::TemplateRun { why }, || self.render_here(messages, special, options))
    }

    fn render_here(
        &self,
        messages: &[ChatMessage],
        special: &SpecialTokens,
        options: &RenderOptions,
    ) -> Result<Rendered, TextError> {
        let text = self.run(&self.environment, messages, options)?;
        let system_prompt = self.system_prompt(messages, options, &text).unwrap_or_default();
        let prompt = self.prompt(text, messages, special, options)?;
        Ok(Rendered { system_prompt, prompt })
    }

    /// The prompt with what of it is the template's own (see special.rs).
    fn prompt(
        &self,
        text: String,
        messages: &[ChatMessage],
        special: &SpecialTokens,
        options: &RenderOptions,
    ) -> Result<Prompt, TextError> {
        let own =
            self.variables.named_tokens.iter().map(|(_, text)| text.as_str()).chain([self.source.as_str()]);
        let fields = messages.iter().flat_map(|message| &message.fields);
        let values = fields.map(|(_, value)| value).chain(options.tools);
        let mut said = Vec::new();
        values.for_each(|value| strings(value, &mut said));
        let words = messages.iter().flat_map(|message| [message.role.as_str(), &message.content]);
        let colours = special.colours(words.chain(said.iter().copied()).chain(own))?;
        // Templates branch on words of tools, such as the types of arguments: only what may be taken for a special
        // token is coloured.
        let paint = |text: &str| match !is_word(text) && special.may_touch(text) {
            true => colours.paint(text).into_owned(),
            false => text.to_owned(),
        };
        let coloured: Vec<ChatMessage> = messages
            .iter()
            .map(|ChatMessage { role, content, fields }| ChatMessage {
                role: if self.knows_role(role) { role.clone() } else { colours.paint(role).into_owned() },
                content: colours.paint(content).into_owned(),
                fields: fields.iter().map(|(name, value)| (name.clone(), painted(value, &paint))).collect(),
            })
            .collect();
        let tools = options.tools.map(|tools| painted(tools, &paint));
        if tools.as_ref() == options.tools && coloured == messages {
            return Prompt::trusted(text);
        }
        let options = &RenderOptions { tools: tools.as_ref(), ..*options };
        let mut environment = coloured_environment(&self.environment, &colours);
        environment.set_fuel(Some(COLOURED_FUEL));
        for painting in [Painting::Nothing, Painting::Marks, Painting::All] {
            if painting != Painting::Nothing {
                let source = self.painted_source(painting, messages, special, &colours);
                // Compiled once already, with other characters in its literals.
                environment.add_template_owned(NAME, source).map_err(text_error)?;
            }
            if let Ok(coloured) = self.run(&environment, &coloured, options)
                && colours.stripped(&coloured).eq(text.chars())
            {
                return Prompt::from_coloured(&coloured, &colours);
            }
        }
        Err(TextError::Unclear)
    }

    /// Roles are as trusted as the template's own text if they are words that it names, or that all know:
    /// `'<|' ~ role ~ '|>'` is a token.
    fn knows_role(&self, role: &str) -> bool {
        let is_named = || is_word(role) && self.literals.iter().any(|literal| literal.value == role);
        ROLES.contains(&role) || is_named()
    }

    fn painted_source(
        &self,
        painting: Painting,
        messages: &[ChatMessage],
        special: &SpecialTokens,
        colours: &Colours,
    ) -> String {
        let is_role =
            |text: &str| ROLES.contains(&text) || messages.iter().any(|message| message.role == text);
        let is_key = |text: &str| ["role", "content"].contains(&text) || is_role(text);
        let is_painted = |literal: &Literal| {
            let value = literal.value.as_str();
            let occurs = || messages.iter().any(|message| message.content.contains(value));
            let is_skipped = if painting == Painting::All { is_key(value) } else { is_word(value) };
            !is_skipped && occurs() && (literal.is_sought || is_word(value) || !special.may_touch(value))
        };
        rewrite(&self.source, &self.literals, is_painted, |character| colours.paint_character(character))
    }

    /// The start of `text` that is the system prompt's block: what the template writes for the leading system messages
    /// alone, or, without any, what it writes of its own before the first user's block. None where the template has no
    /// block for it (it puts the system prompt into the user's message, or writes only the first token).
    fn system_prompt(&self, messages: &[ChatMessage], options: &RenderOptions, text: &str) -> Option<String> {
        let options = RenderOptions { add_generation_prompt: false, ..*options };
        let n_system = messages.iter().take_while(|message| message.role == "system").count();
        let block = match n_system {
            0 => self.default_system_prompt(&options)?,
            _ => self.run(&self.environment, &messages[..n_system], &options).ok()?,
        };
        let is_block = block.trim() != self.variables.token("bos_token").unwrap_or_default();
        (is_block && text.starts_with(&block)).then_some(block)
    }

    /// The user's header is what stands between a system block and the user's text; without a system message, the part
    /// before that header is the template's own.
    fn default_system_prompt(&self, options: &RenderOptions) -> Option<String> {
        let run = |messages: &[ChatMessage]| self.run(&self.environment, messages, options).ok();
        let both = [ChatMessage::new("system", "."), ChatMessage::new("user", PROBE)];
        let (system_alone, user_alone) = (run(&both[..1])?, run(&both[1..])?);
        let header = run(&both)?.strip_prefix(&system_alone)?.split(PROBE).next()?.to_owned();
        let before = user_alone.split(PROBE).next()?;
        before.strip_suffix(header.as_str()).map(str::to_owned)
    }

    fn run(
        &self,
        environment: &Environment,
        messages: &[ChatMessage],
        options: &RenderOptions,
    ) -> Result<String, TextError> {
        let messages: Vec<Value> = messages.iter().map(message).collect();
        let mut variables: BTreeMap<String, Value> = BTreeMap::from([
            ("messages".to_owned(), Value::from(messages)),
            ("add_generation_prompt".to_owned(), options.add_generation_prompt.into()),
            ("tools".to_owned(), options.tools.map_or_else(|| ().into(), from_json)),
            ("documents".to_owned(), ().into()),
        ]);
        let local_time = options.local_time;
        let strftime_now = move |format: &str| strftime(format, local_time);
        variables.insert("strftime_now".to_owned(), Value::from_function(strftime_now));
        if let Some(enable_thinking) = options.enable_thinking {
            variables.insert("enable_thinking".to_owned(), enable_thinking.into());
        }
        let named = self.variables.named_tokens.iter().cloned().map(|(name, text)| (name, Value::from(text)));
        variables.extend(named);
        let template = environment.get_template(NAME).map_err(text_error)?;
        let text = template.render(Value::from(variables)).map_err(text_error)?;
        // Colours make a text longer, by no more than this.
        if text.len() > 4 * MAX_PROMPT_BYTES {
            return Err(TextError::TooLong { found: text.len(), limit: MAX_PROMPT_BYTES });
        }
        Ok(text)
    }
}

/// A message as templates see it.
fn message(said: &ChatMessage) -> Value {
    let own = [("role", &said.role), ("content", &said.content)];
    let own = own.map(|(name, text)| (name.to_owned(), Value::from(text.as_str())));
    let fields = said.fields.iter().map(|(name, value)| (name.clone(), from_json(value)));
    Value::from_pairs(own.into_iter().chain(fields))
}

fn from_json(value: &Json) -> Value {
    match value {
        Json::Null => ().into(),
        Json::Bool(truth) => (*truth).into(),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => number.as_f64().into(),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(values) => values.iter().map(from_json).collect::<Vec<Value>>().into(),
        Json::Object(values) => {
            Value::from_pairs(values.iter().map(|(name, value)| (name.clone(), from_json(value))))
        }
    }
}

/// All texts of a value but its keys.
fn strings<'v>(value: &'v Json, found: &mut Vec<&'v str>) {
    match value {
        Json::String(text) => found.push(text),
        Json::Array(values) => values.iter().for_each(|value| strings(value, found)),
        Json::Object(values) => values.values().for_each(|value| strings(value, found)),
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

/// The value with its texts as `paint` makes them.
fn painted(value: &Json, paint: &impl Fn(&str) -> String) -> Json {
    match value {
        Json::String(text) => paint(text).into(),
        Json::Array(values) => values.iter().map(|value| painted(value, paint)).collect(),
        Json::Object(values) => {
            let values = values.iter().map(|(name, value)| (name.clone(), painted(value, paint)));
            Json::Object(values.collect())
        }
        other => other.clone(),
    }
}

fn is_word(text: &str) -> bool {
    text.chars().all(|character| character.is_alphanumeric() || character == '_')
}

/// Runs on a stack that is large enough for what a template can nest.
fn with_stack<T: Send>(
    failed: impl Fn(String) -> TextError,
    work: impl FnOnce() -> Result<T, TextError> + Send,
) -> Result<T, TextError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat-template".to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn_scoped(scope, work);
        let thread = thread.map_err(|error| failed(format!("no thread for it ({error})")))?;
        thread.join().unwrap_or_else(|_| Err(failed("its thread broke".to_owned())))
    })
}

fn environment() -> Result<Environment<'static>, TextError> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(text_error)?);
    environment.set_debug(false);
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(print);
    environment.set_unknown_method_callback(method);
    add_filters(&mut environment);
    environment
        .add_function(remainder::NAME, |left: &Value, right: &Value| remainder::remainder(left, right));
    // In Jinja2 whatever has a length and elements; the undefined value has both.
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map)
    });
    environment.add_test("iterable", |value: &Value| {
        value.kind() != ValueKind::None && (value.is_undefined() || value.try_iter().is_ok())
    });
    environment.add_function("cycler", |items: Rest<Value>| minijinja_contrib::globals::cycler(items.0));
    environment.add_function("dict", dict);
    environment.add_function("namespace", |pairs: Option<Value>, named: Kwargs| {
        minijinja::functions::namespace(Some(ValueOrKwargs::from(dict(pairs, named)?)))
    });
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    Ok(environment)
}

/// A map of pairs or of another map, with names.
fn dict(pairs: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let mut all: Vec<(Value, Value)> = Vec::new();
    match pairs {
        Some(map) if map.kind() == ValueKind::Map => {
            for key in map.try_iter()? {
                all.push((key.clone(), map.get_item(&key)?));
            }
        }
        Some(pairs) => {
            for pair in pairs.try_iter()? {
                all.push((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?));
            }
        }
        None => {}
    }
    for name in named.args() {
        all.push((name.into(), named.get(name)?));
    }
    Ok(Value::from_pairs(all))
}

/// The source as plain Jinja: line ends become `\n`, as Jinja reads them, and the tags of a `generation` block,
/// which only transformers knows, become those of an `if` that is always true, with their white space marks.
fn plain_syntax(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut text = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(position) = rest.find("{%") {
        let (before, tag) = rest.split_at(position + 2);
        text.push_str(before);
        rest = tag;
        let Some((inside, behind)) = tag.split_once("%}") else { break };
        let word = match inside.trim_matches(['-', '+']).trim() {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => continue,
        };
        let is_mark = |mark: &char| ['-', '+'].contains(mark);
        text.extend(inside.chars().next().filter(is_mark));
        text.extend([" ", word, " "]);
        text.extend(inside.chars().next_back().filter(is_mark));
        text.push_str("%}");
        rest = behind;
    }
    text + rest
}

fn text_error(error: Error) -> TextError {
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return TextError::Template { message: message.clone() };
        }
        source = cause.source();
    }
    TextError::TemplateRun { why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, content: &str) -> Result<String, TextError> {
        let template = JinjaTemplate::compile(source, TemplateVariables::default())?;
        let rendered = template.render(
            &[ChatMessage::new("user", content)],
            &SpecialTokens::default(),
            &RenderOptions::default(),
        )?;
        Ok(rendered.prompt.text().to_owned())
    }

    #[test]
    fn generation_tags_are_transparent() {
        struct Case {
            source: &'static str,
            text: &'static str,
        }
        let cases = [
            Case { source: "a {% generation %}b{% endgeneration %} c", text: "a b c" },
            Case { source: "a {%- generation -%} b {%- endgeneration -%} c", text: "abc" },
            Case { source: "{{ '{%' }}{%generation%}b{%endgeneration%}", text: "{%b" },
            Case { source: "{% raw %}{% x %}{% endraw %}", text: "{% x %}" },
            Case { source: "{{ '%}' }}", text: "%}" },
        ];
        for Case { source, text } in cases {
            assert_eq!(render(source, "").as_deref(), Ok(text), "{source}");
        }
    }

    #[test]
    fn broken_templates_do_not_compile() {
        for source in ["{{", "{% if %}", "{% generation %}", "{{ messages | nosuchfilter( }}", "{%"] {
            let error = render(source, "").unwrap_err();
            assert!(matches!(error, TextError::TemplateSource { .. }), "{source}: {error}");
        }
        let nested = format!("{}1{}", "{{ (".repeat(5000), ") }}".repeat(5000));
        assert!(render(&nested, "").is_err());
        assert!(render(&format!("{{{{ {}1{} }}}}", "[".repeat(5000), "]".repeat(5000)), "").is_err());
    }

    #[test]
    fn the_deepest_templates_have_a_stack() {
        let chains = [
            "~x",
            "%x",
            "|e",
            ".x",
            "[0]",
            " if x else x",
            " and x",
            "**x",
            "()",
            "+x",
            " == x",
            " is odd",
            ":x",
        ];
        let nests = ["-", "not ", "(", "[", "{1:", "x if ", "f("];
        for part in chains {
            for n in [100, 400, 900, 1900] {
                let _ = render(&format!("{{{{ x{} }}}}", part.repeat(n)), "");
                let _ = render(&format!("{{% if x{} %}}{{% endif %}}", part.repeat(n)), "");
            }
        }
        for part in nests {
            for n in [100, 140, 400, 1900, 23_000] {
                let _ = render(&format!("{{{{ {}x }}}}", part.repeat(n)), "");
                let _ = render(&format!("{{% set y = {}x %}}", part.repeat(n)), "");
            }
        }
        let blocks = ["{% if x %}", "{% for y in x %}", "{% set y %}", "{% filter e %}", "{% macro f() %}"];
        for block in blocks {
            let end = block.split(' ').nth(1).unwrap();
            for n in [100, 190, 1900] {
                let _ = render(&format!("{}{}", block.repeat(n), format!("{{% end{end} %}}").repeat(n)), "");
            }
        }
        for n in [190, 1900] {
            let _ = render(&format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}".repeat(n)), "");
        }
    }

    #[test]
    fn hostile_templates_end() {
        let loops = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
        let doubling = "{% set ns = namespace(x='ab') %}{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
        let nesting =
            "{% set ns = namespace(x=[]) %}{% for a in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}x";
        let shown = "{% set ns = namespace(x=[]) %}{% for a in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}";
        let recursion = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
        let format = "{{ '%999999999d' | format(1) }}";
        let method = "{{ '{:999999999}'.format(1) }}";
        let named_format = "{{ '{a:>099999999}'.format(a=1) }}";
        let nested_format = "{{ '{:{}}'.format(1, 99999999) }}";
        let padded = "{{ 'x' | indent(99999999, true) }}";
        let percent = "{{ '%999999999d' % 1 }}";
        let star = "{{ '%*d' % (999999999, 1) }}";
        let digits = "{{ '%.999999999f' % 1 }}";
        let tabs = "{{ ('\t' * 99999).expandtabs(1000) }}";
        let batch = "{{ [1] | batch(99999999, 'x') | list }}";
        let slice = "{{ [1] | slice(99999999) | list }}";
        let replace = "{% set x = 'x' * 99999 %}{{ x.replace('x', x) }}";
        let shared = "{% set ns = namespace(x=[1]) %}{% for a in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
        let (shared_json, shared_text) =
            (format!("{shared}{{{{ ns.x | tojson }}}}"), format!("{shared}{{{{ ns.x }}}}"));
        let times = "{{ 'abc' * 999999999999 }}";
        let indent = "{{ [1, [2]] | tojson(indent=999999999) }}";
        for source in [
            loops,
            doubling,
            nesting,
            shown,
            recursion,
            format,
            method,
            named_format,
            nested_format,
            padded,
            percent,
            star,
            digits,
            tabs,
            &shared_json,
            &shared_text,
            batch,
            slice,
            replace,
            times,
            indent,
        ] {
            let error = render(source, "").unwrap_err();
            assert!(matches!(error, TextError::TemplateRun { .. }), "{source}: {error}");
        }
    }

    #[test]
    fn long_conversations_have_fuel() {
        let source = "{% for m in messages %}{% for n in range(64) %}{% set x = m.content.split('</think>')[-1] | trim %}\
                      {% endfor %}{{ m.content | trim }}{% endfor %}";
        let content = "long word ".repeat(13_000);
        assert_eq!(render(source, &content).as_deref(), Ok(content.trim()));
    }
}
