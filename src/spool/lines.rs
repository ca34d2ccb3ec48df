//! The lines of a journal: `CRC32 JSON\n`, the checksum over the JSON in eight hex digits.
//!
//! Lines are read as a stream: of one that holds a long answer only its beginning and its place are kept.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;

/// Checksum and space.
pub const PREFIX_BYTES: u64 = PREFIX_LEN as u64;
const PREFIX_LEN: usize = 9;

/// What is kept of a line's JSON. Every event fits, up to the answer that it may hold.
const HEAD_BYTES: usize = 1024;

/// A whole line with the right checksum.
#[derive(Debug)]
pub struct Line {
    /// The beginning of the JSON, or all of it.
    pub head: Vec<u8>,
    /// Where the line begins in the file.
    pub start: u64,
    /// Bytes of the JSON.
    pub n_bytes: u64,
    crc: crc32fast::Hasher,
    prefix: Vec<u8>,
}

impl Line {
    fn new(start: u64) -> Self {
        let (head, prefix) = (Vec::new(), Vec::new());
        Self { head, start, n_bytes: 0, crc: crc32fast::Hasher::new(), prefix }
    }

    fn take(&mut self, bytes: &[u8]) {
        let n_prefix = bytes.len().min(PREFIX_LEN - self.prefix.len());
        let (prefix, json) = bytes.split_at(n_prefix);
        self.prefix.extend_from_slice(prefix);
        self.crc.update(json);
        self.n_bytes += json.len() as u64;
        let n_kept = json.len().min(HEAD_BYTES - self.head.len());
        self.head.extend_from_slice(&json[..n_kept]);
    }

    fn is_right(&self) -> bool {
        let crc = std::str::from_utf8(&self.prefix).ok().and_then(|prefix| prefix.strip_suffix(' '));
        let crc = crc.filter(|crc| crc.len() == 8).and_then(|crc| u32::from_str_radix(crc, 16).ok());
        crc == Some(self.crc.clone().finalize())
    }
}

/// Tells of each line up to the first that is torn or wrong; returns how many bytes the good ones are.
///
/// # Errors
/// The reader's.
pub fn read_lines(input: impl Read, mut each: impl FnMut(&Line)) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(64 * 1024, input);
    let mut line = Line::new(0);
    let mut n_read = 0;
    loop {
        let bytes = match reader.fill_buf() {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if bytes.is_empty() {
            return Ok(line.start);
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        line.take(&bytes[..end.unwrap_or(bytes.len())]);
        let n_used = end.map_or(bytes.len(), |end| end + 1);
        reader.consume(n_used);
        n_read += n_used as u64;
        if end.is_some() {
            if !line.is_right() {
                return Ok(line.start);
            }
            each(&line);
            line = Line::new(n_read);
        }
    }
}

/// Writes a line whose JSON is given in pieces; returns how many bytes it has.
///
/// # Errors
/// The writer's.
pub fn write_line(out: &mut impl Write, json: &[&str]) -> io::Result<u64> {
    let mut crc = crc32fast::Hasher::new();
    json.iter().for_each(|piece| crc.update(piece.as_bytes()));
    write!(out, "{:08x} ", crc.finalize())?;
    for piece in json {
        out.write_all(piece.as_bytes())?;
    }
    out.write_all(b"\n")?;
    Ok(PREFIX_BYTES + json.iter().map(|piece| piece.len() as u64).sum::<u64>() + 1)
}

/// Writes a line whose JSON `json` writes, twice the same: first for the checksum. Returns how many bytes it has.
///
/// # Errors
/// The writer's.
pub fn write_line_by(
    out: &mut impl Write,
    json: impl Fn(&mut dyn Write) -> io::Result<()>,
) -> io::Result<u64> {
    let mut sum = Sum::default();
    json(&mut sum)?;
    write!(out, "{:08x} ", sum.crc.finalize())?;
    json(out)?;
    out.write_all(b"\n")?;
    Ok(PREFIX_BYTES + sum.n_bytes + 1)
}

/// Length and checksum of what is written to it.
#[derive(Default)]
struct Sum {
    crc: crc32fast::Hasher,
    n_bytes: u64,
}

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.crc.update(bytes);
        self.n_bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a file from a place of one's own, whatever else reads or appends.
#[derive(Debug)]
pub struct FileFrom<'f> {
    pub file: &'f File,
    pub at: u64,
}

impl Read for FileFrom<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(bytes, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(lines: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for json in lines {
            let (start, end) = json.split_at(json.len() / 2);
            let before = bytes.len();
            let n = write_line(&mut bytes, &[start, end]).unwrap();
            assert_eq!(n, (bytes.len() - before) as u64);
        }
        bytes
    }

    #[test]
    fn lines_are_read_up_to_any_damage() {
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(200_000));
        let texts = ["{}", &long, "{\"b\":1}"];
        let whole = written(&texts);
        let mut found = Vec::new();
        let n = read_lines(&whole[..], |line| {
            let [start, n_bytes] =
                [line.start + PREFIX_BYTES, line.n_bytes].map(|n| usize::try_from(n).unwrap());
            let json = &whole[start..][..n_bytes];
            assert!(json.starts_with(&line.head) && line.head.len() == json.len().min(HEAD_BYTES));
            found.push(String::from_utf8(json.to_vec()).unwrap());
        });
        assert_eq!((n.unwrap(), found), (whole.len() as u64, texts.map(str::to_owned).to_vec()));
        let ends: Vec<usize> =
            whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
        for cut in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
            let wanted = ends.iter().rev().find(|end| **end <= cut).copied().unwrap_or(0) as u64;
            assert_eq!(read_lines(&whole[..cut], |_| {}).unwrap(), wanted, "cut at {cut}");
            let mut damaged = whole.clone();
            damaged[cut] ^= 4;
            assert_eq!(read_lines(&damaged[..], |_| {}).unwrap(), wanted, "damage at {cut}");
        }
    }
}
