//! A rendered prompt: its text, and where message contents stand that must not become special tokens.

use std::ops::Range;

use super::added::Foreign;
use super::error::TextError;
use super::special::Colours;

/// Most bytes of text that one prompt may have: the documented limit before tokenization.
pub const MAX_PROMPT_BYTES: usize = 1 << 20;

/// Text for the tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    text: String,
    /// Byte ranges, rising and apart, that hold characters of contents. What lies between two of them may be of
    /// contents too, but then it has no character of a special token.
    foreign: Vec<Range<usize>>,
}

impl Prompt {
    /// Text whose special tokens are all meant.
    ///
    /// # Errors
    /// `TooLong` above `MAX_PROMPT_BYTES`.
    pub fn trusted(text: impl Into<String>) -> Result<Self, TextError> {
        Self::checked(text.into(), Vec::new())
    }

    /// A rendering in which the characters of contents are coloured.
    pub(super) fn from_coloured(coloured: &str, colours: &Colours) -> Result<Self, TextError> {
        let mut text = String::with_capacity(coloured.len());
        let mut foreign: Vec<Range<usize>> = Vec::new();
        let mut is_broken = true;
        for character in coloured.chars() {
            let start = text.len();
            let Some(below) = colours.below(character) else {
                text.push(character);
                is_broken |= colours.know(character);
                continue;
            };
            text.push(below);
            match foreign.last_mut().filter(|_| !is_broken) {
                Some(range) => range.end = text.len(),
                None => foreign.push(start..text.len()),
            }
            is_broken = false;
        }
        Self::checked(text, foreign)
    }

    fn checked(text: String, foreign: Vec<Range<usize>>) -> Result<Self, TextError> {
        if text.len() > MAX_PROMPT_BYTES {
            return Err(TextError::TooLong { found: text.len(), limit: MAX_PROMPT_BYTES });
        }
        Ok(Self { text, foreign })
    }

    /// The text as the model would read it (`formatted_complete_request`).
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn is_trusted(&self) -> bool {
        self.foreign.is_empty()
    }
}

impl Foreign for Prompt {
    /// Bytes of a message's content cannot be in a special token.
    fn part(&self, range: &Range<usize>) -> Option<Range<usize>> {
        let first = self.foreign.partition_point(|foreign| foreign.end <= range.start);
        self.foreign.get(first).filter(|foreign| foreign.start < range.end).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::SpecialTokens;

    #[test]
    fn colours_become_ranges() {
        let special = SpecialTokens::new(["<b>".to_owned()]);
        let colours = special.colours([]).unwrap();
        let coloured = format!("<b>{}<b>{} c", colours.paint("<b> xy <b>"), colours.paint("b"));
        let prompt = Prompt::from_coloured(&coloured, &colours).unwrap();
        assert_eq!(prompt.text(), "<b><b> xy <b><b>b c");
        assert_eq!(prompt.foreign, [3..13, 16..17]);
        for (range, is_foreign) in
            [(0..3, false), (2..5, true), (10..13, true), (13..16, false), (16..17, true)]
        {
            assert_eq!(prompt.part(&range).is_some(), is_foreign, "{range:?}");
        }
    }

    #[test]
    fn long_text_is_refused() {
        assert!(Prompt::trusted("a".repeat(MAX_PROMPT_BYTES)).is_ok());
        let error = Prompt::trusted("a".repeat(MAX_PROMPT_BYTES + 1)).unwrap_err();
        assert_eq!(error, TextError::TooLong { found: MAX_PROMPT_BYTES + 1, limit: MAX_PROMPT_BYTES });
    }
}
