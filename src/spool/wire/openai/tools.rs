//! `tools` and `tool_choice`: the functions that an answer may call, and whether it must.
//!
//! The template shows them to the model. A choice that leaves the model none becomes a guide: the answer is then the JSON
//! of the call itself, so that it holds with any model.

use std::fmt::Write;

use super::calls::{Calls, Form};
use crate::spool::wire::fault::Fault;
use crate::spool::wire::guide::{CallableFunction, Guide};
use crate::spool::wire::json::Value;
use crate::spool::wire::limits;
use crate::spool::wire::object::{At, Field, Object};

/// What was read of them.
#[derive(Debug, Default)]
pub struct Tools {
    /// The array for the template; none shows it none.
    pub json: Option<String>,
    pub calls: Option<Calls>,
    pub guide: Option<Guide>,
}

/// What the answer has to do.
enum Choice {
    Free,
    Call(String),
    CallAny,
}

/// Reads the fields of a body; none where it gives no tools, or forbids them.
pub fn read_tools(object: &Object) -> Result<Option<Tools>, Fault> {
    let tools = object.get("tools").filter(|field| field.value.text() != "[]");
    let choice = object.get("tool_choice");
    let is_none = |field: &Field| field.value.string().is_some_and(|word| word == "none");
    let Some(tools) = tools else {
        let is_free =
            |field: &Field| field.value.string().is_some_and(|word| word == "none" || word == "auto");
        return match choice.filter(|field| !is_free(field)) {
            Some(field) => Err(Fault::bad(format!("{}: wanted tools beside it", field.at))),
            None => Ok(None),
        };
    };
    let functions = read_functions(tools)?;
    if choice.as_ref().is_some_and(is_none) {
        return Ok(None);
    }
    let choice = choice.map_or(Ok(Choice::Free), |field| read_choice(field, &functions))?;
    let is_single = !object.get("parallel_tool_calls").map_or(Ok(true), |field| field.truth())?;
    let (form, guide) = match choice {
        Choice::Free if functions.iter().any(|function| function.is_strict) => {
            (Form::Strict, Some(Guide::Calls(functions.clone())))
        }
        Choice::Free => (Form::Free, None),
        Choice::CallAny => (Form::Array, Some(Guide::JsonSchema(schema_of_any(&functions, is_single)))),
        Choice::Call(name) => {
            let function = functions.iter().find(|function| function.name == name);
            let schema = function.map_or("{}", |function| function.parameters.as_str()).to_owned();
            (Form::Arguments(name), Some(Guide::JsonSchema(schema)))
        }
    };
    let names = functions.into_iter().map(|function| function.name).collect();
    let json = Some(tools.value.text().to_owned());
    Ok(Some(Tools { json, calls: Some(Calls { names, form, is_single }), guide }))
}

fn read_functions(tools: Field) -> Result<Vec<CallableFunction>, Fault> {
    if !tools.value.is_array() {
        return Err(tools.wanted("an array of functions"));
    }
    let n_bytes = tools.value.text().len();
    if n_bytes > limits::TOOLS_BYTES {
        let limit = limits::TOOLS_BYTES;
        return Err(Fault::bad(format!("{}: {n_bytes} bytes are over the limit of {limit}", tools.at)));
    }
    let n = tools.value.elements().count();
    if n > limits::TOOLS {
        return Err(Fault::bad(format!(
            "{}: {n} functions are over the limit of {}",
            tools.at,
            limits::TOOLS
        )));
    }
    let read = |(idx, value)| read_function(Field { value, at: At::Index(&tools.at, idx) });
    tools.value.elements().enumerate().map(read).collect()
}

fn read_function(field: Field) -> Result<CallableFunction, Fault> {
    let tool = Object::read(field.value, &field.at, &["type", "function"])?;
    let kind = tool.get("type").ok_or_else(|| tool.missing("type", "\"function\""))?;
    if kind.string()? != "function" {
        return Err(kind.wanted("\"function\""));
    }
    let function = tool.get("function").ok_or_else(|| tool.missing("function", "an object with a name"))?;
    let inner = Object::read(function.value, &function.at, &["name", "parameters", "strict"])?;
    let name = inner.get("name").ok_or_else(|| inner.missing("name", "a string"))?;
    let parameters = match inner.get("parameters") {
        None => r#"{"type":"object","properties":{}}"#.to_owned(),
        Some(schema) if schema.value.is_object() => schema.value.text().to_owned(),
        Some(other) => return Err(other.wanted("a JSON schema")),
    };
    let is_strict = inner.get("strict").map_or(Ok(false), |field| field.truth())?;
    Ok(CallableFunction { name: name.string_within(limits::NAME_BYTES)?.into_owned(), parameters, is_strict })
}

fn read_choice(field: Field, functions: &[CallableFunction]) -> Result<Choice, Fault> {
    if field.value.is_string() {
        return match &*field.string()? {
            "auto" => Ok(Choice::Free),
            "required" => Ok(Choice::CallAny),
            _ => Err(field.wanted("\"none\", \"auto\", \"required\" or a function")),
        };
    }
    let choice = Object::read(field.value, &field.at, &["type", "function"])?;
    let function =
        choice.get("function").ok_or_else(|| choice.missing("function", "an object with a name"))?;
    let inner = Object::read(function.value, &function.at, &["name"])?;
    let name = inner.get("name").ok_or_else(|| inner.missing("name", "a string"))?;
    let text = name.string()?;
    match functions.iter().any(|function| function.name == text) {
        true => Ok(Choice::Call(text.into_owned())),
        false => Err(name.wanted("the name of one of the tools")),
    }
}

/// An array of calls, as [`Form::Array`] reads it.
fn schema_of_any(functions: &[CallableFunction], is_single: bool) -> String {
    let mut calls = String::new();
    for function in functions {
        let name = Value::quoted(&function.name);
        let separator = if calls.is_empty() { "" } else { "," };
        let parameters = &function.parameters;
        let _ = write!(
            calls,
            r#"{separator}{{"type":"object","properties":{{"name":{{"const":{name}}},"parameters":{parameters}}},"required":["name","parameters"],"additionalProperties":false}}"#
        );
    }
    let most = if is_single { r#","maxItems":1"# } else { "" };
    format!(r#"{{"type":"array","minItems":1{most},"items":{{"anyOf":[{calls}]}}}}"#)
}
