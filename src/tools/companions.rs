//! What lies beside the weights in a checkpoint's directory, and comes along to a checkpoint that is made of it:
//! tokenizer, templates, generation settings.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::error::ToolError;
use super::staging::Staging;
use super::templates::{NAMED_DIR, named_files};
use crate::format::adapter::listed;
use crate::store::{StoreError, map_file};

/// Largest file that comes along.
const MAX_BYTES: u64 = 100 << 20;
/// Ends of the names of weights, in forms that the new ones replace or make stale.
const WEIGHT_ENDS: [&str; 16] = [
    ".safetensors",
    ".safetensors.index.json",
    ".bin",
    ".bin.index.json",
    ".pth",
    ".pt",
    ".ckpt",
    ".onnx",
    ".onnx.data",
    ".onnx_data",
    ".data",
    ".gguf",
    ".h5",
    ".msgpack",
    ".engine",
    ".npz",
];

#[derive(Debug, Default)]
pub struct Companions {
    /// Names of files that come along, sorted; those of templates with their directory.
    pub names: Vec<String>,
    pub n_bytes: u64,
    /// What does not, for people.
    pub notes: Vec<String>,
}

impl Companions {
    /// Lists the files that come along, and what is left; `is_ours` names what is written anew.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn list(model_dir: &Path, is_ours: impl Fn(&str) -> bool) -> Result<Self, ToolError> {
        let mut found = Self::default();
        let (mut left, mut folders, mut dangling) = (Vec::new(), Vec::new(), Vec::new());
        for entry in fs::read_dir(model_dir).map_err(StoreError::io(model_dir, "list"))? {
            let entry = entry.map_err(StoreError::io(model_dir, "list"))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Through links: caches of downloads are full of them.
            let Ok(metadata) = fs::metadata(entry.path()) else {
                dangling.push(name);
                continue;
            };
            if is_ours(&name) || name.starts_with('.') {
                continue;
            }
            if metadata.is_dir() && name == NAMED_DIR {
                found
                    .names
                    .extend(named_files(&entry.path())?.into_iter().map(|file| format!("{name}/{file}")));
            } else if metadata.is_dir() {
                folders.push(name);
            } else if WEIGHT_ENDS.iter().any(|end| name.ends_with(end)) || metadata.len() > MAX_BYTES {
                left.push(format!("{name} ({} MB)", metadata.len().div_ceil(1 << 20)));
            } else if metadata.is_file() {
                found.n_bytes += metadata.len();
                found.names.push(name);
            }
        }
        found.names.sort();
        left.sort();
        folders.sort();
        dangling.sort();
        for (what, names) in [("files", left), ("directories", folders), ("links to nothing", dangling)] {
            if !names.is_empty() {
                let names = listed(&names.iter().map(String::as_str).collect::<Vec<_>>());
                found.notes.push(format!("{what} of the checkpoint do not come along: {names}"));
            }
        }
        Ok(found)
    }

    /// Copies the files.
    ///
    /// # Errors
    /// [`StoreError`] when one cannot be read or written.
    pub fn copy(&self, model_dir: &Path, staging: &mut Staging) -> Result<(), ToolError> {
        for name in &self.names {
            let from = model_dir.join(name);
            let bytes = map_file(&from)?;
            staging.write(name, |mut out| {
                out.write_all((*bytes).as_ref()).map_err(StoreError::io(&from, "copy"))?;
                Ok(out)
            })?;
        }
        Ok(())
    }
}
