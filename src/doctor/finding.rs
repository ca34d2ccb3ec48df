//! One thing that was looked at.

use std::path::Path;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Worth to know; nothing fails of it.
    Note,
    /// Something does not work.
    Problem,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fix {
    /// For root's shell, as it stands.
    Command(String),
    /// For a person.
    Advice(String),
}

/// What was found, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub topic: String,
    pub verdict: Verdict,
    pub found: String,
    pub fix: Option<Fix>,
}

impl Finding {
    pub fn ok(topic: &str, found: impl Into<String>) -> Self {
        Self { topic: topic.into(), verdict: Verdict::Ok, found: found.into(), fix: None }
    }

    pub fn note(topic: &str, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Note, ..Self::ok(topic, found) }
    }

    pub fn problem(topic: &str, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Problem, ..Self::ok(topic, found) }
    }

    pub fn command(self, command: impl Into<String>) -> Self {
        Self { fix: Some(Fix::Command(command.into())), ..self }
    }

    pub fn advice(self, advice: impl Into<String>) -> Self {
        Self { fix: Some(Fix::Advice(advice.into())), ..self }
    }
}

impl Fix {
    pub fn text(&self) -> &str {
        match self {
            Self::Command(text) | Self::Advice(text) => text,
        }
    }
}

/// A path as one word of a shell's command.
pub fn word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_shell() {
        for text in ["/var/spool/jetspool", "/a b", "/it's", "/$(x)"] {
            let command = format!("printf %s {}", word(Path::new(text)));
            let output = std::process::Command::new("sh").arg("-c").arg(command).output().unwrap();
            assert_eq!(output.stdout, text.as_bytes());
        }
    }
}
