//! Names of the fleet: models, priorities, jobs, devices, adapters, and the subjects and file names made of them.
//!
//! All of them come from a network. Whatever is one of these types has no bytes but `A-Z a-z 0-9 _ -`: it is a
//! word of a subject and a part of a file name, never a path.

use std::ffi::OsStr;
use std::fmt;

use sha2::{Digest, Sha256};

/// Bytes of a model's or a device's name.
pub const MAX_NAME: usize = 48;
/// Bytes of a job's id.
const MAX_ID: usize = 64;
/// Hexadecimal digits of an id that was made from another one.
const N_HASH: usize = 32;
/// What names of the bridge's files in the spool begin with.
const SPOOL_PREFIX: &str = "fleet.";

/// What stands where a name should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no {what}; wanted up to {max} letters, digits, _ and -")]
pub struct NotAName {
    what: &'static str,
    found: String,
    max: usize,
}

/// What an engine is called in the queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Model(String);

/// What a machine is called in the fleet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device(String);

/// What tells a job from all others of its model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobKey(String);

/// Which jobs are pulled first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    High,
    Normal,
    Low,
}

/// The digest of an adapter: the SHA-256 of its archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterDigest([u8; 32]);

/// How the requests of a job stand in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JobFormat {
    #[default]
    Json,
    Jsonl,
}

/// The name of a job of the fleet in the spool, in all its places.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpoolName {
    pub model: Model,
    pub key: JobKey,
}

impl Model {
    /// # Errors
    /// [`NotAName`].
    pub fn new(name: &str) -> Result<Self, NotAName> {
        checked(name, "name of a model", MAX_NAME).map(Self)
    }

    /// The name of a directory with what does not fit replaced; `engine` for nothing.
    pub fn fitting(name: &OsStr) -> Self {
        Self(fitting(&name.to_string_lossy(), "engine"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The durable consumer of its jobs of a priority.
    pub fn consumer(&self, priority: Priority) -> String {
        format!("{self}-{priority}")
    }

    /// Where its jobs of a priority are published.
    pub fn jobs(&self, priority: Priority) -> String {
        format!("JETSPOOL.jobs.{self}.{priority}")
    }

    /// Where a job's answer is published.
    pub fn answer(&self, key: &JobKey) -> String {
        format!("JETSPOOL.answers.{self}.{key}")
    }

    /// Where jobs go that are given up.
    pub fn dead(&self) -> String {
        format!("JETSPOOL.dead.{self}")
    }
}

impl Device {
    /// # Errors
    /// [`NotAName`].
    pub fn new(name: &str) -> Result<Self, NotAName> {
        checked(name, "name of a device", MAX_NAME).map(Self)
    }

    /// A host's name with what does not fit replaced.
    pub fn fitting(name: &OsStr) -> Self {
        Self(fitting(&name.to_string_lossy(), "device"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl JobKey {
    /// # Errors
    /// [`NotAName`].
    pub fn new(name: &str) -> Result<Self, NotAName> {
        checked(name, "id of a job", MAX_ID).map(Self)
    }

    /// Of a message: what its producer called it, else its number in the stream. An id of other bytes, or a
    /// longer one, is replaced by its digest: equal ids stay equal.
    pub fn of_message(id: Option<&str>, stream_sequence: u64) -> Self {
        match id {
            None => Self(format!("s{stream_sequence}")),
            Some(id) => Self::new(id).unwrap_or_else(|_| {
                let hex = hex(&Sha256::digest(id.as_bytes()));
                Self(format!("x{}", &hex[..N_HASH]))
            }),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Priority {
    /// The first ones first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    pub fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl AdapterDigest {
    /// Of the bytes of an archive.
    pub fn of(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// Reads `sha256:HEX`, as requests have it. None for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        Self::from_hex(text.strip_prefix("sha256:")?)
    }

    /// Reads the name of an object or a directory, `sha256-HEX`.
    pub fn from_object(name: &str) -> Option<Self> {
        Self::from_hex(name.strip_prefix("sha256-")?)
    }

    /// Whether a text is meant to be one, well formed or not: no path begins so.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with("sha256:")
    }

    /// What its object and its directory are called.
    pub fn object(self) -> String {
        format!("sha256-{}", hex(&self.0))
    }

    fn from_hex(text: &str) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut digest = [0; 32];
        let text = text.as_bytes();
        if text.len() != 2 * digest.len() {
            return None;
        }
        for (byte, pair) in digest.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(digest))
    }
}

impl JobFormat {
    /// Reads a header; none for another word.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "json" => Some(Self::Json),
            "jsonl" => Some(Self::Jsonl),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Jsonl => "jsonl",
        }
    }
}

impl SpoolName {
    /// What the object of a large job is called; that of an answer has the device's name after it.
    pub fn object(&self) -> String {
        format!("{}.{}", self.model, self.key)
    }

    /// What its file is called when it is dropped.
    pub fn file_name(&self, format: JobFormat) -> String {
        format!("{SPOOL_PREFIX}{}.{}.{}", self.model, self.key, format.name())
    }

    /// Reads the name of a file in new/, out/, done/ or failed/, with or without the spool's own id before the
    /// suffix. None for files that are not the bridge's.
    pub fn parse(name: &OsStr) -> Option<(Self, JobFormat)> {
        let mut parts = name.to_str()?.strip_prefix(SPOOL_PREFIX)?.split('.');
        let (model, key) = (Model::new(parts.next()?).ok()?, JobKey::new(parts.next()?).ok()?);
        let mut last = parts.next()?;
        if let Some(suffix) = parts.next() {
            JobKey::new(last).ok()?;
            last = suffix;
        }
        let format = JobFormat::parse(last)?;
        parts.next().is_none().then_some((Self { model, key }, format))
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// As requests name it.
impl fmt::Display for AdapterDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex(&self.0))
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn checked(name: &str, what: &'static str, max: usize) -> Result<String, NotAName> {
    if (1..=max).contains(&name.len()) && name.bytes().all(is_word) {
        return Ok(name.to_owned());
    }
    // Enough to see which one it is.
    Err(NotAName { what, found: name.chars().take(max).collect(), max })
}

fn fitting(name: &str, empty: &str) -> String {
    let words = name.chars().map(|c| if c.is_ascii() && is_word(c as u8) { c } else { '-' });
    let name: String = words.take(MAX_NAME).collect();
    if name.is_empty() { empty.to_owned() } else { name }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_the_network_are_words() {
        let longest = "n".repeat(MAX_NAME);
        for name in ["a", "Qwen2-5_int4", &longest] {
            assert_eq!(Model::new(name).unwrap().as_str(), name);
        }
        let too_long = "n".repeat(MAX_NAME + 1);
        for name in ["", ".", "..", "a.b", "a/b", "a b", "*", ">", "é", "a\0", "a\n", &too_long] {
            assert!(Model::new(name).is_err() && Device::new(name).is_err(), "{name:?}");
        }
        assert!(JobKey::new(&"n".repeat(64)).is_ok() && JobKey::new(&"n".repeat(65)).is_err());
        assert_eq!(Model::fitting(OsStr::new("Qwen2.5 0.5B é")).as_str(), "Qwen2-5-0-5B--");
        assert_eq!(Model::fitting(OsStr::new("")).as_str(), "engine");
    }

    #[test]
    fn every_message_has_an_id_and_equal_ids_stay_equal() {
        let key = |id: Option<&str>| JobKey::of_message(id, 17).0;
        assert_eq!(key(Some("order-1")), "order-1");
        assert_eq!(key(None), "s17");
        // `printf %s ../../etc/passwd | sha256sum`
        assert_eq!(key(Some("../../etc/passwd")), "x3754d6cb3a38e1185e5b382d5f3ef3f1");
        assert_eq!(key(Some(&"n".repeat(65))), key(Some(&"n".repeat(65))));
        assert_ne!(key(Some("a b")), key(Some("a.b")));
        assert!(JobKey::new(&key(Some(""))).is_ok());
    }

    #[test]
    fn names_in_the_spool_read_back() {
        let name = SpoolName { model: Model::new("demo").unwrap(), key: JobKey::new("a-1").unwrap() };
        for format in [JobFormat::Json, JobFormat::Jsonl] {
            let file = name.file_name(format);
            assert_eq!(SpoolName::parse(OsStr::new(&file)), Some((name.clone(), format)));
        }
        // As the spool calls the second answer of a name.
        let second = SpoolName::parse(OsStr::new("fleet.demo.a-1.1kvzb7c8m0a.json"));
        assert_eq!(second, Some((name, JobFormat::Json)));
        for other in [
            "fleet.json",
            "fleet.demo.json",
            "x.json",
            "fleet.demo.a.b.c.json",
            "fleet.demo.a.txt",
            "fleet..a.json",
        ] {
            assert_eq!(SpoolName::parse(OsStr::new(other)), None, "{other}");
        }
    }

    #[test]
    fn digests_read_back() {
        let digest = AdapterDigest::of(Sha256::new());
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), format!("sha256:{empty}"));
        assert_eq!(AdapterDigest::parse(&digest.to_string()), Some(digest));
        assert_eq!(AdapterDigest::from_object(&digest.object()), Some(digest));
        for text in
            ["", "sha256:", &format!("sha256:{}", empty.to_uppercase()), &format!("sha256:{empty}0"), empty]
        {
            assert_eq!(AdapterDigest::parse(text), None, "{text}");
        }
    }
}
