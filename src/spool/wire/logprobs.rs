//! The likeliest tokens of each step: 8 bytes for each until the answer is written.

use std::fmt;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeSeq, SerializeStruct, Serializer};

/// Who knows the bytes that a token stands for; they need not be UTF-8 by themselves.
pub trait TokenBytes: Send + Sync {
    fn token_bytes(&self, token: u32) -> Vec<u8>;
}

/// By step, each by falling probability: the token, and the natural logarithm of its probability at
/// temperature 1.
#[derive(Clone)]
pub struct Logprobs {
    steps: Vec<Box<[(u32, f32)]>>,
    names: Arc<dyn TokenBytes>,
}

/// One candidate of one step, in the words of the answer file.
struct Entry<'a> {
    token: u32,
    logprob: f32,
    names: &'a dyn TokenBytes,
}

/// The same in OpenAI's words.
#[derive(Default)]
pub struct NamedLogprob<'a> {
    token: u32,
    pub logprob: f32,
    names: Option<&'a dyn TokenBytes>,
}

struct Step<'a>(&'a [(u32, f32)], &'a dyn TokenBytes);

impl Logprobs {
    pub fn new(names: Arc<dyn TokenBytes>) -> Self {
        Self { steps: Vec::new(), names }
    }

    /// Adds the candidates of the next step.
    pub fn push(&mut self, step: impl IntoIterator<Item = (u32, f32)>) {
        self.steps.push(step.into_iter().collect());
    }

    /// The candidates of each step.
    pub fn steps(&self) -> impl Iterator<Item = impl Iterator<Item = NamedLogprob<'_>>> {
        let names = self.names.as_ref();
        let named = move |&(token, logprob)| NamedLogprob { token, logprob, names: Some(names) };
        self.steps.iter().map(move |step| step.iter().map(named))
    }
}

impl NamedLogprob<'_> {
    pub fn bytes(&self) -> Vec<u8> {
        self.names.map_or_else(Vec::new, |names| names.token_bytes(self.token))
    }

    /// The bytes as a text; what is no text by itself is shown as U+FFFD.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

impl Serialize for NamedLogprob<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.bytes();
        let mut entry = serializer.serialize_struct("NamedLogprob", 3)?;
        entry.serialize_field("token", &String::from_utf8_lossy(&bytes))?;
        entry.serialize_field("logprob", &self.logprob)?;
        entry.serialize_field("bytes", &bytes)?;
        entry.end()
    }
}

impl PartialEq for Logprobs {
    fn eq(&self, other: &Self) -> bool {
        self.steps == other.steps
    }
}

impl fmt::Debug for Logprobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.steps).finish()
    }
}

impl Serialize for Logprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.steps.len()))?;
        for step in &self.steps {
            list.serialize_element(&Step(step, self.names.as_ref()))?;
        }
        list.end()
    }
}

impl Serialize for Step<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|&(token, logprob)| Entry { token, logprob, names: self.1 }))
    }
}

impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.names.token_bytes(self.token);
        let mut entry = serializer.serialize_struct("Entry", 4)?;
        entry.serialize_field("bytes", &bytes)?;
        entry.serialize_field("logprob", &self.logprob)?;
        entry.serialize_field("token", &String::from_utf8_lossy(&bytes))?;
        entry.serialize_field("token_id", &self.token)?;
        entry.end()
    }
}
