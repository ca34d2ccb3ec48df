//! Where added tokens stand in a text: the tokenizer library's rule (leftmost, then longest), except that a special
//! token that a message's content has a part in is not one.

use std::ops::Range;

use fancy_regex::Regex;
use tokenizers::NormalizedString;

/// One added token as it is looked for.
#[derive(Debug, Clone)]
pub(super) struct AddedPattern {
    pub text: String,
    pub id: u32,
    pub special: bool,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
}

/// Finds added tokens.
#[derive(Debug, Clone, Default)]
pub(super) struct AddedPatterns {
    /// Longest first.
    patterns: Vec<AddedPattern>,
    /// [256]: indices into `patterns` by their first byte, longest first.
    by_first_byte: Vec<Vec<usize>>,
    /// One character of a word, as the library's pattern has it; none where no token asks.
    word: Option<Regex>,
}

/// A piece of a text: a range, and the id if it is an added token.
pub(super) type AddedSplit = (Option<u32>, Range<usize>);

impl AddedPatterns {
    pub fn new(mut patterns: Vec<AddedPattern>) -> Self {
        patterns.retain(|pattern| !pattern.text.is_empty());
        // Stable: of equal texts the first is found.
        patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.text.len()));
        let mut by_first_byte = vec![Vec::new(); 256];
        for (pattern_idx, pattern) in patterns.iter().enumerate() {
            by_first_byte[usize::from(pattern.text.as_bytes()[0])].push(pattern_idx);
        }
        let asks_for_words = patterns.iter().any(|pattern| pattern.single_word);
        let word = asks_for_words.then(|| Regex::new(r"\A\w\z").expect("a short and valid pattern"));
        Self { patterns, by_first_byte, word }
    }

    /// Cuts `text` into added tokens and what lies between. `is_broken` tells of a byte range that no special token
    /// may have.
    pub fn split(&self, text: &str, is_broken: impl Fn(Range<usize>) -> bool) -> Vec<AddedSplit> {
        let mut splits = Vec::new();
        let mut done = 0;
        let mut start = 0;
        while start < text.len() {
            let Some(pattern) = self.at(text, start, &is_broken) else {
                start += 1;
                continue;
            };
            let end = start + pattern.text.len();
            if !pattern.single_word || self.stands_alone(text, start, end) {
                let (from, to) = pattern.with_spaces(text, start, end);
                let from = from.max(done);
                if done < from {
                    splits.push((None, done..from));
                }
                splits.push((Some(pattern.id), from..to));
                done = to;
            }
            start = end;
        }
        if done < text.len() {
            splits.push((None, done..text.len()));
        }
        splits
    }

    fn at(
        &self,
        text: &str,
        start: usize,
        is_broken: impl Fn(Range<usize>) -> bool,
    ) -> Option<&AddedPattern> {
        let rest = &text.as_bytes()[start..];
        let candidates = self.by_first_byte.get(usize::from(rest[0]))?;
        candidates.iter().map(|&pattern_idx| &self.patterns[pattern_idx]).find(|pattern| {
            rest.starts_with(pattern.text.as_bytes())
                && !(pattern.special && is_broken(start..start + pattern.text.len()))
        })
    }

    fn stands_alone(&self, text: &str, start: usize, end: usize) -> bool {
        let before = text[..start].char_indices().next_back().map(|(at, _)| &text[at..start]);
        let after = text[end..].chars().next().map(|character| &text[end..end + character.len_utf8()]);
        let is_word = |character: &str| {
            self.word.as_ref().is_some_and(|word| word.is_match(character).unwrap_or(false))
        };
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    }
}

impl AddedPattern {
    /// The range with the white space that the token takes along.
    fn with_spaces(&self, text: &str, start: usize, end: usize) -> (usize, usize) {
        let from = if self.lstrip { text[..start].trim_end().len() } else { start };
        let to = if self.rstrip { text.len() - text[end..].trim_start().len() } else { end };
        (from, to)
    }
}

/// Slices `text` at `splits`, which are byte ranges of its normalized form.
pub(super) fn slices(
    text: &NormalizedString,
    splits: Vec<AddedSplit>,
) -> Vec<(Option<u32>, NormalizedString)> {
    let slice = |range: Range<usize>| text.slice(tokenizers::normalizer::Range::Normalized(range));
    splits.into_iter().filter_map(|(id, range)| Some((id, slice(range)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str, id: u32) -> AddedPattern {
        let text = text.to_owned();
        AddedPattern { text, id, special: true, single_word: false, lstrip: false, rstrip: false }
    }

    #[test]
    fn the_longest_unbroken_token_is_found() {
        let patterns = AddedPatterns::new(vec![
            pattern("<a>", 1),
            pattern("<a>b", 2),
            AddedPattern { special: false, ..pattern("<c>", 3) },
            AddedPattern { lstrip: true, rstrip: true, ..pattern("<s>", 4) },
            AddedPattern { single_word: true, ..pattern("bot", 5) },
        ]);
        struct Case {
            text: &'static str,
            broken: Range<usize>,
            found: &'static [(Option<u32>, &'static str)],
        }
        let none = 99..99;
        let cases = [
            Case { text: "", broken: none.clone(), found: &[] },
            Case {
                text: "x<a>é",
                broken: none.clone(),
                found: &[(None, "x"), (Some(1), "<a>"), (None, "é")],
            },
            Case { text: "<a>b<a>", broken: none.clone(), found: &[(Some(2), "<a>b"), (Some(1), "<a>")] },
            Case { text: "<a>b", broken: 0..4, found: &[(Some(1), "<a>"), (None, "b")] },
            Case { text: "<a>", broken: 0..3, found: &[(None, "<a>")] },
            Case { text: "<c>", broken: 0..3, found: &[(Some(3), "<c>")] },
            Case {
                text: "é \t<s>  <s> b",
                broken: none.clone(),
                found: &[(None, "é"), (Some(4), " \t<s>  "), (Some(4), "<s> "), (None, "b")],
            },
            Case { text: "robot bot_", broken: none.clone(), found: &[(None, "robot bot_")] },
            Case { text: "a bot.", broken: none, found: &[(None, "a "), (Some(5), "bot"), (None, ".")] },
        ];
        for Case { text, broken, found } in cases {
            let splits = patterns.split(text, |range| range == broken);
            let splits: Vec<_> = splits.into_iter().map(|(id, range)| (id, &text[range])).collect();
            assert_eq!(splits, found, "{text:?}");
        }
    }
}
