//! Calls of functions in an answer's text. Models write them in the form that their template taught them:
//!
//! | form         | text                                                                                      |
//! |--------------|-------------------------------------------------------------------------------------------|
//! | Qwen, Hermes | `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, several, behind any text          |
//! | Mistral      | `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]` or `[TOOL_CALLS]NAME[ARGS]{…}`           |
//! | Llama        | `<\|python_tag\|>{"name": …, "parameters": {…}}`, several with `;` between them           |
//!
//! Words that are special tokens are missing in the text. What is not wholly a call of a function that was offered stays
//! a text: nothing is guessed.

use crate::spool::wire::json::Value;

/// How calls are read from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    /// Functions that may be called.
    pub names: Vec<String>,
    pub form: Form,
    /// Only the first call counts.
    pub is_single: bool,
}

/// Where the calls stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// Wherever the model has learned to write them.
    Free,
    /// The same, in the forms that a guide can bind to a schema.
    Strict,
    /// The answer is an array of `{"name": …, "parameters": {…}}`.
    Array,
    /// The answer is the arguments of this function.
    Arguments(String),
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub name: String,
    /// JSON text of an object.
    pub arguments: String,
}

/// The text before the calls, and the calls; none if the answer calls nothing.
pub fn read_calls<'t>(text: &'t str, wanted: &Calls) -> Option<(&'t str, Vec<Call>)> {
    let known = |call: Call| wanted.names.contains(&call.name).then_some(call);
    let (content, calls) = match &wanted.form {
        Form::Arguments(name) => {
            let arguments = text.trim();
            let call = Call { name: name.clone(), arguments: arguments.to_owned() };
            ("", is_object(arguments).then(|| vec![call])?)
        }
        Form::Array => ("", array(text)?),
        Form::Strict => hermes(text).or_else(|| Some(("", array(text)?))).or_else(|| llama(text))?,
        Form::Free => hermes(text).or_else(|| mistral(text, &wanted.names)).or_else(|| llama(text))?,
    };
    let mut calls = calls.into_iter().map(known).collect::<Option<Vec<Call>>>()?;
    if wanted.is_single {
        calls.truncate(1);
    }
    (!calls.is_empty()).then_some((content, calls))
}

fn hermes(text: &str) -> Option<(&str, Vec<Call>)> {
    const BEGIN: &str = "<tool_call>";
    const END: &str = "</tool_call>";
    let (content, mut rest) = text.split_once(BEGIN)?;
    let mut calls = Vec::new();
    loop {
        // The last one may miss its end: it is where some models stop.
        let (call, behind) = rest.split_once(END).unwrap_or((rest, ""));
        calls.push(call_of(Value::parse(call).ok()?)?);
        match behind.trim_start() {
            "" => return Some((content.trim_end(), calls)),
            behind => rest = behind.strip_prefix(BEGIN)?,
        }
    }
}

fn mistral<'t>(text: &'t str, names: &[String]) -> Option<(&'t str, Vec<Call>)> {
    const BEGIN: &str = "[TOOL_CALLS]";
    let (content, rest) = text.split_once(BEGIN).unwrap_or(("", text));
    if let Some(calls) = array(rest) {
        return Some((content.trim_end(), calls));
    }
    let mut calls = Vec::new();
    for part in rest.split(BEGIN) {
        let part = part.trim();
        let name =
            names.iter().filter(|name| part.starts_with(name.as_str())).max_by_key(|name| name.len())?;
        let arguments = part[name.len()..].trim_start();
        let arguments = arguments.strip_prefix("[ARGS]").unwrap_or(arguments).trim();
        let call = Call { name: name.clone(), arguments: arguments.to_owned() };
        calls.push(is_object(arguments).then_some(call)?);
    }
    Some((content.trim_end(), calls))
}

fn llama(text: &str) -> Option<(&str, Vec<Call>)> {
    let text = text.trim_start();
    let mut rest = text.strip_prefix("<|python_tag|>").unwrap_or(text);
    let mut calls = Vec::new();
    while !rest.trim().is_empty() {
        let (value, behind) = Value::first(rest)?;
        calls.push(call_of(Value::parse(value.text()).ok()?)?);
        rest = behind.trim_start().trim_start_matches(';');
    }
    Some(("", calls))
}

fn array(text: &str) -> Option<Vec<Call>> {
    let value = Value::parse(text).ok().filter(|value| value.is_array())?;
    value.elements().map(call_of).collect()
}

/// `{"name": …, "arguments" or "parameters": {…}}`; the arguments may be a text of JSON.
fn call_of(value: Value) -> Option<Call> {
    let name = value.get("name")?.string()?.into_owned();
    let arguments = value.get("arguments").or_else(|| value.get("parameters"))?;
    let arguments = if arguments.is_string() { arguments.string()? } else { arguments.text().into() };
    is_object(&arguments).then(|| Call { name, arguments: arguments.into_owned() })
}

fn is_object(text: &str) -> bool {
    Value::parse(text).is_ok_and(Value::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, form: Form) -> Option<(String, Vec<(String, String)>)> {
        let names = ["add", "add_all", "now"].map(str::to_owned).into();
        let (content, calls) = read_calls(text, &Calls { names, form, is_single: false })?;
        Some((content.to_owned(), calls.into_iter().map(|call| (call.name, call.arguments)).collect()))
    }

    #[test]
    fn each_familys_form_is_read() {
        struct Case {
            text: &'static str,
            content: &'static str,
            calls: &'static [(&'static str, &'static str)],
        }
        const ADD: (&str, &str) = ("add", r#"{"a": 1.50}"#);
        const NOW: (&str, &str) = ("now", "{}");
        let cases = [
            Case {
                text: "Let me see.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1.50}}\n</tool_call>",
                content: "Let me see.",
                calls: &[ADD],
            },
            Case {
                text: "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1.50}}</tool_call>\n<tool_call>{\"name\":\"now\",\"arguments\":{}}",
                content: "",
                calls: &[ADD, NOW],
            },
            Case {
                text: r#"[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1.50}}]"#,
                content: "",
                calls: &[ADD],
            },
            Case {
                text: r#"[{"name": "now", "arguments": {}}, {"name": "add", "arguments": "{\"a\": 1.50}"}]"#,
                content: "",
                calls: &[NOW, ADD],
            },
            Case {
                text: r#"[TOOL_CALLS]add_all[ARGS]{"a": [1]}[TOOL_CALLS]now{}"#,
                content: "",
                calls: &[("add_all", r#"{"a": [1]}"#), NOW],
            },
            Case {
                text: r#"<|python_tag|>{"name": "add", "parameters": {"a": 1.50}}; {"name": "now", "parameters": {}}"#,
                content: "",
                calls: &[ADD, NOW],
            },
            Case {
                text: "\n{\"type\": \"function\", \"name\": \"now\", \"parameters\": {}}",
                content: "",
                calls: &[NOW],
            },
        ];
        for Case { text, content, calls } in cases {
            let wanted = calls.iter().map(|(name, arguments)| ((*name).to_owned(), (*arguments).to_owned()));
            assert_eq!(read(text, Form::Free), Some((content.to_owned(), wanted.collect())), "{text}");
        }
    }

    #[test]
    fn what_is_no_call_stays_a_text() {
        for text in [
            "",
            "The sum is 3.",
            r#"{"a": 1}"#,
            r#"{"name": "rm", "parameters": {}}"#,
            r#"{"name": "add", "parameters": [1]}"#,
            r#"{"name": "add", "parameters": {}} is what I would call"#,
            r#"<tool_call>{"name": "add", "arguments": {</tool_call>"#,
            "<tool_call>add(1)</tool_call>",
            r#"<tool_call>{"name": "add", "arguments": {}}</tool_call> and then"#,
            "[]",
            "add {",
            "[TOOL_CALLS]rm{}",
        ] {
            assert_eq!(read(text, Form::Free), None, "{text}");
        }
        assert_eq!(read("[1]", Form::Array), None);
        assert_eq!(read("{", Form::Arguments("add".into())), None);
    }

    #[test]
    fn a_forced_call_is_all_of_the_answer() {
        let now = vec![("now".to_owned(), r#"{"zone": "UTC"}"#.to_owned())];
        let text = r#" {"zone": "UTC"} "#;
        assert_eq!(read(text, Form::Arguments("now".into())), Some((String::new(), now.clone())));
        let text = r#"[{"name": "now", "parameters": {"zone": "UTC"}}]"#;
        assert_eq!(read(text, Form::Array), Some((String::new(), now)));
    }
}
