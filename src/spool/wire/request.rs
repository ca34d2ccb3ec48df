//! One request of a file, parsed on its own so that it fails on its own.

use std::sync::Arc;

use super::echo::Echo;
use super::fault::{Fault, FaultCode};
use super::guide::{Guide, read_guide};
use super::json::Value;
use super::limits;
use super::loras::{LoraUse, read_loras, read_scale};
use super::message::{Dialect, Message, read_messages};
use super::object::{At, Field, Object};
use super::openai::line::Line;
use super::sampling::{SAMPLING_FIELDS, Sampling};

/// How messages become a prompt. Given at the top level of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChatOptions {
    pub apply_chat_template: bool,
    pub add_generation_prompt: bool,
    pub enable_thinking: bool,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self { apply_chat_template: true, add_generation_prompt: true, enable_thinking: false }
    }
}

/// A request that may be run: every value is within its limits.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub messages: Vec<Message>,
    pub sampling: Sampling,
    pub chat: ChatOptions,
    /// Stop strings, none empty.
    pub stop: Vec<String>,
    /// None = the base model. Whether the name is known is for the daemon to say.
    pub lora_name: Option<String>,
    /// Factor on the adapter's delta, finite; 1 = as trained.
    pub lora_scale: f32,
    /// Several adapters instead, in the order in which their updates are added.
    pub loras: Vec<LoraUse>,
    pub save_system_prompt_kv_cache: bool,
    pub disable_spec_decode: bool,
    /// What the answer must look like.
    pub guide: Option<Guide>,
    /// JSON of the functions that the template shows.
    pub tools: Option<String>,
    /// The line of a batch file that it was.
    pub line: Option<Arc<Line>>,
    /// The producer's own mark, echoed in the answer.
    pub id: Option<Echo>,
    /// What was ignored in the request, for the answer.
    pub warnings: Vec<String>,
}

/// A request that cannot be run, with what its answer still needs.
#[derive(Debug, Clone, PartialEq)]
pub struct BadRequest {
    pub fault: Fault,
    pub id: Option<Echo>,
    pub lora_name: Option<String>,
    pub loras: Vec<LoraUse>,
    pub line: Option<Arc<Line>>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            messages: Vec::new(),
            sampling: Sampling::default(),
            chat: ChatOptions::default(),
            stop: Vec::new(),
            lora_name: None,
            lora_scale: 1.0,
            loras: Vec::new(),
            save_system_prompt_kv_cache: false,
            disable_spec_decode: false,
            guide: None,
            tools: None,
            line: None,
            id: None,
            warnings: Vec::new(),
        }
    }
}

impl BadRequest {
    /// Nothing is known but the fault.
    pub fn new(fault: Fault) -> Self {
        Self { fault, id: None, lora_name: None, loras: Vec::new(), line: None }
    }
}

const OWN_FIELDS: [&str; 11] = [
    "messages",
    "stop",
    "lora_name",
    "lora_scale",
    "loras",
    "save_system_prompt_kv_cache",
    "disable_spec_decode",
    "guided_decoding",
    "response_format",
    "id",
    // The expected answer in test files of the original.
    "reference",
];

/// What a request takes over from its file.
pub(super) struct Defaults<'f> {
    pub sampling: &'f Sampling,
    pub chat: ChatOptions,
    pub guide: Option<&'f Guide>,
}

impl Request {
    pub(super) fn read(value: Value, index: usize, defaults: Defaults) -> Result<Self, BadRequest> {
        let place = At::Key(&At::Root, "requests");
        let at = At::Index(&place, index);
        let names: Vec<&'static str> = OWN_FIELDS.into_iter().chain(SAMPLING_FIELDS).collect();
        let object = Object::read(value, &at, &names);
        let object = object.map_err(BadRequest::new)?;
        // What the producer finds the request again by is kept, whatever else is wrong.
        Self::from_object(&object, defaults).map_err(|fault| BadRequest {
            fault,
            id: read_id(object.get("id")).unwrap_or_default(),
            lora_name: read_lora_name(object.get("lora_name")).unwrap_or_default(),
            loras: read_loras(&object, &mut Vec::new()).unwrap_or_default(),
            line: None,
        })
    }

    /// Its adapters in the order in which their updates are added, each with the name's field, and how much of it.
    pub fn adapters(&self) -> impl Iterator<Item = (String, &str, f32)> {
        let one = self.lora_name.as_deref().map(|name| ("lora_name".to_owned(), name, self.lora_scale));
        let several = self.loras.iter().enumerate();
        one.into_iter()
            .chain(several.map(|(i, used)| (format!("loras[{i}].name"), used.name.as_str(), used.scale)))
    }

    fn from_object(object: &Object, defaults: Defaults) -> Result<Self, Fault> {
        let truth = |name| object.get(name).map_or(Ok(false), |field| field.truth());
        let mut warnings = Vec::new();
        object.warn_unknown(&mut warnings);
        let id = read_id(object.get("id"))?;
        let lora_name = read_lora_name(object.get("lora_name"))?;
        let loras = read_loras(object, &mut warnings)?;
        Ok(Request {
            messages: read_messages(object, Dialect::Workflow, &mut warnings)?,
            sampling: defaults.sampling.replaced_by(object)?,
            chat: defaults.chat,
            stop: object.get("stop").map_or(Ok(Vec::new()), read_stop)?,
            lora_name,
            lora_scale: read_scale(object.get("lora_scale"))?,
            loras,
            save_system_prompt_kv_cache: truth("save_system_prompt_kv_cache")?,
            disable_spec_decode: truth("disable_spec_decode")?,
            guide: match object.get("guided_decoding").or(object.get("response_format")) {
                Some(_) => read_guide(object)?,
                None => defaults.guide.cloned(),
            },
            tools: None,
            line: None,
            id,
            warnings,
        })
    }
}

fn read_id(field: Option<Field>) -> Result<Option<Echo>, Fault> {
    let Some(field) = field else { return Ok(None) };
    let n = field.value.text().len();
    if n > limits::ID_BYTES {
        return Err(Fault::bad(format!(
            "{}: {n} bytes are over the limit of {}",
            field.at,
            limits::ID_BYTES
        )));
    }
    let id = Echo::new(field.value.text());
    id.map(Some).map_err(|e| Fault::bad(format!("{}: cannot be echoed: {e}", field.at)))
}

fn read_lora_name(field: Option<Field>) -> Result<Option<String>, Fault> {
    let Some(field) = field else { return Ok(None) };
    let name = field.string_within(limits::NAME_BYTES)?;
    Ok((!name.is_empty()).then(|| name.into_owned()))
}

pub(super) fn read_stop(field: Field) -> Result<Vec<String>, Fault> {
    let one = |field: Field| match field.string_within(limits::STOP_BYTES)? {
        text if text.is_empty() => Err(field.wanted("a string that is not empty")),
        text => Ok(text.into_owned()),
    };
    if field.value.is_string() {
        return Ok(vec![one(field)?]);
    }
    if !field.value.is_array() {
        return Err(field.wanted("a string or an array of strings"));
    }
    let n = field.value.elements().count();
    if n > limits::STOP_STRINGS {
        return Err(Fault::bad(format!(
            "{}: {n} stop strings are over the limit of {}",
            field.at,
            limits::STOP_STRINGS
        )));
    }
    let strings = field.value.elements().enumerate();
    strings.map(|(i, value)| one(Field { value, at: At::Index(&field.at, i) })).collect()
}

/// A fault for whoever finds it later than the parser, in the same form: `requests[3].lora_name: …`.
pub fn fault_at(index: usize, field: &str, code: FaultCode, why: impl std::fmt::Display) -> Fault {
    Fault::new(code, format!("requests[{index}].{field}: {why}"))
}
