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
pub fn completeness(mut text: impl Read) -> io::Result<Completeness> {
    let mut scan = Scan::default();
    let mut bytes = vec![0; 64 * 1024];
    let mut is_first = true;
    loop {
        let n = match text.read(&mut bytes) {
            Ok(0) => return Ok(if scan.is_closed { Completeness::Whole } else { Completeness::Partial }),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut part = &bytes[..n];
        if std::mem::take(&mut is_first) {
            part = part.strip_prefix("\u{feff}".as_bytes()).unwrap_or(part);
        }
        if scan.take(part) {
            return Ok(Completeness::Whole);
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
    fn what_more_bytes_do_not_mend_is_not_waited_for() {
        for text in ["x", "\"text\"", "{}{", "[] ,", "}", "\u{feff}7", "nul"] {
            assert_eq!(completeness(text.as_bytes()).unwrap(), Completeness::Whole, "{text}");
        }
        for text in ["", " \n", "\u{feff}", "\u{feff}{", "[[", "{\"a"] {
            assert_eq!(completeness(text.as_bytes()).unwrap(), Completeness::Partial, "{text}");
        }
    }
}
