//! Free text and calls of functions in one answer, where the model chooses (`tool_choice` auto) and a function is
//! `strict`: whatever would be read as a call (`spool/wire/openai/calls.rs`) has arguments that match its schema.

use serde_json::{Value, json};

use crate::spool::wire::CallableFunction;
use crate::text::Tokenizer;

/// How a model has learned to write calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallForm {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`, several, behind any text.
    Hermes,
    /// The token `[TOOL_CALLS]`, and an array.
    Mistral { begin: u32 },
    /// `{"name": …, "parameters": …}`, several with `;` between them; the token `<|python_tag|>` may come before.
    Llama { begin: u32 },
}

const UNKNOWN: &str = "a function is strict and tool_choice is auto, but the chat template teaches no form of calls that can \
                       be enforced (<tool_call>, [TOOL_CALLS] with an array, <|python_tag|>); set tool_choice to \
                       \"required\", or leave strict out";

impl CallForm {
    /// The form that the prompt teaches, or that the tokenizer has tokens for.
    ///
    /// # Errors
    /// Says what to do where there is none.
    pub fn find(prompt_text: &str, tokenizer: &Tokenizer) -> Result<Self, String> {
        let special =
            |name: &str| tokenizer.token_id(name).filter(|_| tokenizer.special_tokens().contains(name));
        if prompt_text.contains("<tool_call>") && special("<tool_call>").is_none() {
            return Ok(Self::Hermes);
        }
        // Newer models of Mistral write [TOOL_CALLS]NAME[ARGS]{…}: without its special tokens no text can be told from it.
        match (special("[TOOL_CALLS]").filter(|_| special("[ARGS]").is_none()), special("<|python_tag|>")) {
            (Some(begin), _) => Ok(Self::Mistral { begin }),
            (None, Some(begin)) => Ok(Self::Llama { begin }),
            (None, None) => Err(UNKNOWN.to_owned()),
        }
    }

    /// The grammar of an answer, as Lark.
    ///
    /// # Errors
    /// A schema that is no JSON.
    pub fn grammar(self, functions: &[CallableFunction]) -> Result<String, String> {
        let arguments = match self {
            Self::Hermes | Self::Mistral { .. } => "arguments",
            Self::Llama { .. } => "parameters",
        };
        let calls = functions.iter().map(|function| call_schema(function, arguments));
        let call = json!({ "anyOf": calls.collect::<Result<Vec<Value>, String>>()? });
        let rules = match self {
            Self::Hermes => format!(
                "start: plain | first call CLOSE (next call CLOSE)* SPACE\n\
                 first[lazy]: OPENING \"<tool_call>\"\n\
                 next[lazy]: SPACE \"<tool_call>\"\n\
                 call: SPACE json\n\
                 CLOSE: /\\s{{0,8}}<\\/tool_call>/\n\
                 json: %json {call}\n"
            ),
            Self::Mistral { begin } => {
                let calls = json!({ "type": "array", "items": call, "minItems": 1 });
                format!("start: plain | <[{begin}]> SPACE json\njson: %json {calls}\n")
            }
            Self::Llama { begin } => format!(
                "start: plain | <[{begin}]>? SPACE json (SEPARATOR json)*\n\
                 SEPARATOR: /\\s{{0,8}};\\s{{0,8}}/\n\
                 json: %json {call}\n"
            ),
        };
        Ok(format!(
            "%llguidance {{}}\n{rules}plain: PLAIN\n\
             SPACE: /\\s{{0,8}}/\n\
             OPENING: /\\s*([^\\s\\[{{](.|\\n)*)?/\n\
             PLAIN: /\\s*([^\\s\\[{{](.|\\n)*)?/ & ~/(.|\\n)*<tool_call>(.|\\n)*/\n"
        ))
    }
}

/// What a call of a function is: its name, and arguments that match its schema.
fn call_schema(function: &CallableFunction, arguments: &str) -> Result<Value, String> {
    let parameters: Value = match function.is_strict {
        true => serde_json::from_str(&function.parameters).map_err(|error| error.to_string())?,
        false => json!({ "type": "object" }),
    };
    let mut properties = serde_json::Map::new();
    properties.insert("name".to_owned(), json!({ "const": function.name }));
    properties.insert(arguments.to_owned(), parameters);
    Ok(json!({
        "type": "object",
        "properties": properties,
        "required": ["name", arguments],
        "additionalProperties": false,
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::answer::Guides;
    use crate::infer::Allowed;
    use crate::spool::wire::Guide;
    use crate::text::Prompt;

    /// A tokenizer of the family with these special tokens besides.
    fn tokenizer(family: &str, added: &[&str]) -> Tokenizer {
        let path = format!(
            "{}/tests/data/references/tokenizers/{family}/tokenizer.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let mut file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let tokens = file["added_tokens"].as_array_mut().unwrap();
        for (index, name) in added.iter().enumerate() {
            let mut token = tokens[0].clone();
            token["content"] = json!(name);
            token["id"] = json!(620 + index);
            tokens.push(token);
        }
        Tokenizer::parse(file.to_string().as_bytes()).unwrap()
    }

    fn functions() -> Vec<CallableFunction> {
        let parameters = json!({
            "type": "object",
            "properties": { "n": { "type": "integer" } },
            "required": ["n"],
            "additionalProperties": false,
        });
        let function = |name: &str, is_strict| CallableFunction {
            name: name.to_owned(),
            parameters: parameters.to_string(),
            is_strict,
        };
        vec![function("count", true), function("free", false)]
    }

    /// Whether an answer may be this text, and end there.
    fn is_allowed(guides: &Guides, tokenizer: &Tokenizer, prompt: &str, text: &str, end: u32) -> bool {
        let mut guide = guides.compile(&Guide::Calls(functions()), prompt, false).unwrap();
        let mut tokens = tokenizer.encode(&Prompt::trusted(text.to_owned()).unwrap()).unwrap();
        tokens.push(end);
        tokens.into_iter().all(|token| {
            let is_allowed = match guide.next() {
                Allowed::All => true,
                Allowed::Only(words) => words[token as usize / 32] >> (token % 32) & 1 == 1,
                Allowed::None => false,
            };
            guide.take(token);
            is_allowed
        })
    }

    #[test]
    fn what_is_read_as_a_strict_call_matches_its_schema() {
        struct Case {
            family: &'static str,
            special: &'static [&'static str],
            end: &'static str,
            prompt: &'static str,
            allowed: &'static [&'static str],
            refused: &'static [&'static str],
        }
        let cases = [
            Case {
                family: "qwen2",
                special: &[],
                end: "<|im_end|>",
                prompt: "Write <tool_call> and </tool_call>.",
                allowed: &[
                    "",
                    "It is three.",
                    " as { or [ say",
                    "Well.\n<tool_call>\n{\"name\": \"count\", \"arguments\": {\"n\": 3}}\n</tool_call>",
                    "<tool_call>{\"name\": \"free\", \"arguments\": {\"m\": [1]}}</tool_call>\n<tool_call>\n{\"name\": \
                     \"count\", \"arguments\": {\"n\": 3}}\n</tool_call>",
                ],
                refused: &[
                    "<tool_call>{\"name\": \"count\", \"arguments\": {\"m\": 3}}</tool_call>",
                    "<tool_call>{\"name\": \"other\", \"arguments\": {\"n\": 3}}</tool_call>",
                    "<tool_call>{\"name\": \"count\", \"arguments\": {\"n\": 3}}</tool_call> and then",
                    "{\"name\": \"count\", \"parameters\": {\"m\": 3}}",
                    "[{\"name\": \"count\", \"arguments\": {\"m\": 3}}]",
                    "a <tool_call> b",
                ],
            },
            Case {
                family: "mistral",
                special: &["[TOOL_CALLS]"],
                end: "</s>",
                prompt: "",
                allowed: &["Three.", "[TOOL_CALLS] [{\"name\": \"count\", \"arguments\": {\"n\": 3}}]"],
                refused: &[
                    "[TOOL_CALLS] [{\"name\": \"count\", \"arguments\": {\"n\": \"3\"}}]",
                    "[{\"name\": \"count\", \"arguments\": {\"n\": 3}}]",
                    "<tool_call>{\"name\": \"count\", \"arguments\": {\"m\": 3}}</tool_call>",
                ],
            },
            Case {
                family: "llama3",
                special: &["<|python_tag|>"],
                end: "<|eot_id|>",
                prompt: "",
                allowed: &[
                    "Three.",
                    "{\"name\": \"count\", \"parameters\": {\"n\": 3}}",
                    "<|python_tag|>{\"name\": \"count\", \"parameters\": {\"n\": 3}}; {\"name\": \"free\", \
                     \"parameters\": {}}",
                ],
                refused: &[
                    "{\"name\": \"count\", \"parameters\": {}}",
                    "{\"n\": 3}",
                    "{\"name\": \"count\", \"parameters\": {\"n\": 3}} it is",
                ],
            },
        ];
        for case in cases {
            let tokenizer = Arc::new(tokenizer(case.family, case.special));
            let end = tokenizer.token_id(case.end).unwrap();
            let guides = Guides::new(Arc::clone(&tokenizer), 640, [end].into());
            for (texts, wanted) in [(case.allowed, true), (case.refused, false)] {
                for text in texts {
                    let found = is_allowed(&guides, &tokenizer, case.prompt, text, end);
                    assert_eq!(found, wanted, "{}: {text}", case.family);
                }
            }
        }
    }

    #[test]
    fn a_form_that_is_not_known_is_said() {
        let tokenizer = Arc::new(tokenizer("mistral", &["[TOOL_CALLS]", "[ARGS]"]));
        let guides = Guides::new(Arc::clone(&tokenizer), 640, [2].into());
        let refused = guides.compile(&Guide::Calls(functions()), "", false).err().unwrap();
        assert!(refused.message.contains("tool_choice to \"required\""), "{refused}");
    }
}
