//! `a % b` in templates: the remainder of numbers, the format of strings. The library knows only the first, so that the
//! operator is rewritten as a call before a template is compiled.
//!
//! It binds as `*` and `/` do, from the left: its left side is all of the chain of these operators before it, its right
//! side the next operand. Operators that bind less, and words such as `if`, end a chain: `a.b % c ~ d` becomes
//! `__mod__(a.b, c) ~ d`.

use std::ops::Range;

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::printf::percent;
use super::refusal::refused;

/// The name of the function.
pub(super) const NAME: &str = "__mod__";
const CALL: &str = "__mod__(";
/// Words that stand between operands.
const BETWEEN: [&str; 9] = ["if", "else", "elif", "and", "or", "not", "in", "for", "recursive"];

/// What the operator does.
///
/// # Errors
/// For what Python cannot divide or format, and a zero.
pub(super) fn remainder(left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some(format) = left.as_str() {
        return percent(format, right).map(Value::from);
    }
    let is_number = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    if !is_number(left) || !is_number(right) {
        let (left, right) = (left.kind(), right.kind());
        return Err(refused(format!("% takes numbers, or a string on its left, not {left} and {right}")));
    }
    let is_float = |value: &Value| value.kind() == ValueKind::Number && !value.is_integer();
    if is_float(left) || is_float(right) {
        let (left, right) = (f64::try_from(left.clone())?, f64::try_from(right.clone())?);
        let rest = left % right;
        // The remainder has the sign of what is divided by.
        let rest = if rest != 0.0 && (rest < 0.0) != (right < 0.0) { rest + right } else { rest };
        let rest = if rest == 0.0 { 0.0_f64.copysign(right) } else { rest };
        return if right == 0.0 { Err(refused("% by zero")) } else { Ok(rest.into()) };
    }
    let (left, right) = (i128::try_from(left.clone())?, i128::try_from(right.clone())?);
    let rest = left.checked_rem(right).ok_or_else(|| refused("% by zero"))?;
    let rest = if rest != 0 && (rest < 0) != (right < 0) { rest + right } else { rest };
    Ok(i64::try_from(rest).map_or_else(|_| Value::from(rest), Value::from))
}

/// The source with calls in place of the operators; `tags` are the tokens of each of its tags.
pub(super) fn rewrite(source: &str, tags: &[Vec<Range<usize>>]) -> String {
    let mut edits: Vec<Edit> = tags.iter().flat_map(|tokens| Chains::edits(source, tokens)).collect();
    // A call that ends at a place comes before what begins there.
    edits.sort_by_key(|edit| (edit.range.start, edit.text != ")"));
    let mut text = String::with_capacity(source.len() + 16 * edits.len());
    let mut done = 0;
    for Edit { range, text: put } in edits {
        text.push_str(&source[done..range.start]);
        text.push_str(put);
        done = range.end;
    }
    text + &source[done..]
}

struct Edit {
    range: Range<usize>,
    text: &'static str,
}

/// The chain of operands at each depth of brackets.
struct Chains {
    below: Vec<Chain>,
    here: Chain,
    edits: Vec<Edit>,
}

/// Operands with operators of the same strength between them.
#[derive(Default, Clone, Copy)]
struct Chain {
    start: Option<usize>,
    /// A call waits for the end of its second operand.
    is_waiting: bool,
    /// Where the operand ends, as far as it was read; none before an operand.
    end: Option<usize>,
    /// Behind `is`, or the `not` that follows it: the next word names a test.
    is_test: bool,
}

impl Chains {
    fn edits(source: &str, tokens: &[Range<usize>]) -> Vec<Edit> {
        let mut chains = Self { below: Vec::new(), here: Chain::default(), edits: Vec::new() };
        let tokens = expression(source, tokens);
        let text_at = |idx: usize| tokens.get(idx).map_or("", |token| &source[token.clone()]);
        for (idx, token) in tokens.iter().enumerate() {
            let before = idx.checked_sub(1).map_or("", text_at);
            match text_at(idx) {
                "*" if [before, text_at(idx + 1)].contains(&"*") => chains.here.end = None,
                // The exponent of `1e-5`.
                "-" | "+"
                    if before.starts_with(|c: char| c.is_ascii_digit()) && before.ends_with(['e', 'E']) => {}
                text => chains.token(text, token),
            }
        }
        chains.end_call();
        chains.edits
    }

    fn token(&mut self, text: &str, range: &Range<usize>) {
        match text {
            "(" | "[" | "{" => {
                self.here.start.get_or_insert(range.start);
                self.below.push(std::mem::take(&mut self.here));
            }
            ")" | "]" | "}" => {
                self.end_call();
                self.here = self.below.pop().unwrap_or_default();
                self.operand(range);
            }
            "%" => self.percent(range),
            "*" | "/" => {
                self.end_call();
                self.here.end = None;
            }
            "-" | "+" if self.here.end.is_none() => {
                self.here.start.get_or_insert(range.start);
            }
            "." | "|" => {}
            word if BETWEEN.contains(&word) && !self.here.is_test => self.end_chain(),
            text if text.starts_with(|c: char| is_word(c) || ['"', '\''].contains(&c)) => {
                self.here.is_test = text == "is" || self.here.is_test && text == "not";
                self.operand(range);
            }
            _ => self.end_chain(),
        }
    }

    fn operand(&mut self, range: &Range<usize>) {
        self.here.start.get_or_insert(range.start);
        self.here.end = Some(range.end);
    }

    fn percent(&mut self, range: &Range<usize>) {
        self.end_call();
        let Chain { start: Some(start), end: Some(_), .. } = self.here else { return };
        self.edits.push(Edit { range: start..start, text: CALL });
        self.edits.push(Edit { range: range.clone(), text: "," });
        (self.here.is_waiting, self.here.end) = (true, None);
    }

    fn end_call(&mut self) {
        if let Chain { is_waiting: true, end: Some(end), .. } = self.here {
            self.edits.push(Edit { range: end..end, text: ")" });
            self.here.is_waiting = false;
        }
    }

    fn end_chain(&mut self) {
        self.end_call();
        self.here = Chain::default();
    }
}

/// The tokens of a tag without the marks for white space at its ends and the word that says what a block is.
fn expression<'t>(source: &str, tokens: &'t [Range<usize>]) -> &'t [Range<usize>] {
    let is_mark = |token: &Range<usize>| ["-", "+"].contains(&&source[token.clone()]);
    let mut tokens = tokens;
    if let [first, rest @ ..] = tokens
        && is_mark(first)
        && source[..first.start].ends_with(['{', '%'])
    {
        tokens = rest;
    }
    // No expression ends with a sign.
    if let [rest @ .., last] = tokens
        && is_mark(last)
    {
        tokens = rest;
    }
    if let [first, rest @ ..] = tokens {
        let is_between = |c: char| c.is_whitespace() || ['-', '+'].contains(&c);
        if source[..first.start].trim_end_matches(is_between).ends_with("{%") {
            tokens = rest;
        }
    }
    tokens
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use super::super::scan::tags;
    use super::*;

    #[test]
    fn operators_become_calls_of_what_they_bind() {
        let cases = [
            ("{{ a % b }}", "{{ __mod__(a , b) }}"),
            ("{{a%b%c}}", "{{__mod__(__mod__(a,b),c)}}"),
            ("{{ a * b % c / d % e }}", "{{ __mod__(__mod__(a * b , c) / d , e) }}"),
            ("{{ a // b % -c ** d ~ e }}", "{{ __mod__(a // b , -c ** d) ~ e }}"),
            (
                "{{- -a.b['c'](d % 2) % (e + f % g) -}}",
                "{{- __mod__(-a.b['c'](__mod__(d , 2)) , (e + __mod__(f , g))) -}}",
            ),
            ("{{ 1 + x % 1e-5 - 2 }}", "{{ 1 + __mod__(x , 1e-5) - 2 }}"),
            (
                "{{ 'a % b' }}{% if x %}{# % #}a % b{% endif %}",
                "{{ 'a % b' }}{% if x %}{# % #}a % b{% endif %}",
            ),
            ("{%- if not a % 2 == 0 and b % 3 %}", "{%- if not __mod__(a , 2) == 0 and __mod__(b , 3) %}"),
            (
                "{% set x = {'k': '%s' % y, 'l': [z % 2]} %}",
                "{% set x = {'k': __mod__('%s' , y), 'l': [__mod__(z , 2)]} %}",
            ),
            ("{% for i in x if i % 2 is not in [1] %}", "{% for i in x if __mod__(i , 2 is not in [1]) %}"),
            (
                "{{ a % b|f(c=d % 2) if e else 'x' 'y' % z }}",
                "{{ __mod__(a , b|f(c=__mod__(d , 2))) if e else __mod__('x' 'y' , z) }}",
            ),
            ("{% raw %}{{ a % b }}{% endraw %}", "{% raw %}{{ a % b }}{% endraw %}"),
            ("{{ % a }}{{ a % }}{{ ) % b", "{{ % a }}{{ __mod__(a , }}{{ __mod__() , b)"),
        ];
        for (source, wanted) in cases {
            assert_eq!(rewrite(source, &tags(source).unwrap()), wanted);
        }
    }
}
