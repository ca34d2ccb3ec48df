//! GBNF (the grammars of llama.cpp) as Lark, which llguidance reads. The same language: names, literals and repetitions
//! are written in another way.

use std::fmt::Write as _;

/// The same grammar, whose `root` is called `start`.
///
/// # Errors
/// What is no GBNF, and where: the line, counted from 1.
pub fn gbnf_to_lark(text: &str) -> Result<String, String> {
    let mut reader = Reader { text, at: 0 };
    let mut lark = String::new();
    let mut has_root = false;
    reader.skip_space(true);
    while !reader.is_at_end() {
        let name = reader.name().ok_or_else(|| reader.wrong("wanted the name of a rule"))?;
        has_root |= name == "root";
        reader.skip_space(true);
        if !reader.take("::=") {
            return Err(reader.wrong("wanted ::="));
        }
        let body = reader.alternatives(0)?;
        let _ = writeln!(lark, "{}: {body}", lark_name(name));
        reader.skip_space(true);
    }
    if has_root { Ok(lark) } else { Err("there is no rule `root`".into()) }
}

/// Groups in groups; deeper ones are refused.
const MAX_DEPTH: usize = 64;

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self, what: &str) -> bool {
        let found = self.rest().starts_with(what);
        if found {
            self.at += what.len();
        }
        found
    }

    fn wrong(&self, what: &str) -> String {
        let line = self.text[..self.at].matches('\n').count() + 1;
        format!("line {line}: {what}")
    }

    /// Passes over space and comments; over ends of lines only where a rule may go on.
    fn skip_space(&mut self, over_lines: bool) {
        loop {
            let rest = self.rest();
            let skipped = rest.trim_start_matches(|c: char| {
                c == ' ' || c == '\t' || over_lines && (c == '\n' || c == '\r')
            });
            self.at += rest.len() - skipped.len();
            if !skipped.starts_with('#') {
                return;
            }
            self.at += skipped.find('\n').unwrap_or(skipped.len());
        }
    }

    fn name(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let len = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        self.at += len;
        (len > 0).then(|| &rest[..len])
    }

    fn alternatives(&mut self, depth: usize) -> Result<String, String> {
        let mut all = self.sequence(depth)?;
        loop {
            self.skip_space(depth > 0);
            // An alternative may stand in the next line.
            let before = self.at;
            self.skip_space(true);
            if !self.take("|") {
                self.at = before;
                return Ok(all);
            }
            all = format!("{all} | {}", self.sequence(depth)?);
        }
    }

    fn sequence(&mut self, depth: usize) -> Result<String, String> {
        if depth > MAX_DEPTH {
            return Err(self.wrong("groups are nested too deep"));
        }
        let mut items: Vec<String> = Vec::new();
        // The first item may stand in the next line.
        self.skip_space(true);
        loop {
            let item = match self.peek() {
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('.') => {
                    self.at += 1;
                    "/(.|\\n)/".to_owned()
                }
                Some('(') => {
                    self.at += 1;
                    let inner = self.alternatives(depth + 1)?;
                    self.skip_space(true);
                    if !self.take(")") {
                        return Err(self.wrong("wanted )"));
                    }
                    format!("({inner})")
                }
                Some(c) if c.is_ascii_alphanumeric() || c == '_' => {
                    let before = self.at;
                    let name = self.name().unwrap_or_default();
                    let after = self.at;
                    self.skip_space(true);
                    if self.rest().starts_with("::=") {
                        // The next rule.
                        self.at = before;
                        break;
                    }
                    self.at = after;
                    lark_name(name)
                }
                _ => break,
            };
            let repeated = self.repetition()?;
            items.push(item + &repeated);
            self.skip_space(depth > 0);
            if depth == 0 {
                // A line that does not begin a rule goes on with this one.
                let before = self.at;
                self.skip_space(true);
                if self.at != before && !self.goes_on() {
                    self.at = before;
                    break;
                }
            }
        }
        Ok(if items.is_empty() { "\"\"".to_owned() } else { items.join(" ") })
    }

    /// Whether something of a sequence comes next, and not a rule, an alternative or the end.
    fn goes_on(&self) -> bool {
        let mut ahead = Reader { text: self.text, at: self.at };
        match ahead.peek() {
            Some('"' | '[' | '(' | '.') => true,
            Some(_) if ahead.name().is_some() => {
                ahead.skip_space(true);
                !ahead.rest().starts_with("::=")
            }
            _ => false,
        }
    }

    fn repetition(&mut self) -> Result<String, String> {
        match self.peek() {
            Some(c @ ('*' | '+' | '?')) => {
                self.at += 1;
                Ok(c.to_string())
            }
            Some('{') => {
                let rest = self.rest();
                let end = rest.find('}').ok_or_else(|| self.wrong("wanted }"))?;
                let inside: String = rest[1..end].split_whitespace().collect();
                let is_right = |part: &str| part.chars().all(|c| c.is_ascii_digit());
                let mut parts = inside.split(',');
                let (first, second) = (parts.next().unwrap_or_default(), parts.next());
                if first.is_empty()
                    || !is_right(first)
                    || !second.is_none_or(is_right)
                    || parts.next().is_some()
                {
                    return Err(self.wrong("wanted {n}, {n,} or {n,m}"));
                }
                self.at += end + 1;
                Ok(format!("{{{inside}}}"))
            }
            _ => Ok(String::new()),
        }
    }

    /// A character of a literal or a class, with its escapes.
    fn character(&mut self) -> Result<char, String> {
        let mut letters = self.rest().chars();
        let first = letters.next().ok_or_else(|| self.wrong("the text ends"))?;
        self.at += first.len_utf8();
        if first != '\\' {
            return Ok(first);
        }
        let escape = letters.next().ok_or_else(|| self.wrong("the text ends"))?;
        self.at += escape.len_utf8();
        let n_digits = match escape {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            '"' | '\\' | '[' | ']' | '-' | '^' => return Ok(escape),
            _ => return Err(self.wrong("this escape is not known")),
        };
        let code = self.rest().get(..n_digits).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let found =
            code.and_then(char::from_u32).ok_or_else(|| self.wrong("wanted a code of hexadecimal digits"))?;
        self.at += n_digits;
        Ok(found)
    }

    fn literal(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut text = String::new();
        while self.peek() != Some('"') {
            text.push(self.character()?);
        }
        self.at += 1;
        Ok(serde_json::Value::from(text).to_string())
    }

    fn class(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut regex = String::from("/[");
        if self.take("^") {
            regex.push('^');
        }
        while self.peek() != Some(']') {
            let is_range =
                self.peek() == Some('-') && !regex.ends_with('[') && !self.rest().starts_with("-]");
            if is_range {
                self.at += 1;
                regex.push('-');
            }
            let _ = write!(regex, "\\u{{{:x}}}", u32::from(self.character()?));
        }
        self.at += 1;
        regex.push_str("]/");
        Ok(regex)
    }
}

/// Lark's names have no hyphens, and `start` is where it starts.
fn lark_name(name: &str) -> String {
    match name {
        "root" => "start".to_owned(),
        "start" => "start_".to_owned(),
        _ => format!("r_{}", name.to_ascii_lowercase().replace('-', "_")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammars_are_written_in_the_other_way() {
        let cases = [
            ("root ::= \"a\"", "start: \"a\"\n"),
            (
                "root ::= item+ # more\nitem ::= \"- \" [^\\n]+ \"\\n\"",
                "start: r_item+\nr_item: \"- \" /[^\\u{a}]+/ \"\\n\"\n",
            ),
            (
                "root ::= (\"a\" | \"b\"){2,3}\n  | x-y\nx-y ::= [a-z0-9_-]",
                "start: (\"a\" | \"b\"){2,3} | r_x_y\nr_x_y: /[\\u{61}-\\u{7a}\\u{30}-\\u{39}\\u{5f}\\u{2d}]/\n",
            ),
            ("root ::=\n  \"a\"\n  \"b\"\nx ::= .", "start: \"a\" \"b\"\nr_x: /(.|\\n)/\n"),
        ];
        for (gbnf, lark) in cases {
            let found = gbnf_to_lark(gbnf).map(|text| text.replace("]+/", "]/+"));
            assert_eq!(found.as_deref(), Ok(&*lark.replace("]+/", "]/+")), "{gbnf}");
        }
    }

    #[test]
    fn what_is_none_is_refused_with_its_line() {
        let cases = [
            ("x ::= \"a\"", "there is no rule `root`"),
            ("root ::= \"a", "line 1: the text ends"),
            ("root ::= (\"a\"", "line 1: wanted )"),
            ("root = \"a\"", "line 1: wanted ::="),
            ("\nroot ::= \"\\q\"", "line 2: this escape is not known"),
            ("root ::= \"a\"{x}", "line 1: wanted {n}, {n,} or {n,m}"),
        ];
        for (gbnf, wanted) in cases {
            assert_eq!(gbnf_to_lark(gbnf), Err(wanted.to_owned()), "{gbnf}");
        }
        let deep = format!("root ::= {}\"a\"{}", "(".repeat(1000), ")".repeat(1000));
        assert!(gbnf_to_lark(&deep).unwrap_err().contains("nested too deep"));
    }
}
