//! A request file: the top level is read at once, each request only when it is asked for.
//! So memory is 12 bytes per request, and the text itself only where it is small.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::fault::{Fault, FaultCode};
use super::guide::{Guide, read_guide};
use super::json::Value;
use super::limits;
use super::object::{At, Field, Object};
use super::request::{BadRequest, ChatOptions, Defaults, Request};
use super::sampling::{SAMPLING_FIELDS, Sampling};

/// `context_cache_lookup_policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheLookup {
    #[default]
    UseCache,
    Bypass,
}

/// `context_cache_commit_policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheCommit {
    #[default]
    IncludingGeneratedTokens,
    PrefillStateOnly,
}

/// The values of the top level. `run`'s flags may replace some before requests are read.
#[derive(Debug)]
pub struct RequestFile {
    /// 1..=16; numbers the answers' `batch_idx`.
    pub batch_size: usize,
    /// What a request takes where it gives no value of its own.
    pub sampling: Sampling,
    pub chat: ChatOptions,
    /// `available_lora_weights`, without empty paths.
    pub adapters: BTreeMap<String, PathBuf>,
    pub cache_lookup: CacheLookup,
    pub cache_commit: CacheCommit,
    /// -100..=100, larger first.
    pub priority: i32,
    /// What answers must look like where a request says nothing else.
    pub guide: Option<Guide>,
    /// What was ignored at the top level, for the answer file.
    pub warnings: Vec<String>,
    text: Text,
    spans: Vec<Span>,
}

/// Where the text is when a request is asked for.
#[derive(Debug)]
enum Text {
    Memory(String),
    /// Read again, and checked against the checksum of each request.
    File(File),
}

/// A request's place in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    n_bytes: u32,
    crc: u32,
}

/// Texts up to this length are kept in memory, and cost no open file.
const KEPT_BYTES: usize = 64 << 10;

const OWN_FIELDS: [&str; 13] = [
    "batch_size",
    "apply_chat_template",
    "add_generation_prompt",
    "enable_thinking",
    "available_lora_weights",
    "context_cache_lookup_policy",
    "context_cache_commit_policy",
    "priority",
    "guided_decoding",
    "response_format",
    "requests",
    // Of diffusion models: no decoder here reads it. The expected answers in test files of the original.
    "diffusion_config",
    "reference",
];

impl RequestFile {
    /// Reads the top level. The fault is of the whole file: not JSON, no `requests`, a wrong top-level field.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Fault> {
        let text = String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            Fault::bad(format!("not JSON: byte {at} is not UTF-8")).of_file()
        })?;
        Self::parse_text(text).map_err(Fault::of_file)
    }

    /// Reads a file of `size` bytes; a large one is not kept in memory but read again, request by request.
    /// Returns the checksum of all its bytes too.
    ///
    /// # Errors
    /// The system's; a fault of the whole file is inside.
    pub fn read(mut file: File, size: u64) -> io::Result<(Result<Self, Fault>, u32)> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(usize::try_from(size).unwrap_or(usize::MAX)).map_err(io::Error::other)?;
        (&mut file).take(size).read_to_end(&mut bytes)?;
        let crc = crc32fast::hash(&bytes);
        let mut parsed = Self::parse(bytes);
        if let Ok(parsed) = &mut parsed
            && matches!(&parsed.text, Text::Memory(text) if text.len() > KEPT_BYTES)
        {
            parsed.text = Text::File(file);
        }
        Ok((parsed, crc))
    }

    fn parse_text(text: String) -> Result<Self, Fault> {
        if u32::try_from(text.len()).is_err() {
            return Err(Fault::new(FaultCode::TooLarge, "the file is over the limit of 4 GiB"));
        }
        if text.trim_ascii().is_empty() {
            return Err(Fault::bad("the file is empty; wanted a JSON object with a requests array"));
        }
        // A byte order mark, as some editors write it.
        let root = Value::parse(text.strip_prefix('\u{feff}').unwrap_or(&text))?;
        if !root.is_object() {
            return Err(Fault::bad(format!(
                "wanted a JSON object with a requests array, found {}",
                root.describe()
            )));
        }
        let names: Vec<&'static str> = OWN_FIELDS.into_iter().chain(SAMPLING_FIELDS).collect();
        let object = Object::read(root, &At::Root, &names)?;
        let mut warnings = Vec::new();
        object.warn_unknown(&mut warnings);
        if object.get("diffusion_config").is_some() {
            warnings.push("diffusion_config: has no effect, ignored".into());
        }
        let truth = |name, default| object.get(name).map_or(Ok(default), |field| field.truth());
        let integer = |name, range: (i64, i64), default| {
            object.get(name).map_or(Ok(default), |field| field.integer(range.0, range.1))
        };
        let chat = ChatOptions {
            apply_chat_template: truth("apply_chat_template", true)?,
            add_generation_prompt: truth("add_generation_prompt", true)?,
            enable_thinking: truth("enable_thinking", false)?,
        };
        let adapters = read_adapters(object.get("available_lora_weights"), &mut warnings)?;
        let spans = read_spans(&object, &text)?;
        Ok(RequestFile {
            batch_size: integer("batch_size", (1, limits::BATCH_SIZE), 1)? as usize,
            sampling: Sampling::default().replaced_by(&object)?,
            chat,
            adapters,
            cache_lookup: read_word(
                object.get("context_cache_lookup_policy"),
                &[("use_cache", CacheLookup::UseCache), ("bypass", CacheLookup::Bypass)],
            )?,
            cache_commit: read_word(
                object.get("context_cache_commit_policy"),
                &[
                    ("including_generated_tokens", CacheCommit::IncludingGeneratedTokens),
                    ("prefill_state_only", CacheCommit::PrefillStateOnly),
                ],
            )?,
            priority: integer("priority", (-limits::PRIORITY, limits::PRIORITY), 0)? as i32,
            guide: read_guide(&object)?,
            warnings,
            spans,
            text: Text::Memory(text),
        })
    }

    /// Bytes that are held in memory.
    pub fn n_bytes(&self) -> usize {
        let text = match &self.text {
            Text::Memory(text) => text.len(),
            Text::File(_) => 0,
        };
        text + self.spans.len() * size_of::<Span>()
    }

    /// How many requests the file has; at least one.
    pub fn n_requests(&self) -> usize {
        self.spans.len()
    }

    /// Reads the request at `index`. A fault concerns this request alone.
    pub fn request(&self, index: usize) -> Result<Request, BadRequest> {
        let text = self.text_of(index).map_err(|fault| BadRequest { fault, id: None, lora_name: None })?;
        Request::read(
            Value::from_checked(&text),
            index,
            Defaults { sampling: &self.sampling, chat: self.chat, guide: self.guide.as_ref() },
        )
    }

    /// The JSON of one request, as it was when the file was read.
    fn text_of(&self, index: usize) -> Result<Cow<'_, str>, Fault> {
        let missing = || Fault::bad(format!("requests[{index}]: missing, the file has {}", self.spans.len()));
        let span = self.spans.get(index).ok_or_else(missing)?;
        let (start, n_bytes) = (span.start as usize, span.n_bytes as usize);
        match &self.text {
            Text::Memory(text) => text.get(start..start + n_bytes).map(Cow::Borrowed).ok_or_else(missing),
            Text::File(file) => {
                let changed = |why: &dyn Display| {
                    let message =
                        format!("requests[{index}]: the file was changed while it was answered{why}");
                    Fault::new(FaultCode::BadFile, message)
                };
                let mut bytes = vec![0; n_bytes];
                file.read_exact_at(&mut bytes, start as u64).map_err(|e| changed(&format_args!(": {e}")))?;
                if crc32fast::hash(&bytes) != span.crc {
                    return Err(changed(&""));
                }
                String::from_utf8(bytes).map(Cow::Owned).map_err(|_| changed(&""))
            }
        }
    }

    /// All requests in order, each read as the iterator comes to it.
    pub fn requests(&self) -> impl Iterator<Item = Result<Request, BadRequest>> + '_ {
        (0..self.n_requests()).map(|index| self.request(index))
    }
}

fn read_spans(object: &Object, text: &str) -> Result<Vec<Span>, Fault> {
    let field = object.get("requests").ok_or_else(|| object.missing("requests", "an array of requests"))?;
    if !field.value.is_array() {
        return Err(field.wanted("an array of requests"));
    }
    let n = field.value.elements().count();
    if n == 0 {
        return Err(Fault::bad("requests: empty; wanted at least one request"));
    }
    if n > limits::REQUESTS {
        let message = format!("requests: {n} requests are over the limit of {}", limits::REQUESTS);
        return Err(Fault::new(FaultCode::TooLarge, message));
    }
    let mut spans = Vec::with_capacity(n);
    for value in field.value.elements() {
        let start = value.text().as_ptr() as usize - text.as_ptr() as usize;
        let bytes = value.text().as_bytes();
        spans.push(Span { start: start as u32, n_bytes: bytes.len() as u32, crc: crc32fast::hash(bytes) });
    }
    Ok(spans)
}

fn read_adapters(
    field: Option<Field>,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, PathBuf>, Fault> {
    let mut adapters = BTreeMap::new();
    let Some(field) = field else { return Ok(adapters) };
    if !field.value.is_object() {
        return Err(field.wanted("an object of adapter names and paths"));
    }
    let n = field.value.entries().count();
    if n > limits::ADAPTERS {
        return Err(Fault::bad(format!(
            "{}: {n} adapters are over the limit of {}",
            field.at,
            limits::ADAPTERS
        )));
    }
    for (key, value) in field.value.entries() {
        let name = Field { value: key, at: field.at }.string_within(limits::NAME_BYTES)?;
        let entry = Field { value, at: At::Key(&field.at, &name) };
        if !entry.value.is_string() {
            return Err(entry.wanted("a path as a string"));
        }
        // PATH_MAX of Linux.
        let path = entry.string_within(4096)?;
        if path.is_empty() {
            warnings.push(format!("{}: empty path, ignored", entry.at));
        } else {
            adapters.insert(name.into_owned(), PathBuf::from(path.as_ref()));
        }
    }
    Ok(adapters)
}

fn read_word<T: Copy + Default>(field: Option<Field>, words: &[(&str, T)]) -> Result<T, Fault> {
    let Some(field) = field else { return Ok(T::default()) };
    let found = field.value.string().and_then(|text| words.iter().find(|(word, _)| *word == text));
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let wanted: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        field.wanted(wanted.join(" or "))
    })
}
