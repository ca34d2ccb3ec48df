//! The places of a batch file's lines. Lines are read one after the other: a file of 100,000 of them costs no more
//! memory than its longest, and 12 bytes for each.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashSet};
use std::hash::{Hash, Hasher};
use std::io::{self, BufRead};

use crate::spool::wire::fault::{Fault, FaultCode};
use crate::spool::wire::json::Value;
use crate::spool::wire::limits;
use crate::spool::wire::other_form::is_object_of_requests;
use crate::spool::wire::span::Span;

/// Bytes of the first line that are kept, to tell a whole request file from a line.
const MAX_FIRST: usize = 64 << 10;

/// Where the lines stand that are not empty.
pub struct Lines {
    pub spans: Vec<Span>,
    /// Those of them whose custom_id stands in one before.
    pub repeated: BTreeSet<usize>,
    /// Checksum of all bytes.
    pub crc: u32,
}

/// Reads to the end.
///
/// # Errors
/// The reader's; a fault of the whole file is inside.
pub fn read_lines(mut text: impl BufRead) -> io::Result<Result<Lines, Fault>> {
    let mut reading = Reading::default();
    loop {
        let (n_bytes, is_end) = {
            let part = text.fill_buf()?;
            match part.iter().position(|byte| *byte == b'\n') {
                Some(end) => (reading.take(&part[..=end]), true),
                None => (reading.take(part), part.is_empty()),
            }
        };
        text.consume(n_bytes);
        if is_end {
            reading.end_line();
        }
        if is_end && n_bytes == 0 {
            return Ok(reading.finish());
        }
    }
}

#[derive(Default)]
struct Reading {
    /// The bytes of the line so far, up to the limit.
    line: Vec<u8>,
    /// Bytes of the line, also those that are not kept.
    n_line: u64,
    /// Where the line begins.
    start: u64,
    crc: crc32fast::Hasher,
    n_lines: usize,
    /// The first line that is not empty, up to some bytes.
    first: Vec<u8>,
    /// Of the lines up to the limit.
    spans: Vec<Span>,
    repeated: BTreeSet<usize>,
    /// Of the custom_ids. One in 2^64 pairs is taken for equal.
    seen: HashSet<u64>,
}

impl Reading {
    /// Takes more of the line; returns how much.
    fn take(&mut self, part: &[u8]) -> usize {
        self.crc.update(part);
        let room = (limits::LINE_BYTES + 1).saturating_sub(self.line.len());
        self.line.extend(&part[..part.len().min(room)]);
        self.n_line += part.len() as u64;
        part.len()
    }

    fn end_line(&mut self) {
        let mut line = self.line.as_slice();
        if self.start == 0 {
            // A byte order mark, as some editors write it.
            line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        }
        let before = self.line.len() - line.trim_ascii_start().len();
        let line = line.trim_ascii();
        self.n_lines += usize::from(!line.is_empty());
        if self.n_lines == 1 && self.first.is_empty() {
            self.first = line[..line.len().min(MAX_FIRST)].to_vec();
        }
        if !line.is_empty() && self.n_lines <= limits::REQUESTS {
            if custom_id(line).is_some_and(|id| !self.seen.insert(id)) {
                self.repeated.insert(self.spans.len());
            }
            // What does not fit in 32 bits is refused at the end.
            let start = u32::try_from(self.start.saturating_add(before as u64)).unwrap_or(u32::MAX);
            self.spans.push(Span::of(start, line));
        }
        self.start += self.n_line;
        self.n_line = 0;
        self.line.clear();
    }

    fn finish(self) -> Result<Lines, Fault> {
        let n = self.n_lines;
        if n == 0 {
            return Err(Fault::new(FaultCode::BadFile, "the file is empty; wanted one JSON object a line"));
        }
        if is_object_of_requests(&self.first, n) {
            let message = "the file is one JSON object, wanted one a line; give it a name that ends in .json";
            return Err(Fault::new(FaultCode::BadFile, message));
        }
        if n > limits::REQUESTS {
            let message = format!("{n} lines are over the limit of {}; split the file", limits::REQUESTS);
            return Err(Fault::new(FaultCode::TooLarge, message));
        }
        if u32::try_from(self.start).is_err() {
            return Err(Fault::new(FaultCode::TooLarge, "the file is over the limit of 4 GiB"));
        }
        Ok(Lines { spans: self.spans, repeated: self.repeated, crc: self.crc.finalize() })
    }
}

fn custom_id(line: &[u8]) -> Option<u64> {
    let id = Value::parse(std::str::from_utf8(line).ok()?).ok()?.get("custom_id")?;
    let mut hasher = DefaultHasher::new();
    id.string()?.hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stand_where_they_are() {
        let text =
            "\u{feff}{\"custom_id\": \"a\"}\r\n\n  {\"custom_id\": \"b\"} \n{x\n{\"custom_id\": \"\\u0061\"}";
        let lines = read_lines(text.as_bytes()).unwrap().unwrap();
        let found: Vec<&str> = lines.spans.iter().map(|span| &text[span.range()]).collect();
        assert_eq!(
            found,
            ["{\"custom_id\": \"a\"}", "{\"custom_id\": \"b\"}", "{x", "{\"custom_id\": \"\\u0061\"}"]
        );
        assert_eq!(lines.repeated, BTreeSet::from([3]));
        assert_eq!(lines.crc, crc32fast::hash(text.as_bytes()));
        // Whatever the pieces are that it is read in.
        for capacity in 1..9 {
            let again = read_lines(io::BufReader::with_capacity(capacity, text.as_bytes())).unwrap().unwrap();
            assert_eq!((again.spans, again.crc), (lines.spans.clone(), lines.crc));
        }
        for empty in ["", "\n", "\u{feff}", " \n\t\r\n"] {
            assert!(read_lines(empty.as_bytes()).unwrap().is_err(), "{empty:?}");
        }
    }

    #[test]
    fn a_line_over_the_limit_costs_no_more_than_it() {
        let long = "x".repeat(limits::LINE_BYTES + 100);
        let text = format!("{long}\n{{}}\n");
        let lines = read_lines(text.as_bytes()).unwrap().unwrap();
        assert_eq!(lines.spans.len(), 2);
        assert_eq!(lines.spans[0].range().len(), limits::LINE_BYTES + 1);
        assert_eq!(&text[lines.spans[1].range()], "{}");
    }
}
