//! Where a checkpoint keeps its chat template: chat_template.jinja, or tokenizer_config.json.

use serde_json::Value;

use super::error::TextError;

const CONFIG_FILE: &str = "tokenizer_config.json";
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

/// A checkpoint's chat template, if it has one, and its variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateSource {
    pub jinja: Option<String>,
    pub variables: TemplateVariables,
}

/// Finds the template: the text of chat_template.jinja if given, else `chat_template` of tokenizer_config.json, which is
/// a string or a list of {name, template} of which "default" counts.
///
/// # Errors
/// `Damaged` for a file that is not JSON, `Unsupported` for named templates without a default.
pub fn template_source(
    tokenizer_config: Option<&[u8]>,
    chat_template_jinja: Option<&str>,
) -> Result<TemplateSource, TextError> {
    let config: Value = match tokenizer_config {
        Some(bytes) => serde_json::from_slice(bytes)
            .map_err(|error| TextError::Damaged { file: CONFIG_FILE, why: error.to_string() })?,
        None => Value::Null,
    };
    let jinja = match chat_template_jinja {
        Some(source) => Some(source.to_owned()),
        None => template_of(&config)?,
    };
    let named = |name: &str| Some((name.to_owned(), token_text(config.get(name)?)?));
    let named_tokens = NAMED_TOKENS.into_iter().filter_map(named).collect();
    Ok(TemplateSource { jinja, variables: TemplateVariables { named_tokens } })
}

fn template_of(config: &Value) -> Result<Option<String>, TextError> {
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(source)) => Ok(Some(source.clone())),
        Some(Value::Array(named)) => {
            let default =
                named.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"));
            let source = default.and_then(|entry| entry.get("template")).and_then(Value::as_str);
            let Some(source) = source else {
                let names: Vec<_> = named.iter().filter_map(|entry| entry.get("name")?.as_str()).collect();
                return Err(unsupported(format!("with the names {}", names.join(", "))));
            };
            Ok(Some(source.to_owned()))
        }
        Some(other) => Err(unsupported(format!("{other:.40}"))),
    }
}

fn unsupported(found: String) -> TextError {
    let supported = "a string, or a list of {name, template} with a \"default\"";
    TextError::Unsupported { file: CONFIG_FILE, what: "chat_template", found, supported }
}

/// A token is a string, or an object with its text as `content`.
fn token_text(token: &Value) -> Option<String> {
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_found_where_they_stand() {
        struct Case {
            config: &'static str,
            file: Option<&'static str>,
            jinja: Result<Option<&'static str>, ()>,
        }
        let list =
            r#"{"chat_template": [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]}"#;
        let cases = [
            Case { config: "{}", file: None, jinja: Ok(None) },
            Case { config: r#"{"chat_template": null}"#, file: None, jinja: Ok(None) },
            Case { config: r#"{"chat_template": "c"}"#, file: None, jinja: Ok(Some("c")) },
            Case { config: r#"{"chat_template": "c"}"#, file: Some("f"), jinja: Ok(Some("f")) },
            Case { config: list, file: None, jinja: Ok(Some("d")) },
            Case {
                config: r#"{"chat_template": [{"name": "tool", "template": "t"}]}"#,
                file: None,
                jinja: Err(()),
            },
            Case { config: r#"{"chat_template": 3}"#, file: None, jinja: Err(()) },
            Case { config: "{", file: None, jinja: Err(()) },
        ];
        for Case { config, file, jinja } in cases {
            let found =
                template_source(Some(config.as_bytes()), file).map(|source| source.jinja).map_err(|_| ());
            assert_eq!(found, jinja.map(|jinja| jinja.map(str::to_owned)), "{config}");
        }
    }

    #[test]
    fn named_tokens_are_strings_or_objects() {
        let config =
            br#"{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null}"#;
        let variables = template_source(Some(config), None).unwrap().variables;
        assert_eq!(variables.token("bos_token"), Some("<s>"));
        assert_eq!(variables.token("eos_token"), Some("</s>"));
        assert_eq!(variables.token("pad_token"), None);
        assert_eq!(template_source(None, None).unwrap(), TemplateSource::default());
    }
}
