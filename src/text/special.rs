//! Message contents must not smuggle special tokens into a prompt, whatever a template does with them.
//!
//! A conversation is rendered twice. The first rendering is the prompt's text. In the second, every character of a
//! content that occurs in some special token is replaced by a colour: a private-use character of its own that neither
//! messages nor template hold. Templates carry colours through concatenation, slices, loops and joins as they carry any
//! character; filters that look at characters (lower, trim, replace, …) are replaced by ones that see through colours
//! (`coloured.rs`). If the second rendering without its colours is the first one, then each of its characters that is
//! not a colour was put there by the template: a special token counts where it has no coloured character. If it is
//! not, the template compares contents with texts of its own; these are coloured too (`scan.rs`) and it is rendered
//! again; a template that still differs is refused, so that nothing is ever guessed.
//!
//! Tokens that are added but not special (`</think>`) count everywhere: templates look for them.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::error::TextError;

/// The supplementary private-use planes, from which colours are taken.
const PRIVATE_PLANES: [Range<u32>; 2] = [0x10_0000..0x10_FFFE, 0xF_0000..0xF_FFFE];

/// The texts of a tokenizer's special tokens. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct SpecialTokens {
    texts: Arc<[String]>,
    /// All characters of the texts, in order, and what they are in upper and lower case: normalizers may change it.
    alphabet: Arc<[char]>,
}

/// The characters that stand for an alphabet's: the character at `alphabet[idx]` is `base + idx`.
#[derive(Debug, Clone)]
pub(super) struct Colours {
    alphabet: Arc<[char]>,
    base: u32,
}

impl SpecialTokens {
    pub fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let mut texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        texts.sort();
        texts.dedup();
        let all = texts.iter().flat_map(|text| text.chars());
        let cases = |c: char| std::iter::once(c).chain(c.to_lowercase()).chain(c.to_uppercase());
        let mut alphabet: Vec<char> = all.flat_map(cases).collect();
        alphabet.sort_unstable();
        alphabet.dedup();
        Self { texts: texts.into(), alphabet: alphabet.into() }
    }

    pub fn contains(&self, text: &str) -> bool {
        self.texts.binary_search_by(|known| known.as_str().cmp(text)).is_ok()
    }

    /// Whether a text could be a part of a special token: it holds one, or could begin, end or stand inside one.
    pub(super) fn may_touch(&self, text: &str) -> bool {
        let begins = |token: &str| {
            let mut ends = token.char_indices().map(|(end, _)| end).skip(1);
            ends.any(|end| text.ends_with(&token[..end]) || text.starts_with(&token[end..]))
        };
        self.texts.iter().any(|token| text.contains(token.as_str()) || token.contains(text) || begins(token))
    }

    /// Whether all characters of a text occur in special tokens.
    pub(super) fn spells(&self, text: &str) -> bool {
        text.chars().all(|character| self.alphabet.binary_search(&character).is_ok())
    }

    /// Colours that none of `texts` holds; none where no content can be a part of a special token.
    ///
    /// # Errors
    /// `NoColours` if the texts hold private-use characters without a gap for them.
    pub(super) fn colours<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Result<Colours, TextError> {
        let is_private = |c: &u32| PRIVATE_PLANES.iter().any(|plane| plane.contains(c));
        let mut taken: Vec<u32> =
            texts.into_iter().flat_map(|text| text.chars().map(u32::from).filter(is_private)).collect();
        taken.extend(self.alphabet.iter().map(|&c| u32::from(c)).filter(is_private));
        taken.sort_unstable();
        taken.dedup();
        let n = u32::try_from(self.alphabet.len()).map_err(|_| TextError::NoColours)?;
        let gap = PRIVATE_PLANES.into_iter().find_map(|plane| {
            let inside = taken.iter().copied().filter(|c| plane.contains(c));
            let starts = std::iter::once(plane.start).chain(inside.clone().map(|c| c + 1));
            let ends = inside.chain([plane.end]);
            starts.zip(ends).find(|(start, end)| end - start >= n)
        });
        let (base, _) = gap.ok_or(TextError::NoColours)?;
        Ok(Colours { alphabet: Arc::clone(&self.alphabet), base })
    }
}

impl Colours {
    /// The text with every character of the alphabet coloured.
    pub fn paint<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !text.chars().any(|character| self.index(character).is_some()) {
            return Cow::Borrowed(text);
        }
        Cow::Owned(text.chars().map(|character| self.paint_character(character)).collect())
    }

    pub fn paint_character(&self, character: char) -> char {
        let colour =
            self.index(character).and_then(|idx| char::from_u32(self.base + u32::try_from(idx).ok()?));
        colour.unwrap_or(character)
    }

    /// The character of the alphabet that a colour stands for.
    pub fn below(&self, colour: char) -> Option<char> {
        let idx = u32::from(colour).checked_sub(self.base)?;
        self.alphabet.get(idx as usize).copied()
    }

    /// The text as it reads.
    pub fn strip<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !self.are_in(text) {
            return Cow::Borrowed(text);
        }
        Cow::Owned(self.stripped(text).collect())
    }

    /// The characters of a text as it reads.
    pub fn stripped<'a>(&'a self, text: &'a str) -> impl Iterator<Item = char> + 'a {
        text.chars().map(|character| self.below(character).unwrap_or(character))
    }

    pub fn are_in(&self, text: &str) -> bool {
        // Colours have four bytes, which begin with these.
        let may_be = text.bytes().any(|byte| byte >= 0xF3);
        may_be && text.chars().any(|character| self.below(character).is_some())
    }

    /// Whether the alphabet has a character.
    pub fn know(&self, character: char) -> bool {
        self.index(character).is_some()
    }

    fn index(&self, character: char) -> Option<usize> {
        self.alphabet.binary_search(&character).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn special() -> SpecialTokens {
        SpecialTokens::new(["<|end|>", "</s>", "$"].map(str::to_owned))
    }

    #[test]
    fn colours_come_and_go() {
        let special = special();
        let colours = special.colours(["plain"]).unwrap();
        for text in ["", "ab ü 世", "<|END|>", "x</s>é$"] {
            let painted = colours.paint(text);
            assert_eq!(colours.strip(&painted), text);
            assert_eq!(painted.chars().count(), text.chars().count());
            assert!(!painted.contains(['<', '$', 'E', 'n', '/']), "{text}");
        }
        assert_eq!(colours.paint("ab ü 世"), "ab ü 世");
        assert!(!colours.are_in("ab ü 世 \u{10FFFD}"));
    }

    #[test]
    fn colours_are_new() {
        let special = special();
        let taken: String = ('\u{100000}'..'\u{10FFFE}').collect();
        assert_eq!(special.colours([]).unwrap().base, 0x10_0000);
        assert_eq!(special.colours(["\u{100005}"]).unwrap().base, 0x10_0006);
        assert_eq!(special.colours([taken.as_str()]).unwrap().base, 0xF_0000);
        let all: String = ('\u{F0000}'..'\u{FFFFE}').collect();
        assert_eq!(special.colours([taken.as_str(), &all]).unwrap_err(), TextError::NoColours);
    }

    #[test]
    fn parts_of_special_tokens_are_known() {
        let special = special();
        for text in ["<|end|>", "a</s>b", "text <|", "|> text", "end", "<", "a$"] {
            assert!(special.may_touch(text), "{text}");
        }
        for text in ["</think>", "think", "<tools>\n", "a < b"] {
            assert!(!special.may_touch(text), "{text}");
        }
        assert!(special.spells("<|DNE|>") && !special.spells("<|en f"));
    }
}
