//! `run --resume`: what an interrupted run left in its output file. Answers that are whole are kept byte for byte; those
//! that the interruption cancelled are computed again.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::AnswerError;
use super::refused::refused;
use crate::spool::wire::{BadRequest, Fault, FaultCode, Request};
use crate::store::map_file;

/// What an answer repeats of its request; it must be what the request says now.
const REPEATED: [&str; 6] = ["batch_idx", "id", "lora_name", "loras", "messages", "request_idx"];

/// An answer of the interrupted run.
#[derive(Debug)]
pub struct Kept {
    /// As it stands in the file.
    pub json: Box<RawValue>,
    pub request_idx: usize,
    pub lora_names: Vec<String>,
    pub output_text: String,
    pub has_failed: bool,
}

#[derive(Deserialize)]
struct OutputFile {
    responses: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Entry {
    error: Option<EntryError>,
    finish_reason: String,
    lora_name: Option<String>,
    #[serde(default)]
    loras: Vec<EntryLora>,
    output_text: String,
    request_idx: usize,
}

#[derive(Deserialize)]
struct EntryLora {
    name: String,
}

/// A line of the answer to a batch file.
#[derive(Deserialize)]
struct Line {
    custom_id: Value,
    error: Option<EntryError>,
    response: Value,
}

#[derive(Deserialize)]
struct EntryError {
    code: String,
}

/// The requests that the output must belong to.
pub struct Wanted<'a> {
    pub n_requests: usize,
    pub batch_size: usize,
    /// The requests are lines of a batch file.
    pub is_of_lines: bool,
    pub request: &'a dyn Fn(usize) -> Result<Request, BadRequest>,
}

/// One place for each request: its answer, if the output has it whole. None is there if the file is not.
///
/// # Errors
/// [`AnswerError::Resume`] for a file that is no answer to these requests, [`AnswerError::Store`].
pub fn kept_answers(output: &Path, wanted: &Wanted<'_>) -> Result<Vec<Option<Kept>>, AnswerError> {
    let bytes = match map_file(output) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok((0..wanted.n_requests).map(|_| None).collect()),
        Err(error) => return Err(error.into()),
    };
    let refuse = |why: String| AnswerError::Resume { output: output.to_owned(), why };
    let bytes = (*bytes).as_ref();
    let read: serde_json::Result<Vec<Box<RawValue>>> = match wanted.is_of_lines {
        true => serde_json::Deserializer::from_slice(bytes).into_iter().collect(),
        false => serde_json::from_slice(bytes).map(|file: OutputFile| file.responses),
    };
    let answers = read.map_err(|error| refuse(format!("is no file of answers ({error})")))?;
    let n_found = answers.len();
    if n_found != wanted.n_requests {
        return Err(refuse(format!("has {n_found} answers to {} requests", wanted.n_requests)));
    }
    let kept = if wanted.is_of_lines { kept_line } else { kept };
    answers.into_iter().enumerate().map(|(index, json)| kept(index, json, wanted).map_err(refuse)).collect()
}

fn kept_line(index: usize, json: Box<RawValue>, wanted: &Wanted<'_>) -> Result<Option<Kept>, String> {
    let broken = |error: serde_json::Error| format!("has something else in line {} ({error})", index + 1);
    let Line { custom_id, error, response } = serde_json::from_str(json.get()).map_err(broken)?;
    let line = match (wanted.request)(index) {
        Ok(request) => request.line,
        Err(bad) => bad.line,
    };
    let expected = line.as_ref().and_then(|line| line.custom_id.as_ref());
    let expected =
        expected.map_or(Ok(Value::Null), |id| serde_json::from_str(id.as_str())).map_err(broken)?;
    if custom_id != expected {
        return Err(format!(
            "answers {custom_id} in line {}, where the batch file has {expected}",
            index + 1
        ));
    }
    let choice = response.pointer("/body/choices/0");
    let text = choice.and_then(|choice| choice.pointer("/message/content").or(choice.get("text")));
    let is_cancelled = error.as_ref().is_some_and(|error| error.code == "cancelled");
    Ok((!is_cancelled).then(|| Kept {
        request_idx: index,
        lora_names: line.iter().map(|line| line.model.clone()).collect(),
        output_text: text.and_then(Value::as_str).unwrap_or_default().to_owned(),
        has_failed: error.is_some(),
        json,
    }))
}

fn kept(index: usize, json: Box<RawValue>, wanted: &Wanted<'_>) -> Result<Option<Kept>, String> {
    let broken = |error: serde_json::Error| format!("has something else as answer {index} ({error})");
    let found: Value = serde_json::from_str(json.get()).map_err(broken)?;
    let entry = Entry::deserialize(&found).map_err(broken)?;
    let fault = Fault::new(FaultCode::Cancelled, "");
    let expected = refused(index, wanted.batch_size, (wanted.request)(index), fault);
    let expected: Value = serde_json::from_str(&expected.to_json()).map_err(broken)?;
    if let Some(key) = REPEATED.into_iter().find(|key| found.get(key) != expected.get(key)) {
        return Err(format!(
            "answers another request at {index}: its {key} is not what the request file says"
        ));
    }
    let has_failed = entry.error.is_some();
    let is_cancelled = entry.finish_reason == "cancelled"
        || entry.error.as_ref().is_some_and(|error| error.code == "cancelled");
    let Entry { lora_name, loras, output_text, request_idx, .. } = entry;
    let lora_names = lora_name.into_iter().chain(loras.into_iter().map(|used| used.name)).collect();
    Ok((!is_cancelled).then_some(Kept { json, request_idx, lora_names, output_text, has_failed }))
}
