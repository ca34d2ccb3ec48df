//! A template's source as a lexer sees it: string literals with what stands beside them, and how deep it nests. The
//! parser behind it recurses, once for each step of a chain at worst, and runs on a stack that ends.

use std::ops::Range;

/// Words, marks and literals of one tag. The longest real ones have a few hundred.
const MAX_TOKENS: usize = 2_000;
/// Blocks inside each other, a branch of an `if` counting as one.
const MAX_BLOCKS: usize = 200;

/// A string literal of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Literal {
    /// Where it stands, without its quotes.
    pub range: Range<usize>,
    /// Its text. Escapes other than of quotes and of the backslash stay as they are written.
    pub value: String,
    /// Whether `in` or `not in` follows: it is looked for, and not written.
    pub is_sought: bool,
}

/// All literals of a template, in order.
///
/// # Errors
/// Why the template is not even given to a parser.
pub(super) fn literals(source: &str) -> Result<Vec<Literal>, String> {
    Scan::whole(source).map(|scan| scan.literals)
}

/// Where the tokens of each tag stand, marks for white space among them.
///
/// # Errors
/// As [`literals`].
pub(super) fn tags(source: &str) -> Result<Vec<Vec<Range<usize>>>, String> {
    Scan::whole(source).map(|scan| scan.tags)
}

/// The source with some of its literals changed, by their number: characters are replaced one by one.
pub(super) fn rewrite(
    source: &str,
    literals: &[Literal],
    is_changed: impl Fn(&Literal) -> bool,
    change: impl Fn(char) -> char,
) -> String {
    let mut text = String::with_capacity(source.len());
    let mut done = 0;
    for literal in literals.iter().filter(|literal| is_changed(literal)) {
        text.push_str(&source[done..literal.range.start]);
        let mut characters = source[literal.range.clone()].chars();
        while let Some(character) = characters.next() {
            if character == '\\' {
                // What an escape stands for is left alone.
                text.push(character);
                text.extend(characters.next());
            } else {
                text.push(change(character));
            }
        }
        done = literal.range.end;
    }
    text.push_str(&source[done..]);
    text
}

struct Scan<'a> {
    source: &'a str,
    at: usize,
    literals: Vec<Literal>,
    tags: Vec<Vec<Range<usize>>>,
    /// For each open block, the branches that it has.
    blocks: Vec<usize>,
}

/// What a tag begins with, and whether it sets something.
#[derive(Default)]
struct Tag<'a> {
    first_word: &'a str,
    has_assignment: bool,
}

impl<'a> Scan<'a> {
    fn whole(source: &'a str) -> Result<Self, String> {
        let mut scan = Self { source, at: 0, literals: Vec::new(), tags: Vec::new(), blocks: Vec::new() };
        while scan.at < source.len() {
            scan.step()?;
        }
        Ok(scan)
    }

    /// Goes behind the next tag.
    fn step(&mut self) -> Result<(), String> {
        let rest = &self.source[self.at..];
        let Some(start) = rest.find(['{']) else {
            self.at = self.source.len();
            return Ok(());
        };
        self.at += start + 1;
        match self.source[self.at..].bytes().next() {
            Some(b'#') => self.skip_behind("#}"),
            Some(b'{') => self.tag("}}").map(|_| ()),
            Some(b'%') => {
                let tag = self.tag("%}")?;
                let (first_word, is_block_set) = (tag.first_word, !tag.has_assignment);
                self.block(first_word, is_block_set)
            }
            _ => Ok(()),
        }
    }

    fn skip_behind(&mut self, end: &str) -> Result<(), String> {
        let found = self.source[self.at..].find(end);
        self.at = found.map_or(self.source.len(), |position| self.at + position + end.len());
        Ok(())
    }

    /// Reads a tag up to its end; the scan stands on the second character of its beginning.
    fn tag(&mut self, end: &str) -> Result<Tag<'a>, String> {
        let source = self.source;
        let mut tag = Tag::default();
        let mut tokens = Vec::new();
        let (mut depth, mut waiting) = (0_usize, None);
        self.at += 1;
        loop {
            let rest = &source[self.at..];
            let Some(first) = rest.chars().next() else { break };
            if depth == 0 && rest.starts_with(end) {
                self.at += end.len();
                break;
            }
            let length = match first {
                '"' | '\'' => quoted_len(rest),
                _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                _ => first.len_utf8(),
            };
            let token = &rest[..length];
            let start = self.at;
            self.at += length;
            if first.is_whitespace() {
                continue;
            }
            tokens.push(start..self.at);
            if tokens.len() > MAX_TOKENS {
                return Err(format!("a tag has more than {MAX_TOKENS} words and marks"));
            }
            match first {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                '=' if depth == 0 => tag.has_assignment = true,
                _ if is_word(first) && tag.first_word.is_empty() => tag.first_word = token,
                _ => {}
            }
            if matches!(first, '"' | '\'') {
                waiting = Some(self.literals.len());
                self.literals.push(Literal::new(source, start, length));
            } else if token != "not"
                && let Some(literal) = waiting.take().and_then(|idx: usize| self.literals.get_mut(idx))
            {
                literal.is_sought = token == "in";
            }
        }
        self.tags.push(tokens);
        Ok(tag)
    }

    fn block(&mut self, first_word: &str, is_block_set: bool) -> Result<(), String> {
        match first_word {
            "raw" => {
                while self.at < self.source.len() {
                    self.skip_behind("{%")?;
                    let tag = self.source[self.at..].trim_start_matches(['-', '+']).trim_start();
                    if tag.starts_with("endraw") {
                        return self.skip_behind("%}");
                    }
                }
            }
            "elif" => {
                if let Some(branches) = self.blocks.last_mut() {
                    *branches += 1;
                }
            }
            "set" if !is_block_set => {}
            "if" | "for" | "set" | "macro" | "call" | "filter" | "with" | "block" | "autoescape" => {
                self.blocks.push(1);
            }
            word if word.starts_with("end") => {
                self.blocks.pop();
            }
            _ => {}
        }
        if self.blocks.iter().sum::<usize>() > MAX_BLOCKS {
            return Err(format!("more than {MAX_BLOCKS} blocks are inside each other"));
        }
        Ok(())
    }
}

impl Literal {
    fn new(source: &str, start: usize, length: usize) -> Self {
        let whole = &source[start..start + length];
        let is_closed = length > 1 && whole.starts_with(['"', '\'']) && whole.ends_with(&whole[..1]);
        let range = start + 1..start + length - usize::from(is_closed);
        let mut value = String::new();
        let mut characters = source[range.clone()].chars().peekable();
        while let Some(character) = characters.next() {
            let is_plain = |next: &char| matches!(next, '\\' | '"' | '\'');
            match characters.next_if(|next| character == '\\' && is_plain(next)) {
                Some(escaped) => value.push(escaped),
                None => value.push(character),
            }
        }
        Self { range, value, is_sought: false }
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Length of the literal that a text begins with, with both its quotes.
fn quoted_len(text: &str) -> usize {
    let quote = text.chars().next();
    let mut is_escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if Some(character) == quote => return at + character.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_found_where_they_stand() {
        let source = "a 'no' {# 'no' #}{{ 'a' ~ {'b': {'c':1}}['b'] }}{%- if 'd%}' not in x and \"e\\\"\" in y -%}'no'\
                      {% raw %}{{ 'no' }}{% endraw %}{% set x = 'f\\n' %}{{ 'g'";
        let literals = literals(source).unwrap();
        let found: Vec<_> = literals.iter().map(|l| (l.value.as_str(), l.is_sought)).collect();
        let wanted = [
            ("a", false),
            ("b", false),
            ("c", false),
            ("b", false),
            ("d%}", true),
            ("e\"", true),
            ("f\\n", false),
            ("g", false),
        ];
        assert_eq!(found, wanted);
        let changed = rewrite(source, &literals, |l| l.value != "a", |c| c.to_ascii_uppercase());
        assert!(changed.contains("'a' ~ {'B': {'C':1}}['B']"), "{changed}");
        assert!(changed.contains("'D%}' not in x and \"E\\\"\" in y"), "{changed}");
        assert!(changed.contains("'F\\n' %}{{ 'G'"), "{changed}");
        assert_eq!(rewrite(source, &literals, |_| true, |c| c), source);
    }

    #[test]
    fn deep_nests_are_refused() {
        let chain = |part: &str| format!("{{{{ x{} }}}}", part.repeat(3_000));
        for part in ["~x", "|e", ".x", "[0]", " if x else x", " and x", "**x", "()"] {
            assert!(literals(&chain(part)).is_err(), "{part}");
        }
        for part in ["-", "not ", "(", "["] {
            assert!(literals(&format!("{{{{ {} }}}}", part.repeat(23_000))).is_err(), "{part}");
        }
        assert!(literals(&"{% if x %}".repeat(300)).is_err());
        assert!(literals(&format!("{{% if x %}}{}", "{% elif x %}".repeat(300))).is_err());
        assert!(literals(&"{% if x %}{% endif %}{% set y = 1 %}{% set z %}{% endset %}".repeat(300)).is_ok());
        for unfinished in ["{", "{{", "{%", "{#", "{{ '", "{% raw %}", "{{ '\\", "{{ 'é", "{%-"] {
            literals(unfinished).unwrap();
        }
    }
}
