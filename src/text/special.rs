//! Message contents must not smuggle special tokens into a prompt.
//!
//! Before rendering, every place of a content that spells a special token, or could complete one together with the text
//! around it, gets a marker: a noncharacter that no message and no template holds. Rendering carries the markers along
//! through whatever the template does. `Prompt` then takes them out and remembers their positions; the tokenizer lets no
//! special token span one. Tokens that are added but not special (`</think>`) are left alone: templates look for them.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::TextError;

/// The texts of a tokenizer's special tokens. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct SpecialTokens {
    texts: Arc<[String]>,
    first_characters: Arc<BTreeSet<char>>,
}

impl SpecialTokens {
    pub fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let mut texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        texts.sort();
        texts.dedup();
        let first_characters = texts.iter().filter_map(|text| text.chars().next()).collect();
        Self { texts: texts.into(), first_characters: Arc::new(first_characters) }
    }

    pub fn contains(&self, text: &str) -> bool {
        self.texts.binary_search_by(|known| known.as_str().cmp(text)).is_ok()
    }

    /// `text` with markers in the special tokens that it spells out.
    pub(super) fn mark_whole<'a>(&self, text: &'a str, marker: char) -> Cow<'a, str> {
        insert(text, &self.inside(text), marker)
    }

    /// `text` with markers in the special tokens that it spells out, and at both ends where it could be a part of one.
    pub(super) fn mark<'a>(&self, text: &'a str, marker: char) -> Cow<'a, str> {
        let mut places = self.inside(text);
        for token in self.texts.iter() {
            for candidate in [text, text.trim()] {
                let offset = candidate.as_ptr() as usize - text.as_ptr() as usize;
                places.extend(open_ends(candidate, token).map(|place| place + offset));
                places.extend(open_starts(candidate, token).map(|place| place + offset));
            }
        }
        insert(text, &places, marker)
    }

    /// The position behind the first character of every special token in `text`, overlapping ones too.
    fn inside(&self, text: &str) -> BTreeSet<usize> {
        let starts = text.char_indices().filter(|(_, first)| self.first_characters.contains(first));
        starts
            .filter(|&(start, _)| self.texts.iter().any(|token| text[start..].starts_with(token.as_str())))
            .map(|(start, first)| start + first.len_utf8())
            .collect()
    }
}

/// The places in `text` to mark where it ends like `token` begins.
fn open_ends(text: &str, token: &str) -> impl Iterator<Item = usize> {
    let first = token.chars().next().map_or(0, char::len_utf8);
    let lengths = token.char_indices().skip(1).map(|(length, _)| length);
    lengths.filter(|&length| text.ends_with(&token[..length])).map(move |length| text.len() - length + first)
}

/// The places in `text` to mark where it begins like `token` ends.
fn open_starts(text: &str, token: &str) -> impl Iterator<Item = usize> {
    let last = token.chars().next_back().map_or(0, char::len_utf8);
    let starts = token.char_indices().skip(1).map(|(start, _)| start);
    starts.filter(|&start| text.starts_with(&token[start..])).map(move |start| token.len() - start - last)
}

fn insert<'a>(text: &'a str, places: &BTreeSet<usize>, marker: char) -> Cow<'a, str> {
    if places.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut marked = String::with_capacity(text.len() + places.len() * marker.len_utf8());
    let mut done = 0;
    for &place in places {
        marked.push_str(&text[done..place]);
        marked.push(marker);
        done = place;
    }
    marked.push_str(&text[done..]);
    Cow::Owned(marked)
}

/// A noncharacter that none of `texts` holds.
///
/// # Errors
/// `NoMarker` if all 32 candidates occur.
pub(super) fn marker_for<'a>(texts: impl Iterator<Item = Cow<'a, str>>) -> Result<char, TextError> {
    let is_candidate = |character: &char| ('\u{FDD0}'..='\u{FDEF}').contains(character);
    let mut taken = BTreeSet::new();
    for text in texts {
        taken.extend(text.chars().filter(is_candidate));
    }
    ('\u{FDD0}'..='\u{FDEF}').find(|candidate| !taken.contains(candidate)).ok_or(TextError::NoMarker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_stand_inside_every_special_token() {
        let special = SpecialTokens::new(["<|end|>", "</s>", "$"].map(str::to_owned));
        struct Case {
            text: &'static str,
            marked: &'static str,
        }
        let cases = [
            Case { text: "", marked: "" },
            Case { text: "plain < text > here", marked: "plain < text > here" },
            Case { text: "a<|end|>b", marked: "a<@|end|>b" },
            Case { text: "</s></s>.", marked: "<@/s><@/s>." },
            Case { text: "ab $.", marked: "ab $@." },
            Case { text: "tail <|en", marked: "tail <@|en" },
            Case { text: "tail <", marked: "tail <@" },
            Case { text: "tail </ \n", marked: "tail <@/ \n" },
            Case { text: "nd|> head", marked: "nd|@> head" },
            Case { text: "> head", marked: "@> head" },
            Case { text: " s> head", marked: " s@> head" },
            Case { text: "<|end|>", marked: "<@|end|>" },
            Case { text: "<|<|end|>.", marked: "<|<@|end|>." },
        ];
        for Case { text, marked } in cases {
            assert_eq!(special.mark(text, '@'), marked, "{text:?}");
        }
        assert_eq!(special.mark_whole("<|e", '@'), "<|e");
        assert_eq!(special.mark_whole("x<|end|>", '@'), "x<@|end|>");
    }

    #[test]
    fn the_marker_is_new() {
        let marker = |text: &str| marker_for([Cow::Owned(text.to_owned())].into_iter());
        assert_eq!(marker("abc"), Ok('\u{FDD0}'));
        assert_eq!(marker("\u{FDD0}\u{FDD2}"), Ok('\u{FDD1}'));
        assert_eq!(marker(&('\u{FDD0}'..='\u{FDEF}').collect::<String>()), Err(TextError::NoMarker));
    }
}
