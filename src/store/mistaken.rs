//! A path that leads to something else than was meant: what it is, what was wanted, and what to do. It is looked at
//! when it could not be opened, never before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;

use super::StoreError;
use super::access::closed;
use super::adapter_files::PROCESSED_WEIGHTS_FILE;
use super::error::NOT_THERE;
use super::expected::Expected;
use super::thing::{Thing, contents_of, parent_of};
use super::way_out::{advice, again, file_advice};
use crate::format::contents::Contents;
use crate::format::{FormatError, GGUF_FILE, ONNX_DATA, ONNX_MODEL, SAFETENSORS_FILE};

impl StoreError {
    /// For `map_err`: an error of the system with its path. Where rights are missing it names the group to join.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            let is_closed = source.kind() == io::ErrorKind::PermissionDenied;
            let (place, need) = match action {
                "create" | "rename to" => (parent_of(path), AccessFlags::W_OK | AccessFlags::X_OK),
                "write" => (path, AccessFlags::W_OK),
                _ => (path, AccessFlags::R_OK),
            };
            match is_closed.then(|| closed(place, need)).flatten() {
                Some(closed) => Self::Closed { path: place.to_owned(), closed },
                None => Self::Io { path: path.to_owned(), action, source },
            }
        }
    }

    /// For `map_err`: what is wrong with the bytes of a file; where they are another file's, which one's.
    pub fn format(path: &Path) -> impl FnOnce(FormatError) -> Self {
        move |source| match mistaken_file(path, &source) {
            Some(mistaken) => mistaken,
            None => Self::Format { path: path.to_owned(), source },
        }
    }
}

/// What people should know where `error` came of opening `path`: that it leads to something else, or the error itself.
pub fn explain(path: &Path, wanted: Expected, error: StoreError) -> StoreError {
    use StoreError::{Format, Io, NoWeights, NotRegular};
    let may_be_mistaken = match &error {
        Format { .. } | Io { .. } | NoWeights { .. } => true,
        NotRegular { path: found, .. } => found == path,
        _ => false,
    };
    if !may_be_mistaken {
        return error;
    }
    if let Some(closed) = closed(path, AccessFlags::R_OK) {
        return StoreError::Closed { path: path.to_owned(), closed };
    }
    let thing = Thing::at(path);
    if wanted.is_at(path) {
        return match error {
            Io { path: file, source, .. } if source.kind() == io::ErrorKind::NotFound && file != path => {
                let advice =
                    format!("fetch it, or copy it from where the others came from: {}", again(&file));
                mistaken(&file, (NOT_THERE.to_owned(), wanted.words_of_file()), advice)
            }
            error => error,
        };
    }
    let found = match &thing {
        Thing::Nothing | Thing::HubName(_) => NOT_THERE.to_owned(),
        Thing::DanglingLink => "a link to a file that is not there".to_owned(),
        Thing::Directory(kind) => kind.name().to_owned(),
        Thing::File(contents) => contents.to_string(),
        Thing::Special(words) => (*words).to_owned(),
        Thing::Unseen => return error,
    };
    mistaken(path, (found, wanted.name()), advice(&thing, wanted, path))
}

/// The error for a file that is damaged because it is another kind of file, or not all of it.
fn mistaken_file(path: &Path, source: &FormatError) -> Option<StoreError> {
    let FormatError::Damaged { what, why } = source else { return None };
    let contents = contents_of(path)?;
    let (wanted, is_it) = match *what {
        SAFETENSORS_FILE => ("a safetensors file", contents == Contents::Safetensors),
        GGUF_FILE => ("a GGUF file", contents == Contents::Gguf),
        ONNX_MODEL => ("an ONNX model", contents == Contents::Onnx),
        // Numbers, which may look like any mark.
        ONNX_DATA => (
            "the data of an ONNX model",
            !matches!(contents, Contents::Empty | Contents::LfsPointer { .. } | Contents::WebPage),
        ),
        _ if what.ends_with(".json") => {
            ("JSON", matches!(contents, Contents::JsonObject | Contents::JsonArray | Contents::JsonLines))
        }
        _ => return None,
    };
    if is_it {
        let advice = match wanted {
            "JSON" => format!("correct it there, or fetch it again: {}", again(path)),
            _ => format!("fetch or copy it again: {}", again(path)),
        };
        return Some(mistaken(path, (format!("damaged: {why}"), wanted), advice));
    }
    let advice = file_advice(&contents, path)?;
    Some(mistaken(path, (contents.to_string(), whole_or(&contents, wanted)), advice))
}

/// What is wanted in place of these contents.
fn whole_or(contents: &Contents, wanted: &'static str) -> &'static str {
    match contents {
        Contents::CutSafetensors { .. } | Contents::LfsPointer { .. } => "the whole file",
        _ => wanted,
    }
}

/// The error for a file that ends before byte `end`, where `what` ends.
pub fn cut_file(path: &Path, n_bytes: usize, (what, end): (&str, usize)) -> StoreError {
    let contents = contents_of(path).filter(Contents::is_failed_download);
    if let Some(contents) =
        contents.filter(|contents| !matches!(contents, Contents::Zeros | Contents::Text { .. }))
    {
        let advice = file_advice(&contents, path).unwrap_or_default();
        return mistaken(path, (contents.to_string(), "the whole file"), advice);
    }
    let found = format!("a file of {n_bytes} bytes without its end: {what} ends at byte {end}");
    let advice = format!("the download or the copy is incomplete; run it again: {}", again(path));
    mistaken(path, (found, "the whole file"), advice)
}

/// The error for bytes of a text file that are another kind of file; none where they are what they seem.
pub fn mistaken_text(path: &Path, bytes: &[u8]) -> Option<StoreError> {
    let contents = Contents::of(bytes, bytes.len() as u64);
    if matches!(contents, Contents::JsonObject | Contents::JsonArray | Contents::JsonLines) {
        return None;
    }
    let advice = file_advice(&contents, path)?;
    Some(mistaken(path, (contents.to_string(), whole_or(&contents, "JSON")), advice))
}

fn mistaken(path: &Path, (found, wanted): (String, &'static str), advice: String) -> StoreError {
    StoreError::Mistaken { path: path.to_owned(), found, wanted, advice }
}

/// A file in the directory of a processed adapter; a path to a file stays as it is.
///
/// # Errors
/// [`StoreError::Mistaken`] for a directory without one, or nothing at all.
pub fn processed_file(path: &Path) -> Result<PathBuf, StoreError> {
    let file = if path.is_dir() { path.join(PROCESSED_WEIGHTS_FILE) } else { path.to_owned() };
    match fs::metadata(&file) {
        Ok(_) => Ok(file),
        Err(source) => Err(explain(path, Expected::ProcessedAdapter, StoreError::io(&file, "open")(source))),
    }
}
