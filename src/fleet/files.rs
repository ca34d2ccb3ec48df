//! The bridge's files in the spool, as a member of the spool's group sees them: new/, out/ and hold/. work/ is the
//! daemon's, who is asked.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::names::{JobFormat, SpoolName};
use crate::spool::submit::submit;
use crate::spool::{Place, SpoolError};

/// A spool from outside.
#[derive(Debug, Clone)]
pub struct SpoolFiles {
    root: PathBuf,
}

/// An answer in out/.
#[derive(Debug)]
pub struct AnswerFile {
    pub format: JobFormat,
    pub n_bytes: u64,
    pub file: File,
}

impl SpoolFiles {
    pub fn of(root: PathBuf) -> Self {
        Self { root }
    }

    pub fn out(&self) -> PathBuf {
        self.place(Place::Out)
    }

    fn place(&self, place: Place) -> PathBuf {
        self.root.join(place.name())
    }

    /// Drops a job, whole and synced.
    ///
    /// # Errors
    /// [`SpoolError`] of the disk.
    pub fn drop_in(&self, name: &SpoolName, format: JobFormat, body: &[u8]) -> Result<(), SpoolError> {
        submit(&self.root, OsStr::new(&name.file_name(format)), body).map(drop)
    }

    /// The files of a job in new/ or out/, the oldest name first.
    ///
    /// # Errors
    /// The system's.
    pub fn of_job(&self, place: Place, name: &SpoolName) -> io::Result<Vec<OsString>> {
        // Nearly always it is one of these, and out/ may hold many files.
        let plain = [JobFormat::Json, JobFormat::Jsonl].map(|format| OsString::from(name.file_name(format)));
        let dir = self.place(place);
        let found: Vec<OsString> =
            plain.into_iter().filter(|file| dir.join(file).symlink_metadata().is_ok()).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let all = self.all(place)?;
        Ok(all.into_iter().filter(|(other, _)| other == name).map(|(_, file)| file).collect())
    }

    /// All of the bridge's files in new/ or out/.
    ///
    /// # Errors
    /// The system's.
    pub fn all(&self, place: Place) -> io::Result<Vec<(SpoolName, OsString)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.place(place))? {
            let file = entry?.file_name();
            if let Some((name, _)) = SpoolName::parse(&file) {
                found.push((name, file));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Whether an operator set the job aside.
    ///
    /// # Errors
    /// The system's.
    pub fn is_held(&self, name: &SpoolName) -> io::Result<bool> {
        for entry in fs::read_dir(self.place(Place::Hold))? {
            let file = entry?.file_name();
            let file = file.to_string_lossy();
            // ID.NAME
            let held = file.split_once('.').and_then(|(_, rest)| SpoolName::parse(OsStr::new(rest)));
            if held.is_some_and(|(held, _)| held == *name) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes a job out of new/ before the daemon does; whether it was there.
    pub fn take_back(&self, file: &OsStr) -> bool {
        fs::remove_file(self.place(Place::New).join(file)).is_ok()
    }

    /// Opens an answer; none if it is gone.
    ///
    /// # Errors
    /// The system's; it is not a regular file.
    pub fn answer(&self, name: &OsStr) -> io::Result<Option<AnswerFile>> {
        let Some((_, format)) = SpoolName::parse(name) else { return Ok(None) };
        match open(&self.out().join(name)) {
            Ok(file) => {
                let found = file.metadata()?;
                let n_bytes = found.len();
                if !found.is_file() {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                Ok(Some(AnswerFile { format, n_bytes, file }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    File::options().read(true).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::names::{JobKey, Model};

    #[test]
    fn a_jobs_files_are_found_under_all_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for place in [Place::New, Place::Out, Place::Hold, Place::Work] {
            fs::create_dir(dir.path().join(place.name())).unwrap();
        }
        let files = SpoolFiles::of(dir.path().to_owned());
        let name = SpoolName { model: Model::new("demo").unwrap(), key: JobKey::new("a").unwrap() };
        assert!(files.of_job(Place::Out, &name).unwrap().is_empty());
        files.drop_in(&name, JobFormat::Json, b"{}").unwrap();
        assert_eq!(files.of_job(Place::New, &name).unwrap(), ["fleet.demo.a.json"]);
        for file in ["fleet.demo.a.1kvzb7c8m0a.json", "fleet.demo.ab.json", "x.json", ".fleet.demo.a.json"] {
            fs::write(files.out().join(file), "{}").unwrap();
        }
        assert_eq!(files.of_job(Place::Out, &name).unwrap(), ["fleet.demo.a.1kvzb7c8m0a.json"]);
        assert_eq!(files.all(Place::Out).unwrap().len(), 2);
        assert!(files.answer(OsStr::new("fleet.demo.a.1kvzb7c8m0a.json")).unwrap().is_some());
        assert!(files.answer(OsStr::new("fleet.demo.none.json")).unwrap().is_none());
        std::os::unix::fs::symlink("/etc/passwd", files.out().join("fleet.demo.l.json")).unwrap();
        assert!(files.answer(OsStr::new("fleet.demo.l.json")).is_err(), "a link is not followed");
        assert!(!files.is_held(&name).unwrap());
        fs::write(dir.path().join("hold/1kvzb7c8m0a.fleet.demo.a.json"), "{}").unwrap();
        assert!(files.is_held(&name).unwrap());
        assert!(files.take_back(OsStr::new("fleet.demo.a.json")));
        assert!(!files.take_back(OsStr::new("fleet.demo.a.json")));
    }
}
