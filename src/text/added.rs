//! Where added tokens stand in a text: the tokenizer library's rule (leftmost, then longest), except that a special
//! token that a message's content has a part in is not one.

use std::cmp::Reverse;
use std::ops::Range;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use fancy_regex::Regex;
use tokenizers::NormalizedString;

use super::error::TextError;
use super::error::damaged;

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

/// Finds added tokens: in one walk over the text, however many there are.
#[derive(Debug, Clone, Default)]
pub(super) struct AddedPatterns {
    /// What no content may spell.
    special: PatternSet,
    others: PatternSet,
    /// One character of a word, as the library's pattern has it; none where no token asks.
    word: Option<Regex>,
}

/// Patterns of different texts, and their automaton.
#[derive(Debug, Clone, Default)]
struct PatternSet {
    /// With their places among all patterns.
    patterns: Vec<(usize, AddedPattern)>,
    /// For each pattern the longest other one that it begins with.
    shorter: Vec<Option<usize>>,
    /// None without patterns.
    automaton: Option<AhoCorasick>,
}

/// A pattern where it was found; of two, the lower one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    start: usize,
    end: Reverse<usize>,
    place: usize,
    pattern_idx: usize,
}

/// A piece of a text: a range, and the id if it is an added token.
pub(super) type AddedSplit = (Option<u32>, Range<usize>);

/// Where a text has parts that no special token may have.
pub(super) trait Foreign {
    /// The first foreign part of what is in `range`; it begins at the end of the range where its place is not known.
    fn part(&self, range: &Range<usize>) -> Option<Range<usize>>;
}

impl AddedPatterns {
    /// # Errors
    /// `Damaged` if there are more than an automaton holds.
    pub fn new(patterns: Vec<AddedPattern>) -> Result<Self, TextError> {
        let asks_for_words = patterns.iter().any(|pattern| pattern.single_word);
        let word = asks_for_words.then(|| Regex::new(r"\A\w\z").expect("a short and valid pattern"));
        let placed = patterns.into_iter().enumerate().filter(|(_, pattern)| !pattern.text.is_empty());
        let (special, others) = placed.partition(|(_, pattern)| pattern.special);
        Ok(Self { special: PatternSet::new(special)?, others: PatternSet::new(others)?, word })
    }

    /// Cuts `text` into added tokens and what lies between.
    pub fn split(&self, text: &str, foreign: &impl Foreign) -> Vec<AddedSplit> {
        let mut splits = Vec::new();
        let mut done = 0;
        let (mut special, mut other) =
            (self.special.find(text, 0, Some(foreign)), self.others.find(text, 0, None::<&NoForeign>));
        while let Some(found) = special.into_iter().chain(other).min() {
            let set = if Some(found) == special { &self.special } else { &self.others };
            let (start, end) = (found.start, found.end.0);
            let pattern = &set.patterns[found.pattern_idx].1;
            if !pattern.single_word || self.stands_alone(text, start, end) {
                let (from, to) = pattern.with_spaces(text, start, end);
                let from = from.max(done);
                if done < from {
                    splits.push((None, done..from));
                }
                splits.push((Some(pattern.id), from..to));
                done = to;
            }
            let is_passed = |found: &Option<Found>| found.is_some_and(|found| found.start < end);
            if is_passed(&special) {
                special = self.special.find(text, end, Some(foreign));
            }
            if is_passed(&other) {
                other = self.others.find(text, end, None::<&NoForeign>);
            }
        }
        if done < text.len() {
            splits.push((None, done..text.len()));
        }
        splits
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

/// A text of which every part may be a token.
pub(super) struct NoForeign;

impl Foreign for NoForeign {
    fn part(&self, _: &Range<usize>) -> Option<Range<usize>> {
        None
    }
}

impl PatternSet {
    /// Of equal texts the first is kept.
    fn new(placed: Vec<(usize, AddedPattern)>) -> Result<Self, TextError> {
        let mut patterns = placed;
        patterns.sort_by(|(_, a), (_, b)| a.text.cmp(&b.text));
        patterns.dedup_by(|(_, later), (_, first)| later.text == first.text);
        let mut shorter = Vec::with_capacity(patterns.len());
        // In this order a text follows those that it begins with.
        let mut open: Vec<usize> = Vec::new();
        for (pattern_idx, (_, pattern)) in patterns.iter().enumerate() {
            while open.pop_if(|last| !pattern.text.starts_with(&patterns[*last].1.text)).is_some() {}
            shorter.push(open.last().copied());
            open.push(pattern_idx);
        }
        let builder = || AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).clone();
        let texts = patterns.iter().map(|(_, pattern)| pattern.text.as_str());
        let automaton = (!patterns.is_empty()).then(|| builder().build(texts)).transpose();
        let automaton = automaton.map_err(|error| damaged(format!("added_tokens: {error}")))?;
        Ok(Self { patterns, shorter, automaton })
    }

    /// The first pattern from `at` on, and of those with the same start the longest, that has no foreign part.
    fn find(&self, text: &str, mut at: usize, foreign: Option<&impl Foreign>) -> Option<Found> {
        let automaton = self.automaton.as_ref()?;
        loop {
            let found = automaton.find(Input::new(text).range(at..))?;
            let start = found.start();
            at = start + 1;
            let mut candidate = Some(found.pattern().as_usize());
            while let Some(pattern_idx) = candidate {
                let (place, pattern) = &self.patterns[pattern_idx];
                let end = start + pattern.text.len();
                candidate = match foreign.and_then(|foreign| foreign.part(&(start..end))) {
                    None => return Some(Found { start, end: Reverse(end), place: *place, pattern_idx }),
                    Some(part) if part.start <= start => {
                        at = at.max(part.end);
                        None
                    }
                    Some(_) => self.shorter[pattern_idx],
                };
            }
        }
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

    struct Part(Range<usize>);

    impl Foreign for Part {
        fn part(&self, range: &Range<usize>) -> Option<Range<usize>> {
            (self.0.start < range.end && range.start < self.0.end).then(|| self.0.clone())
        }
    }

    #[test]
    fn the_longest_unbroken_token_is_found() {
        let patterns = AddedPatterns::new(vec![
            pattern("<a>", 1),
            pattern("<a>", 9),
            pattern("<a>b", 2),
            pattern("é[", 6),
            AddedPattern { special: false, ..pattern("é[[", 7) },
            pattern("[[[", 8),
            AddedPattern { special: false, ..pattern("<c>", 3) },
            AddedPattern { lstrip: true, rstrip: true, ..pattern("<s>", 4) },
            AddedPattern { single_word: true, ..pattern("bot", 5) },
        ])
        .unwrap();
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
            Case { text: "<a>b", broken: 0..4, found: &[(None, "<a>b")] },
            Case { text: "<a>", broken: 0..3, found: &[(None, "<a>")] },
            Case { text: "<c>", broken: 0..3, found: &[(Some(3), "<c>")] },
            Case {
                text: "é \t<s>  <s> b",
                broken: none.clone(),
                found: &[(None, "é"), (Some(4), " \t<s>  "), (Some(4), "<s> "), (None, "b")],
            },
            Case { text: "<a>b", broken: 3..4, found: &[(Some(1), "<a>"), (None, "b")] },
            Case { text: "<a>b<a>", broken: 0..1, found: &[(None, "<a>b"), (Some(1), "<a>")] },
            Case { text: "é[[é[", broken: 0..1, found: &[(Some(7), "é[["), (Some(6), "é[")] },
            Case { text: "[[[[", broken: 0..1, found: &[(None, "["), (Some(8), "[[[")] },
            Case { text: "[[[[", broken: 3..4, found: &[(Some(8), "[[["), (None, "[")] },
            Case { text: "robot bot_", broken: none.clone(), found: &[(None, "robot bot_")] },
            Case { text: "a bot.", broken: none, found: &[(None, "a "), (Some(5), "bot"), (None, ".")] },
        ];
        for Case { text, broken, found } in cases {
            let splits = patterns.split(text, &Part(broken));
            let splits: Vec<_> = splits.into_iter().map(|(id, range)| (id, &text[range])).collect();
            assert_eq!(splits, found, "{text:?}");
        }
    }
}
