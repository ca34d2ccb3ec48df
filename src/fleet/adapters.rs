//! The adapters that jobs name by digest: fetched once, checked, processed, and kept while there is room.
//!
//! `sha256-HEX/` in the adapters directory holds one, in the form that is used at run time. It gets its name by a
//! rename when it is whole. Names that begin with a dot are work under way, and go at the next start.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_nats::jetstream;
use sha2::{Digest, Sha256};

use super::layout::ADAPTERS;
use super::names::AdapterDigest;
use super::objects::{self, ObjectError};
use super::unpack::{Form, unpack};
use crate::exit;
use crate::store::adapter_files::{PROCESSED_CONFIG_FILE, PROCESSED_WEIGHTS_FILE};

/// `process-lora` of the largest adapter on the slowest disk.
const PROCESS_WITHIN: Duration = Duration::from_secs(600);
/// One that was used within this time may be needed by a job that this process knows nothing of.
const YOUNG: Duration = Duration::from_secs(600);
/// Characters of a program's last words.
const SHOWN: usize = 500;

/// The directory, and who uses what of it.
#[derive(Debug)]
pub struct Adapters {
    dir: PathBuf,
    max_bytes: u64,
    used: Arc<Mutex<BTreeMap<AdapterDigest, usize>>>,
    /// One is fetched at a time: two jobs may want the same one.
    fetching: tokio::sync::Mutex<()>,
}

/// An adapter that must stay.
#[derive(Debug)]
pub struct InUse {
    digest: AdapterDigest,
    path: PathBuf,
    used: Arc<Mutex<BTreeMap<AdapterDigest, usize>>>,
}

impl InUse {
    /// The processed weights.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = used.get_mut(&self.digest) {
            *n -= 1;
            if *n == 0 {
                used.remove(&self.digest);
            }
        }
    }
}

impl Adapters {
    pub fn of(dir: PathBuf, max_bytes: u64) -> Self {
        Self { dir, max_bytes, used: Arc::default(), fetching: tokio::sync::Mutex::default() }
    }

    /// Makes the directory, and removes what an earlier process did not finish.
    ///
    /// # Errors
    /// The system's.
    pub fn prepare(&self) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// What is here.
    pub fn list(&self) -> Vec<AdapterDigest> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut found: Vec<AdapterDigest> =
            entries.filter_map(|entry| AdapterDigest::from_object(entry.file_name().to_str()?)).collect();
        found.sort();
        found
    }

    /// An adapter, fetched if it is not here.
    ///
    /// # Errors
    /// [`ObjectError::Refused`] for one that does not exist, is too large, or is no adapter.
    pub async fn get(
        &self,
        jetstream: &jetstream::Context,
        digest: AdapterDigest,
    ) -> Result<InUse, ObjectError> {
        let _one = self.fetching.lock().await;
        let in_use = self.hold(digest);
        if !in_use.path.exists() {
            self.fetch(jetstream, digest).await?;
        }
        self.touch(digest);
        Ok(in_use)
    }

    fn hold(&self, digest: AdapterDigest) -> InUse {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        *used.entry(digest).or_insert(0) += 1;
        let path = self.dir.join(digest.object()).join(PROCESSED_WEIGHTS_FILE);
        InUse { digest, path, used: Arc::clone(&self.used) }
    }

    async fn fetch(&self, jetstream: &jetstream::Context, digest: AdapterDigest) -> Result<(), ObjectError> {
        let work = self.dir.join(format!(".{}", digest.object()));
        let later = |error: io::Error| ObjectError::Later(format!("{}: {error}", self.dir.display()));
        let _ = fs::remove_dir_all(&work);
        fs::create_dir_all(&work).map_err(later)?;
        let made = self.make(jetstream, digest, &work).await;
        let _ = fs::remove_dir_all(&work);
        made?;
        tracing::info!("the adapter {digest} is here");
        self.make_room();
        Ok(())
    }

    async fn make(
        &self,
        jetstream: &jetstream::Context,
        digest: AdapterDigest,
        work: &Path,
    ) -> Result<(), ObjectError> {
        let later = |error: io::Error| ObjectError::Later(format!("{}: {error}", self.dir.display()));
        let archive = work.join("archive");
        let mut file = File::create_new(&archive).map_err(later)?;
        let mut hasher = Sha256::new();
        let bucket = objects::bucket(jetstream, ADAPTERS).await?;
        let object = digest.object();
        let fetched = objects::read(&bucket, &object, self.max_bytes, |piece| {
            hasher.update(piece);
            file.write_all(piece).map_err(later)
        });
        fetched.await?;
        let found = AdapterDigest::of(hasher);
        if found != digest {
            return Err(ObjectError::Refused(format!("the adapter {digest} has the digest {found}")));
        }
        let unpacked = work.join("unpacked");
        fs::create_dir(&unpacked).map_err(later)?;
        let (to, limit) = (unpacked.clone(), self.max_bytes);
        let form = tokio::task::spawn_blocking(move || unpack(File::open(&archive)?, &to, limit)).await;
        let form = form.map_err(|error| ObjectError::Later(error.to_string()))?;
        let form = form.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => ObjectError::Refused(format!("the adapter {digest}: {error}")),
            _ => later(error),
        })?;
        let ready = match form {
            Form::Processed => unpacked,
            Form::Peft => process(&unpacked, work.join("processed"), digest).await?,
        };
        for file in [PROCESSED_CONFIG_FILE, PROCESSED_WEIGHTS_FILE] {
            File::open(ready.join(file)).and_then(|file| file.sync_all()).map_err(later)?;
        }
        fs::rename(&ready, self.dir.join(digest.object())).map_err(later)?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(later)
    }

    /// The last use, for [`Adapters::make_room`], is the directory's time of change.
    fn touch(&self, digest: AdapterDigest) {
        let dir = File::open(self.dir.join(digest.object()));
        let _ = dir.and_then(|dir| dir.set_modified(SystemTime::now()));
    }

    /// Removes those that were not used for the longest time, until the rest fits.
    fn make_room(&self) {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut entries: Vec<(SystemTime, u64, AdapterDigest)> = Vec::new();
        for digest in self.list() {
            let dir = self.dir.join(digest.object());
            let n_bytes = [PROCESSED_CONFIG_FILE, PROCESSED_WEIGHTS_FILE]
                .into_iter()
                .filter_map(|file| Some(dir.join(file).metadata().ok()?.len()))
                .sum();
            if let Ok(last_use) = dir.metadata().and_then(|found| found.modified()) {
                entries.push((last_use, n_bytes, digest));
            }
        }
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, n_bytes, _)| n_bytes).sum();
        for (last_use, n_bytes, digest) in entries {
            let is_young = last_use.elapsed().is_ok_and(|age| age < YOUNG);
            if total <= self.max_bytes || is_young || used.contains_key(&digest) {
                continue;
            }
            // By way of a name that nobody looks for: what is mapped stays whole.
            let away = self.dir.join(format!(".{}", digest.object()));
            let removed =
                fs::rename(self.dir.join(digest.object()), &away).and_then(|()| fs::remove_dir_all(&away));
            match removed {
                Ok(()) => total -= n_bytes,
                Err(error) => tracing::warn!("the adapter {digest} cannot be removed: {error}"),
            }
        }
    }
}

/// Brings PEFT's form into the one of run time, in a process of its own: its memory goes with it.
async fn process(from: &Path, to: PathBuf, digest: AdapterDigest) -> Result<PathBuf, ObjectError> {
    let (input, output) = (from.to_owned(), to.clone());
    let ran = tokio::task::spawn_blocking(move || run_process_lora(&input, &output)).await;
    let ran = ran.map_err(|error| ObjectError::Later(error.to_string()))?;
    match ran {
        Ok(None) => Ok(to),
        Ok(Some(words)) => Err(ObjectError::Refused(format!("the adapter {digest}: {words}"))),
        Err(error) => Err(ObjectError::Later(format!("process-lora cannot be run: {error}"))),
    }
}

/// What it had to say, if it failed.
fn run_process_lora(from: &Path, to: &Path) -> io::Result<Option<String>> {
    let words = from.with_file_name("words");
    let mut child = std::process::Command::new(std::env::current_exe()?)
        .arg("process-lora")
        .arg("--input_dir")
        .arg(from)
        .arg("--output_dir")
        .arg(to)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&words)?)
        .spawn()?;
    let begin = std::time::Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begin.elapsed() > PROCESS_WITHIN {
            child.kill()?;
            child.wait()?;
            return Ok(Some(format!("process-lora took more than {} s", PROCESS_WITHIN.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    match status.code() {
        Some(0) => Ok(None),
        // The adapter is wrong. Anything else may be better the next time.
        Some(code) if code == i32::from(exit::DATA) => {
            let words = fs::read_to_string(&words).unwrap_or_default();
            let shown: String =
                words.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
            Ok(Some(shown))
        }
        _ => Err(io::Error::other(format!("{status}"))),
    }
}
