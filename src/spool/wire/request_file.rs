//! A request file: the top level is read at once, each request only when it is asked for.
//! So memory is 12 bytes per request, and the text itself only where it is small.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::fault::{Fault, FaultCode};
use super::guide::{Guide, read_guide};
use super::json::Value;
use super::limits;
use super::object::{At, Field, Object};
use super::openai::line::{Line, Stamp};
use super::openai::lines::{Lines, read_lines};
use super::openai::reading::read_line;
use super::other_form;
use super::request::{BadRequest, ChatOptions, Defaults, Request};
use super::sampling::{SAMPLING_FIELDS, Sampling};
use super::span::Span;

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
    form: Form,
    text: Text,
    spans: Vec<Span>,
    /// Lines whose custom_id stands in one before.
    repeated: BTreeSet<usize>,
}

/// How the requests stand in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// One JSON object with all of them, as the workflow has it.
    Object,
    /// One a line, as OpenAI's batch files have it.
    Lines(Stamp),
}

impl Form {
    pub fn is_of_lines(&self) -> bool {
        matches!(self, Form::Lines(_))
    }
}

/// Where the text is when a request is asked for.
#[derive(Debug)]
enum Text {
    Memory(Vec<u8>),
    /// Read again, and checked against the checksum of each request.
    File(File),
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
    ///
    /// ```
    /// use jetspool::spool::wire::RequestFile;
    ///
    /// let text = r#"{"requests": [{"messages": [{"role": "user", "content": "Hello"}]}]}"#;
    /// let file = RequestFile::parse(text.into())?;
    /// assert_eq!(file.n_requests(), 1);
    /// let fault = RequestFile::parse(b"{}".to_vec()).expect_err("no requests");
    /// assert!(fault.message.contains("requests"), "{}", fault.message);
    /// # Ok::<_, jetspool::spool::wire::Fault>(())
    /// ```
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Fault> {
        let text = String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            Fault::bad(format!("not JSON: byte {at} is not UTF-8; save the file as UTF-8")).of_file()
        })?;
        let start = other_form::start(&text);
        Self::parse_text(text).map_err(|fault| match other_form::hint(&start) {
            Some(hint) => Fault { message: format!("{}; {hint}", fault.message), ..fault }.of_file(),
            None => fault.of_file(),
        })
    }

    /// Reads a file of a form.
    ///
    /// # Errors
    /// As [`RequestFile::parse`].
    pub fn parse_as(bytes: Vec<u8>, form: Form) -> Result<Self, Fault> {
        match form {
            Form::Object => Self::parse(bytes),
            Form::Lines(stamp) => Self::parse_lines(bytes, stamp),
        }
    }

    /// The same of a batch file. What is wrong with a line is that line's fault.
    pub fn parse_lines(bytes: Vec<u8>, stamp: Stamp) -> Result<Self, Fault> {
        // Memory does not fail to be read.
        let lines = read_lines(bytes.as_slice()).map_err(|error| Fault::bad(error.to_string()).of_file())?;
        lines.map(|lines| Self::of_lines(lines, Text::Memory(bytes), stamp))
    }

    fn of_lines(lines: Lines, text: Text, stamp: Stamp) -> Self {
        let Lines { spans, repeated, .. } = lines;
        Self {
            batch_size: 1,
            sampling: Sampling::default(),
            chat: ChatOptions::default(),
            adapters: BTreeMap::new(),
            cache_lookup: CacheLookup::default(),
            cache_commit: CacheCommit::default(),
            priority: 0,
            guide: None,
            warnings: Vec::new(),
            form: Form::Lines(stamp),
            text,
            spans,
            repeated,
        }
    }

    /// Reads a file of `size` bytes; a large one is not kept in memory but read again, request by request.
    /// Returns the checksum of all its bytes too.
    ///
    /// # Errors
    /// The system's; a fault of the whole file is inside.
    pub fn read(mut file: File, size: u64, form: Form) -> io::Result<(Result<Self, Fault>, u32)> {
        let form = match form {
            Form::Lines(stamp) if size > KEPT_BYTES as u64 => return Self::read_large(file, size, stamp),
            form => form,
        };
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(usize::try_from(size).unwrap_or(usize::MAX)).map_err(io::Error::other)?;
        (&mut file).take(size).read_to_end(&mut bytes)?;
        let crc = crc32fast::hash(&bytes);
        let mut parsed = Self::parse_as(bytes, form);
        if let Ok(parsed) = &mut parsed
            && matches!(&parsed.text, Text::Memory(text) if text.len() > KEPT_BYTES)
        {
            parsed.text = Text::File(file);
        }
        Ok((parsed, crc))
    }

    /// A batch file that is read line by line.
    fn read_large(mut file: File, size: u64, stamp: Stamp) -> io::Result<(Result<Self, Fault>, u32)> {
        let lines = read_lines(BufReader::with_capacity(KEPT_BYTES, (&mut file).take(size)))?;
        let crc = lines.as_ref().map_or(0, |lines| lines.crc);
        Ok((lines.map(|lines| Self::of_lines(lines, Text::File(file), stamp)), crc))
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
        let chat = ChatOptions {
            apply_chat_template: truth("apply_chat_template", true)?,
            add_generation_prompt: truth("add_generation_prompt", true)?,
            enable_thinking: truth("enable_thinking", false)?,
        };
        let adapters = read_adapters(object.get("available_lora_weights"), &mut warnings)?;
        let spans = read_spans(&object, &text)?;
        Ok(RequestFile {
            batch_size: object
                .get("batch_size")
                .map_or(Ok(1), |field| field.integer(1..=limits::BATCH_SIZE))?,
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
            priority: object
                .get("priority")
                .map_or(Ok(0), |field| field.integer(-limits::PRIORITY..=limits::PRIORITY))?,
            guide: read_guide(&object)?,
            warnings,
            form: Form::Object,
            spans,
            repeated: BTreeSet::new(),
            text: Text::Memory(text.into_bytes()),
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

    /// How its answers are written.
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// Reads the request at `index`. A fault concerns this request alone.
    pub fn request(&self, index: usize) -> Result<Request, BadRequest> {
        let text = self.text_of(index);
        if let Form::Lines(stamp) = &self.form {
            let line = Line::unread(stamp, index);
            return match text {
                Ok(text) => read_line(&text, line, self.repeated.contains(&index)),
                Err(fault) => Err(BadRequest { line: Some(Arc::new(line)), ..BadRequest::new(fault) }),
            };
        }
        let text = text.map_err(BadRequest::new)?;
        Request::read(
            Value::from_checked(&text),
            index,
            Defaults { sampling: &self.sampling, chat: self.chat, guide: self.guide.as_ref() },
        )
    }

    /// The JSON of one request, as it was when the file was read.
    fn text_of(&self, index: usize) -> Result<Cow<'_, str>, Fault> {
        let place = match self.form {
            Form::Object => format!("requests[{index}]"),
            Form::Lines(_) => format!("the request at {index}"),
        };
        let missing = || Fault::bad(format!("{place}: missing, the file has {}", self.spans.len()));
        let span = self.spans.get(index).ok_or_else(missing)?;
        if self.form.is_of_lines() && span.range().len() > limits::LINE_BYTES {
            let message = format!("the line is over the limit of {} bytes", limits::LINE_BYTES);
            return Err(Fault::new(FaultCode::TooLarge, message));
        }
        let not_text = |error: &dyn Display| Fault::bad(format!("not JSON: {error}"));
        match &self.text {
            Text::Memory(text) => {
                let bytes = text.get(span.range()).ok_or_else(missing)?;
                std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|error| not_text(&error))
            }
            Text::File(file) => {
                let changed = |why: &dyn Display| {
                    let message = format!("{place}: the file was changed while it was answered{why}");
                    Fault::new(FaultCode::BadFile, message)
                };
                let mut bytes = vec![0; span.range().len()];
                file.read_exact_at(&mut bytes, span.range().start as u64)
                    .map_err(|e| changed(&format_args!(": {e}")))?;
                if !span.holds(&bytes) {
                    return Err(changed(&""));
                }
                String::from_utf8(bytes).map(Cow::Owned).map_err(|error| not_text(&error))
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
        let start = u32::try_from(start).expect("a text of 4 GiB was refused");
        spans.push(Span::of(start, value.text().as_bytes()));
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
