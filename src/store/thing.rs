//! What a path leads to, by a look at it.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::directory::DirectoryKind;
use super::map::{kind_of, open_regular};
use crate::format::contents::{Contents, ENOUGH_BYTES};

/// Ends of the names of files, which no model has.
const FILE_ENDS: [&str; 7] = [".safetensors", ".gguf", ".json", ".jsonl", ".onnx", ".bin", ".engine"];

/// What is there.
pub(super) enum Thing {
    Nothing,
    /// Nothing, and the path has the form of a model's name on a hub: `owner/name`.
    HubName(String),
    DanglingLink,
    Directory(DirectoryKind),
    File(Contents),
    /// A pipe, a device.
    Special(&'static str),
    Unseen,
}

impl Thing {
    pub(super) fn at(path: &Path) -> Self {
        let Ok(metadata) = fs::metadata(path) else { return Self::not_there(path) };
        if metadata.is_dir() {
            return Self::Directory(DirectoryKind::of(path));
        }
        if !metadata.is_file() {
            return Self::Special(kind_of(&metadata));
        }
        contents_of(path).map_or(Self::Unseen, Self::File)
    }

    fn not_there(path: &Path) -> Self {
        match fs::symlink_metadata(path) {
            Ok(_) => Self::DanglingLink,
            // A file is taken for a directory.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                path.parent().map_or(Self::Nothing, Self::at)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                hub_name(path).map_or(Self::Nothing, Self::HubName)
            }
            Err(_) => Self::Unseen,
        }
    }
}

/// What the first bytes of a file say that can be read.
pub(super) fn contents_of(path: &Path) -> Option<Contents> {
    let (file, metadata) = open_regular(path).ok()?;
    let mut start = Vec::new();
    file.take(ENOUGH_BYTES).read_to_end(&mut start).ok()?;
    Some(Contents::of(&start, metadata.len()))
}

/// `owner/name`, also behind the address of the hub. A path whose first part is a directory here is none.
fn hub_name(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let text = text.trim_start_matches("https://").trim_start_matches("http://");
    let name = ["huggingface.co/", "hf.co/"].into_iter().find_map(|hub| text.strip_prefix(hub));
    let (is_address, name) = (name.is_some(), name.unwrap_or(text).trim_end_matches('/'));
    let (owner, model) = name.split_once('/')?;
    let is_word = |word: &str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !word.is_empty() && !word.starts_with('.') && word.chars().all(is_plain)
    };
    let is_here = !is_address && Path::new(owner).exists();
    let is_file = FILE_ENDS.iter().any(|end| model.ends_with(end));
    (is_word(owner) && is_word(model) && !is_here && !is_file).then(|| format!("{owner}/{model}"))
}

/// Never empty.
pub(super) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
