//! One thing that was looked at.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Worth to know; nothing fails of it.
    Note,
    /// Something does not work.
    Problem,
}

/// What was found, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub topic: &'static str,
    pub verdict: Verdict,
    pub found: String,
    pub fix: Option<String>,
}

impl Finding {
    pub fn ok(topic: &'static str, found: impl Into<String>) -> Self {
        Self { topic, verdict: Verdict::Ok, found: found.into(), fix: None }
    }

    pub fn note(topic: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { topic, verdict: Verdict::Note, found: found.into(), fix: Some(fix.into()) }
    }

    pub fn problem(topic: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { topic, verdict: Verdict::Problem, found: found.into(), fix: Some(fix.into()) }
    }
}
