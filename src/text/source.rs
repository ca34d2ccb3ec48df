//! Where a checkpoint keeps its chat template, and which one counts: as transformers 4.57 has it.
//!
//! 1. chat_template.jinja, with named ones in additional_chat_templates/; where any of these is there,
//! 2. tokenizer_config.json is not asked: a text, or several by name, of which "default" counts, and with tools
//!    "tool_use" where it is there;
//! 3. chat_template.json, which older processors wrote, where the tokenizer has none.

use std::collections::BTreeMap;

use serde_json::Value;

use super::error::TextError;

const CONFIG_FILE: &str = "tokenizer_config.json";
const JINJA_FILE: &str = "chat_template.jinja";
const NAMED_DIR: &str = "additional_chat_templates";
const PROCESSOR_FILE: &str = "chat_template.json";
/// The name of the template that counts where there are several.
const DEFAULT: &str = "default";
/// The named tokens that templates see as variables, as transformers gives them.
const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What a template may ask for besides the messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateVariables {
    /// Names and texts of the named tokens; a token without an entry is undefined in the template.
    pub named_tokens: Vec<(String, String)>,
}

impl TemplateVariables {
    pub fn token(&self, name: &str) -> Option<&str> {
        self.named_tokens.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str())
    }
}

/// The files of a checkpoint that may hold a template.
#[derive(Debug, Clone, Copy, Default)]
pub struct TemplateFiles<'a> {
    /// tokenizer_config.json
    pub tokenizer_config: Option<&'a [u8]>,
    /// chat_template.jinja
    pub jinja: Option<&'a str>,
    /// Names and texts of additional_chat_templates/NAME.jinja.
    pub named: &'a [(String, String)],
    /// chat_template.json
    pub processor: Option<&'a [u8]>,
}

impl TemplateFiles<'_> {
    /// The name of the template that counts where a request has tools.
    pub const TOOL_USE: &'static str = "tool_use";
}

/// A checkpoint's chat template, if it has one, and its variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateSource {
    pub jinja: Option<String>,
    /// That of requests with tools; none: the same.
    pub tool_use: Option<String>,
    pub variables: TemplateVariables,
    /// The file that the template stands in.
    pub place: Option<&'static str>,
    /// Templates that are not used, each with its place, for people.
    pub others: Vec<String>,
}

/// The templates of one place, by name.
struct Found {
    place: &'static str,
    templates: BTreeMap<String, String>,
}

/// Finds the template that counts.
///
/// # Errors
/// `Damaged` for a file that is not JSON, `Unsupported` for named templates without a default.
pub fn template_source(files: &TemplateFiles) -> Result<TemplateSource, TextError> {
    let config = json(files.tokenizer_config, CONFIG_FILE)?;
    let processor = json(files.processor, PROCESSOR_FILE)?;
    let keys = [of_key(&config, CONFIG_FILE), of_key(&processor, PROCESSOR_FILE)];
    let has_any = |found: &Found| !found.templates.is_empty();
    let mut places = [Ok(of_files(files))].into_iter().chain(keys);
    let mut places = places.by_ref().filter(|found| found.as_ref().map_or(true, has_any));
    let named = |name: &str| Some((name.to_owned(), token_text(config.get(name)?)?));
    let named_tokens = NAMED_TOKENS.into_iter().filter_map(named).collect();
    let mut source = TemplateSource { variables: TemplateVariables { named_tokens }, ..Default::default() };
    let Some(mut first) = places.next().transpose()? else { return Ok(source) };
    let Some(jinja) = first.templates.remove(DEFAULT) else { return Err(first.without_default()) };
    source.tool_use = first.templates.remove(TemplateFiles::TOOL_USE);
    source.others.extend(files.jinja.filter(|_| has_named_default(files)).map(|_| JINJA_FILE.to_owned()));
    source.others.extend(first.names());
    let differs = |found: &Found| found.templates.get(DEFAULT) != Some(&jinja) || found.templates.len() > 1;
    // A place that is not asked may hold anything.
    source.others.extend(places.flatten().filter(differs).flat_map(|found| found.names()));
    (source.jinja, source.place) = (Some(jinja), Some(first.place));
    Ok(source)
}

/// chat_template.jinja and the named ones beside it.
fn of_files(files: &TemplateFiles) -> Found {
    let mut templates: BTreeMap<String, String> = files.named.iter().cloned().collect();
    // A named one of this name takes its place in transformers too.
    if let Some(jinja) = files.jinja {
        templates.entry(DEFAULT.to_owned()).or_insert_with(|| jinja.to_owned());
    }
    let place = if files.jinja.is_some() && !has_named_default(files) { JINJA_FILE } else { NAMED_DIR };
    Found { place, templates }
}

/// Then chat_template.jinja is not used.
fn has_named_default(files: &TemplateFiles) -> bool {
    files.named.iter().any(|(name, _)| name == DEFAULT)
}

/// `chat_template` of a file: one text, a list of {name, template}, or an object of them.
fn of_key(file: &Value, place: &'static str) -> Result<Found, TextError> {
    let entry = |entry: &Value| {
        let (name, template) = (entry.get("name")?.as_str()?, entry.get("template")?.as_str()?);
        Some((name.to_owned(), template.to_owned()))
    };
    let pair = |(name, template): (&String, &Value)| Some((name.clone(), template.as_str()?.to_owned()));
    let templates = match file.get("chat_template") {
        None | Some(Value::Null) => Some(BTreeMap::new()),
        Some(Value::String(source)) => Some(BTreeMap::from([(DEFAULT.to_owned(), source.clone())])),
        Some(Value::Array(named)) => named.iter().map(entry).collect(),
        Some(Value::Object(named)) => named.iter().map(pair).collect(),
        Some(_) => None,
    };
    let found = || format!("{:.40}", file.get("chat_template").unwrap_or(&Value::Null).to_string());
    templates.map(|templates| Found { place, templates }).ok_or_else(|| unsupported(place, found()))
}

impl Found {
    /// Each template with its place.
    fn names(&self) -> Vec<String> {
        let of_name = |name: &String| match (self.place, name.as_str()) {
            (JINJA_FILE, DEFAULT) => JINJA_FILE.to_owned(),
            (JINJA_FILE | NAMED_DIR, name) => format!("{NAMED_DIR}/{name}.jinja"),
            (place, DEFAULT) => place.to_owned(),
            (place, name) => format!("{name:?} of {place}"),
        };
        self.templates.keys().map(of_name).collect()
    }

    fn without_default(&self) -> TextError {
        let names: Vec<&str> = self.templates.keys().map(String::as_str).collect();
        unsupported(self.place, format!("with no default among the names {}", names.join(", ")))
    }
}

fn json(bytes: Option<&[u8]>, file: &'static str) -> Result<Value, TextError> {
    let parse = |bytes| serde_json::from_slice(bytes);
    let value = bytes.map(parse).transpose();
    Ok(value.map_err(|error| TextError::Damaged { file, why: error.to_string() })?.unwrap_or_default())
}

fn unsupported(file: &'static str, found: String) -> TextError {
    let supported = "one text, or several by name with a \"default\" among them";
    TextError::Unsupported { file, what: "chat_template", found, supported }
}

/// A token is a string, or an object with its text as `content`.
fn token_text(token: &Value) -> Option<String> {
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_tokens_are_strings_or_objects() {
        let config =
            br#"{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null}"#;
        let files = TemplateFiles { tokenizer_config: Some(config), ..TemplateFiles::default() };
        let variables = template_source(&files).unwrap().variables;
        assert_eq!(variables.token("bos_token"), Some("<s>"));
        assert_eq!(variables.token("eos_token"), Some("</s>"));
        assert_eq!(variables.token("pad_token"), None);
        assert_eq!(template_source(&TemplateFiles::default()).unwrap(), TemplateSource::default());
    }

    #[test]
    fn damaged_places_are_named() {
        let text = |files: TemplateFiles| template_source(&files).unwrap_err().to_string();
        let none = TemplateFiles::default();
        assert!(text(TemplateFiles { tokenizer_config: Some(b"{"), ..none }).contains(CONFIG_FILE));
        assert!(text(TemplateFiles { processor: Some(b"["), ..none }).contains(PROCESSOR_FILE));
        let number = br#"{"chat_template": 3}"#;
        assert!(text(TemplateFiles { tokenizer_config: Some(number), ..none }).contains("chat_template 3"));
    }
}
