//! Whether a file that somebody writes is whole yet: its brackets are closed and its strings end.
//! Only a look at the outside of the JSON, in one pass and without memory; the parser has the last word.

use std::io::{self, Read};

/// What a text looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completeness {
    /// One JSON object or array, closed, or something that more bytes do not mend.
    Whole,
    /// It may become whole: empty, or cut in the middle.
    Partial,
}

#[derive(Debug, Default)]
struct Scan {
    depth: u64,
    in_string: bool,
    is_escaped: bool,
    /// The outermost bracket was closed.
    is_closed: bool,
}

/// Reads a text to its end, or to where it is clear.
///
/// # Errors
/// The reader's.
///
/// ```
/// use jetspool::spool::wire::{Completeness, completeness};
///
/// assert_eq!(completeness(&br#"{"requests": ["#[..])?, Completeness::Partial);
/// assert_eq!(completeness(&br#"{"requests": []}"#[..])?, Completeness::Whole);
/// # std::io::Result::Ok(())
/// ```
pub fn completeness(text: impl Read) -> io::Result<Completeness> {
    let mut scan = Scan::default();
    read_parts(text, |part| scan.take(part)).map(|is_clear| match is_clear || scan.is_closed {
        true => Completeness::Whole,
        false => Completeness::Partial,
    })
}

/// The same of a text with one value a line: whole if its last line is.
///
/// # Errors
/// The reader's.
pub fn lines_completeness(text: impl Read) -> io::Result<Completeness> {
    // Of the line that is read; none is no line yet.
    let mut line: Option<Scan> = None;
    let mut n_lines = 0;
    read_parts(text, |mut part| {
        while let Some(end) = part.iter().position(|byte| *byte == b'\n') {
            n_lines += usize::from(line.is_some() || !part[..end].trim_ascii().is_empty());
            (line, part) = (None, &part[end + 1..]);
        }
        if !part.trim_ascii().is_empty() || line.is_some() {
            line.get_or_insert_default().take(part);
        }
        false
    })?;
    // Brackets alone are looked at: a last line that is a number or a word is whole too, and wrong.
    let is_whole = match &line {
        Some(line) => line.is_closed || (line.depth == 0 && !line.in_string),
        None => n_lines > 0,
    };
    Ok(if is_whole { Completeness::Whole } else { Completeness::Partial })
}

/// Gives a text to `take` part by part, without a byte order mark, until it says that it has enough; says whether it did.
fn read_parts(mut text: impl Read, mut take: impl FnMut(&[u8]) -> bool) -> io::Result<bool> {
    let mut bytes = vec![0; 64 * 1024];
    let mut is_first = true;
    loop {
        let n = match text.read(&mut bytes) {
            Ok(0) => return Ok(false),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut part = &bytes[..n];
        if std::mem::take(&mut is_first) {
            part = part.strip_prefix("\u{feff}".as_bytes()).unwrap_or(part);
        }
        if take(part) {
            return Ok(true);
        }
    }
}

impl Scan {
    /// Takes more of the text; true if nothing that follows makes a difference.
    fn take(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            if self.in_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => {}
                // Behind the end, or before any beginning, nothing else may stand.
                _ if self.is_closed => return true,
                b'{' | b'[' => self.depth += 1,
                _ if self.depth == 0 => return true,
                b'}' | b']' => {
                    self.depth -= 1;
                    self.is_closed = self.depth == 0;
                }
                b'"' => self.in_string = true,
                _ => {}
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_beginning_of_a_file_is_partial_and_the_file_is_whole() {
        let text = r#" {"requests": [{"messages": [{"role": "user", "content": "a \"}]} \\"}]}]} "#;
        let end = text.rfind('}').unwrap() + 1;
        for cut in 0..=text.len() {
            let wanted = if cut < end { Completeness::Partial } else { Completeness::Whole };
            assert_eq!(completeness(&text.as_bytes()[..cut]).unwrap(), wanted, "{:?}", &text[..cut]);
        }
    }

    #[test]
    fn a_text_of_lines_is_whole_with_its_last_line() {
        let lines = [r#"{"a": "x\n\"}"}"#, "", r#"{"b": [{}]}"#];
        let text = lines.join("\n");
        let wholes = [lines[0].len(), lines[0].len() + 1, lines[0].len() + 2, text.len()];
        for cut in 0..=text.len() {
            let is_whole = wholes.contains(&cut);
            let wanted = if is_whole { Completeness::Whole } else { Completeness::Partial };
            assert_eq!(lines_completeness(&text.as_bytes()[..cut]).unwrap(), wanted, "{:?}", &text[..cut]);
        }
        assert_eq!(lines_completeness(&b"\n \n"[..]).unwrap(), Completeness::Partial);
        assert_eq!(lines_completeness(&b"nonsense\n"[..]).unwrap(), Completeness::Whole);
    }

    #[test]
    fn what_more_bytes_do_not_mend_is_not_waited_for() {
        for text in ["x", "\"text\"", "{}{", "[] ,", "}", "\u{feff}7", "nul"] {
            assert_eq!(completeness(text.as_bytes()).unwrap(), Completeness::Whole, "{text}");
        }
        for text in ["", " \n", "\u{feff}", "\u{feff}{", "[[", "{\"a"] {
            assert_eq!(completeness(text.as_bytes()).unwrap(), Completeness::Partial, "{text}");
        }
    }
}
