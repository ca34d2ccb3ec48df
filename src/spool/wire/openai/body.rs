//! The body of a line to a request. Fields have OpenAI's defaults, not those of request files. A field that would change
//! the answer and that nobody here honours is a fault; one that changes nothing is passed over.

use std::sync::Arc;

use super::line::{Endpoint, Line};
use super::tools::{Tools, read_tools};
use crate::spool::wire::fault::Fault;
use crate::spool::wire::guide::{Guide, MODES, read_guide, read_mode};
use crate::spool::wire::limits;
use crate::spool::wire::message::{ContentPart, Dialect, Message, Role, read_messages};
use crate::spool::wire::object::{At, Field, Object, round_to_f32};
use crate::spool::wire::request::{ChatOptions, Request, read_stop};
use crate::spool::wire::sampling::{MAX_COUNT, NO_LIMIT, Sampling, read_logit_bias};

/// Fields that are read for both endpoints.
const FIELDS: [&str; 12] = [
    "model",
    "n",
    "stop",
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "logprobs",
    "logit_bias",
    "response_format",
    "structured_outputs",
];
const CHAT_FIELDS: [&str; 8] = [
    "messages",
    "max_completion_tokens",
    "top_logprobs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "chat_template_kwargs",
    "add_generation_prompt",
];
const COMPLETIONS_FIELDS: [&str; 1] = ["prompt"];
/// How older releases of vLLM spell `structured_outputs`.
const GUIDED_FIELDS: [(&str, &str); 4] = [
    ("guided_json", "json"),
    ("guided_regex", "regex"),
    ("guided_choice", "choice"),
    ("guided_grammar", "grammar"),
];
/// Keys of `structured_outputs`, and what `guided_decoding` calls them.
const STRUCTURES: [(&str, &str); 6] = [
    ("json", "json_schema"),
    ("regex", "regex"),
    ("choice", "choice"),
    ("grammar", "ebnf"),
    ("json_object", "json_object"),
    ("structural_tag", "structural_tag"),
];
/// Fields that would change the answer, with the values that change nothing.
const NEUTRAL: [(&str, &[&str]); 26] = [
    ("frequency_penalty", &["0"]),
    ("presence_penalty", &["0"]),
    ("repetition_penalty", &["1"]),
    ("length_penalty", &["1"]),
    ("min_p", &["0"]),
    ("min_tokens", &["0"]),
    ("best_of", &["1"]),
    ("echo", &["false"]),
    ("suffix", &["\"\""]),
    ("ignore_eos", &["false"]),
    ("use_beam_search", &["false"]),
    ("include_stop_str_in_output", &["false"]),
    ("skip_special_tokens", &["true"]),
    ("continue_final_message", &["false"]),
    ("stop_token_ids", &["[]"]),
    ("bad_words", &["[]"]),
    ("allowed_token_ids", &["[]"]),
    ("logits_processors", &["[]"]),
    ("functions", &["[]"]),
    ("function_call", &["\"auto\"", "\"none\""]),
    ("modalities", &["[\"text\"]"]),
    ("audio", &[]),
    ("web_search_options", &[]),
    ("truncate_prompt_tokens", &[]),
    ("prompt_logprobs", &["0"]),
    ("chat_template", &[]),
];
/// Fields that change no answer.
const WITHOUT_EFFECT: [&str; 18] = [
    "user",
    "metadata",
    "store",
    "stream",
    "stream_options",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prediction",
    "reasoning_effort",
    "verbosity",
    "priority",
    "request_id",
    "spaces_between_special_tokens",
    "add_special_tokens",
    "guided_decoding_backend",
    "guided_whitespace_pattern",
];
/// What a text completion gets that names no limit.
const COMPLETION_TOKENS: usize = 16;

/// Reads a body, and what of it the answer needs into `line`.
pub fn read_body(field: Field, line: &mut Line, mut warnings: Vec<String>) -> Result<Request, Fault> {
    let own: &[&str] = match line.endpoint {
        Endpoint::Chat => &CHAT_FIELDS,
        Endpoint::Completions => &COMPLETIONS_FIELDS,
    };
    let guided = GUIDED_FIELDS.iter().map(|(name, _)| *name);
    let neutral = NEUTRAL.iter().map(|(name, _)| *name);
    let names =
        FIELDS.into_iter().chain(own.iter().copied()).chain(guided).chain(neutral).chain(WITHOUT_EFFECT);
    let object = Object::read(field.value, &field.at, &names.collect::<Vec<_>>())?;
    object.warn_unknown(&mut warnings);
    // First, for the answer to any later fault.
    let model =
        object.get("model").ok_or_else(|| object.missing("model", "the served model or an adapter"))?;
    line.model = model.string_within(limits::NAME_BYTES)?.into_owned();
    check_neutral(&object)?;
    line.n_choices = object.get("n").map_or(Ok(1), |field| field.integer(1..=limits::CHOICES))?;
    line.n_alternatives = read_alternatives(&object, line.endpoint)?;
    let tools = match line.endpoint {
        Endpoint::Chat => read_tools(&object)?,
        Endpoint::Completions => None,
    };
    let Tools { json: tools, calls, guide: of_tools } = tools.unwrap_or_default();
    line.calls = calls;
    let guide = match (read_structure(&object)?, of_tools) {
        (Some(_), Some(_)) => {
            let at = At::Key(&field.at, "tools");
            return Err(Fault::bad(format!(
                "{at}: strict functions and forced calls are a guide, and another one stands beside them"
            )));
        }
        (guide, of_tools) => guide.or(of_tools),
    };
    let (messages, chat) = match line.endpoint {
        Endpoint::Chat => {
            (read_messages(&object, Dialect::OpenAi, &mut warnings)?, read_chat(&object, &mut warnings)?)
        }
        Endpoint::Completions => (
            vec![read_prompt(&object)?],
            ChatOptions { apply_chat_template: false, ..ChatOptions::default() },
        ),
    };
    Ok(Request {
        messages,
        sampling: read_sampling(&object, line)?,
        chat,
        stop: object.get("stop").map_or(Ok(Vec::new()), read_stop)?,
        tools,
        guide,
        warnings,
        ..Request::default()
    })
}

fn check_neutral(object: &Object) -> Result<(), Fault> {
    for (name, values) in NEUTRAL {
        let Some(field) = object.get(name) else { continue };
        let is_neutral = |value: &str| {
            let number = |text: &str| text.parse::<f64>().ok();
            let text: String = field.value.text().split_ascii_whitespace().collect();
            text == *value || (number(&text).is_some() && number(&text) == number(value))
        };
        if !values.iter().any(|value| is_neutral(value)) {
            let but = values.first().map_or_else(String::new, |value| format!(" other than {value}"));
            return Err(Fault::bad(format!(
                "{}: no value{but} is supported, found {}; leave it out",
                field.at,
                field.value.describe()
            )));
        }
    }
    Ok(())
}

/// How many alternatives of each token are wanted; none if not even its own probability is.
fn read_alternatives(object: &Object, endpoint: Endpoint) -> Result<Option<usize>, Fault> {
    let logprobs = object.get("logprobs");
    if endpoint == Endpoint::Completions {
        return logprobs.map(|field| field.integer(0..=limits::NUM_LOGPROBS)).transpose();
    }
    let is_wanted = logprobs.map_or(Ok(false), |field| field.truth())?;
    let n = object.get("top_logprobs").map(|field| Ok((field, field.integer(0..=limits::NUM_LOGPROBS)?)));
    match (is_wanted, n.transpose()?) {
        (true, n) => Ok(Some(n.map_or(0, |(_, n)| n))),
        (false, Some((field, n))) if n > 0 => {
            Err(Fault::bad(format!("{}: wanted logprobs to be true beside it", field.at)))
        }
        (false, _) => Ok(None),
    }
}

/// `response_format`, or one of vLLM's ways to say the same.
fn read_structure(object: &Object) -> Result<Option<Guide>, Fault> {
    let mut guides: Vec<(&str, Guide)> = Vec::new();
    guides.extend(read_guide(object)?.map(|guide| ("response_format", guide)));
    for (name, key) in GUIDED_FIELDS {
        if let Some(field) = object.get(name) {
            guides.push((name, read_mode(mode(key), &field)?));
        }
    }
    if let Some(field) = object.get("structured_outputs") {
        let known = STRUCTURES.map(|(key, _)| key);
        let inner = Object::read(field.value, &field.at, &known)?;
        if let Some(name) = inner.unknown_name() {
            let known = known.join(", ");
            return Err(Fault::bad(format!("{}.{name}: not known here; wanted one of {known}", field.at)));
        }
        for (key, mode) in STRUCTURES {
            if let Some(value) = inner.get(key) {
                guides.push(("structured_outputs", read_mode(mode, &value)?));
            }
        }
    }
    match guides.len() {
        0 | 1 => Ok(guides.pop().map(|(_, guide)| guide)),
        _ => {
            let names: Vec<&str> = guides.iter().map(|(name, _)| *name).collect();
            Err(Fault::bad(format!("body: {} stand beside each other; wanted one", names.join(" and "))))
        }
    }
}

fn mode(key: &str) -> &'static str {
    STRUCTURES.iter().find(|(known, _)| *known == key).map_or(MODES[0], |(_, mode)| *mode)
}

fn read_chat(object: &Object, warnings: &mut Vec<String>) -> Result<ChatOptions, Fault> {
    let mut chat = ChatOptions::default();
    if let Some(field) = object.get("add_generation_prompt") {
        chat.add_generation_prompt = field.truth()?;
    }
    if let Some(field) = object.get("chat_template_kwargs") {
        let inner = Object::read(field.value, &field.at, &["enable_thinking"])?;
        inner.warn_unknown(warnings);
        chat.enable_thinking = inner.get("enable_thinking").map_or(Ok(false), |field| field.truth())?;
    }
    Ok(chat)
}

/// A text completion's prompt is the whole prompt, as it is.
fn read_prompt(object: &Object) -> Result<Message, Fault> {
    let wanted = "a string, or an array with one string";
    let field = object.get("prompt").ok_or_else(|| object.missing("prompt", wanted))?;
    let text = if field.value.is_array() {
        let mut elements = field.value.elements();
        match (elements.next(), elements.next()) {
            (Some(value), None) => {
                Field { value, at: At::Index(&field.at, 0) }.string_within(limits::TEXT_BYTES)?
            }
            _ => return Err(field.wanted(format_args!("{wanted}; give each prompt a line of its own"))),
        }
    } else {
        field.string_within(limits::TEXT_BYTES)?
    };
    Ok(Message::new(Role::User, vec![ContentPart::Text(text.into_owned())]))
}

fn read_sampling(object: &Object, line: &Line) -> Result<Sampling, Fault> {
    let number = |name, fits: fn(f64) -> bool, wanted: &str| {
        object.get(name).map_or(Ok(1.0), |field| field.float(fits, wanted))
    };
    let tokens = |name| object.get(name).map(|field| field.integer(1..=MAX_COUNT as usize)).transpose();
    let no_limit = if line.endpoint == Endpoint::Chat { NO_LIMIT } else { COMPLETION_TOKENS };
    Ok(Sampling {
        temperature: number(
            "temperature",
            |x| x >= 0.0 && x <= f64::from(f32::MAX),
            "a number of at least 0",
        )?,
        top_p: number("top_p", |x| round_to_f32(x) > 0.0 && x <= 1.0, "a number above 0 and at most 1")?,
        // -1 is vLLM's word for all.
        top_k: object
            .get("top_k")
            .map_or(Ok(0), |field| field.integer(-1..=i64::from(MAX_COUNT)))
            .map(|k| u32::try_from(k).unwrap_or(0))?,
        max_generate_length: tokens("max_completion_tokens")?.or(tokens("max_tokens")?).unwrap_or(no_limit),
        seed: object.get("seed").map(read_seed).transpose()?,
        logit_bias: object.get("logit_bias").map_or(Ok(Arc::from([])), read_logit_bias)?,
        num_logprobs: line.n_alternatives.map_or(0, |n| n.max(1)),
    })
}

/// A whole number of 64 bits, with a sign or without.
fn read_seed(field: Field) -> Result<u64, Fault> {
    match field.value.number().is_some_and(|text| text.starts_with('-')) {
        true => field.integer(i64::MIN..=i64::MAX).map(i64::cast_unsigned),
        false => field.integer(0..=u64::MAX),
    }
}
