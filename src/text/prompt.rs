//! A rendered prompt: its text, and where message contents spell something that must not become a special token.

use super::error::TextError;

/// Most bytes of text that one prompt may have: the documented limit before tokenization.
pub const MAX_PROMPT_BYTES: usize = 1 << 20;

/// Text for the tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    text: String,
    /// Byte positions, rising, that no special token may span (see `Prompt::breaks_token`).
    breaks: Vec<usize>,
}

impl Prompt {
    /// Text whose special tokens are all meant.
    ///
    /// # Errors
    /// `TooLong` above `MAX_PROMPT_BYTES`.
    pub fn trusted(text: impl Into<String>) -> Result<Self, TextError> {
        Self::with_breaks(text.into(), Vec::new())
    }

    /// A rendering in which `marker` stands at every place that no special token may span; the markers go away.
    pub(super) fn from_marked(marked: &str, marker: char) -> Result<Self, TextError> {
        let mut text = String::with_capacity(marked.len());
        let mut breaks = Vec::new();
        for (piece_idx, piece) in marked.split(marker).enumerate() {
            if piece_idx > 0 && breaks.last() != Some(&text.len()) {
                breaks.push(text.len());
            }
            text.push_str(piece);
        }
        Self::with_breaks(text, breaks)
    }

    fn with_breaks(text: String, breaks: Vec<usize>) -> Result<Self, TextError> {
        if text.len() > MAX_PROMPT_BYTES {
            return Err(TextError::TooLong { found: text.len(), limit: MAX_PROMPT_BYTES });
        }
        Ok(Self { text, breaks })
    }

    /// The text as the model would read it (`formatted_complete_request`).
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn is_trusted(&self) -> bool {
        self.breaks.is_empty()
    }

    /// Whether bytes `start..end` cannot be a special token because a message's content has a part in it.
    /// A token of one character has no inside: its break stands right behind it.
    pub(super) fn breaks_token(&self, start: usize, end: usize) -> bool {
        let first = self.breaks.partition_point(|&position| position <= start);
        let Some(&position) = self.breaks.get(first) else {
            return false;
        };
        let one_character = || self.text.get(start..end).is_some_and(|token| token.chars().nth(1).is_none());
        position < end || (position == end && one_character())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_become_breaks() {
        let prompt = Prompt::from_marked("a<@|b@@|>c", '@').unwrap();
        assert_eq!(prompt.text(), "a<|b|>c");
        assert_eq!(prompt.breaks, [2, 4]);
        assert!(prompt.breaks_token(1, 6));
        assert!(prompt.breaks_token(0, 3));
        assert!(!prompt.breaks_token(2, 4));
        assert!(!prompt.breaks_token(4, 7));
        assert!(prompt.breaks_token(1, 2), "one character with its break behind");
    }

    #[test]
    fn long_text_is_refused() {
        assert!(Prompt::trusted("a".repeat(MAX_PROMPT_BYTES)).is_ok());
        let error = Prompt::trusted("a".repeat(MAX_PROMPT_BYTES + 1)).unwrap_err();
        assert_eq!(error, TextError::TooLong { found: MAX_PROMPT_BYTES + 1, limit: MAX_PROMPT_BYTES });
    }
}
