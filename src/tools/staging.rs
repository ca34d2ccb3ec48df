//! A directory that is built aside and then takes its place, file by file and configuration last.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::store::atomic_file::sync_directory;
use crate::store::{Blocks, Losses, StoreError};
use crate::tools::ToolError;

/// A directory `TARGET.tmp-PID`; dropped unpublished, it is removed.
pub struct Staging {
    target: PathBuf,
    temporary: PathBuf,
    /// In the order of writing, which is the order of publishing.
    names: Vec<String>,
    /// Before it was filled.
    losses: Losses,
}

impl Staging {
    /// Makes the directory, and the target's parents; removes what crashed builds of this target left.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn create(target: &Path) -> Result<Self, ToolError> {
        let target = real_target(target)?;
        let parent = parent_of(&target);
        fs::create_dir_all(parent).map_err(StoreError::io(parent, "create"))?;
        remove_leftovers(&target);
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(temporary_end());
        let temporary = target.with_file_name(name);
        fs::create_dir(&temporary).map_err(StoreError::io(&temporary, "create"))?;
        Ok(Self { target, temporary, names: Vec::new(), losses: Losses::now() })
    }

    /// Where the directory will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where a file lies that was written and is not published yet.
    pub fn path(&self, name: &str) -> PathBuf {
        self.temporary.join(name)
    }

    /// Writes one file through `fill` and syncs it.
    ///
    /// # Errors
    /// [`StoreError::Io`] and what `fill` says.
    pub fn write(
        &mut self,
        name: &str,
        fill: impl FnOnce(Blocks) -> Result<Blocks, ToolError>,
    ) -> Result<(), ToolError> {
        let path = self.temporary.join(name);
        make_folder(&self.temporary, name)?;
        let file = File::create(&path).map_err(StoreError::io(&path, "create"))?;
        let file = fill(Blocks::new(file))?.finish().map_err(StoreError::io(&path, "write"))?;
        file.sync_all().map_err(StoreError::io(&path, "sync"))?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// Writes one file of known bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn write_bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), ToolError> {
        let path = self.temporary.join(name);
        self.write(name, |mut out| {
            out.write_all(bytes).map_err(StoreError::io(&path, "write"))?;
            Ok(out)
        })
    }

    /// Puts everything in place. A target that is there already gets the files one by one in the order they
    /// were written; files of `known` that the new one does not have are removed.
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::Damaged`] when a mapped file broke meanwhile.
    pub fn publish(mut self, known: &[&str]) -> Result<(), ToolError> {
        self.losses.check()?;
        sync_directory(&self.temporary)?;
        if self.target.exists() {
            for stale in known.iter().filter(|known| !self.names.iter().any(|name| name == **known)) {
                let _ = fs::remove_file(self.target.join(stale));
            }
            for name in std::mem::take(&mut self.names) {
                let path = self.target.join(&name);
                make_folder(&self.target, &name)?;
                fs::rename(self.temporary.join(&name), &path).map_err(StoreError::io(&path, "rename to"))?;
            }
            sync_directory(&self.target)?;
        } else {
            fs::rename(&self.temporary, &self.target).map_err(StoreError::io(&self.target, "rename to"))?;
            sync_directory(parent_of(&self.target))?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

/// How the names of temporary files and directories of this process end; those of files go on with a number.
pub(super) fn temporary_end() -> String {
    format!(".tmp-{}", std::process::id())
}

/// A path with a last component to put a suffix on.
pub(super) fn real_target(target: &Path) -> Result<PathBuf, ToolError> {
    // Through a link, the files belong where it leads.
    match fs::canonicalize(target) {
        Ok(real) => Ok(real),
        Err(_) if target.file_name().is_some() => Ok(target.to_owned()),
        Err(source) => Err(StoreError::io(target, "open")(source).into()),
    }
}

pub(super) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Names may lie in a directory of the directory, which itself is never made again: it may have been removed on purpose.
fn make_folder(directory: &Path, name: &str) -> Result<(), StoreError> {
    let Some((folder, _)) = name.split_once('/') else { return Ok(()) };
    let folder = directory.join(folder);
    match fs::create_dir(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(StoreError::io(&folder, "create")(error))
        }
        _ => Ok(()),
    }
}

/// Removes `TARGET.tmp-PID` directories of processes that are gone.
fn remove_leftovers(target: &Path) {
    let prefix = format!("{}.tmp-", target.file_name().unwrap_or_default().to_string_lossy());
    let Ok(entries) = fs::read_dir(parent_of(target)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.parse::<u32>().ok());
        if let Some(pid) = pid
            && (pid == std::process::id() || !Path::new("/proc").join(pid.to_string()).exists())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
