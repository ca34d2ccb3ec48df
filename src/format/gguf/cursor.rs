//! Numbers and texts out of bytes, one behind the other. A length is believed only where the bytes are there.

use crate::format::{FormatError, GGUF_FILE};

/// Longest text; chat templates have some kilobytes.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// A damaged file, and why.
pub(super) fn damaged(why: impl Into<String>) -> FormatError {
    FormatError::Damaged { what: GGUF_FILE, why: why.into() }
}

/// What is left to read.
pub(super) struct Cursor<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(all: &'a [u8]) -> Self {
        Self { all, at: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    pub fn n_left(&self) -> usize {
        self.all.len() - self.at
    }

    pub fn bytes(&mut self, n_bytes: usize) -> Result<&'a [u8], FormatError> {
        let end = self.at.checked_add(n_bytes).filter(|end| *end <= self.all.len());
        let Some(end) = end else {
            let (at, left) = (self.at, self.n_left());
            return Err(damaged(format!("{n_bytes} bytes are wanted at byte {at}, {left} are left")));
        };
        let found = &self.all[self.at..end];
        self.at = end;
        Ok(found)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let bytes = self.bytes(N)?;
        Ok(bytes.try_into().expect("as many bytes as were asked for"))
    }

    pub fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of things that take at least `least` bytes each, of which there are at most `most`.
    pub fn count(&mut self, what: &str, least: usize, most: usize) -> Result<usize, FormatError> {
        let claimed = self.u64()?;
        let most = most.min(self.n_left() / least.max(1));
        usize::try_from(claimed).ok().filter(|count| *count <= most).ok_or_else(|| {
            damaged(format!("it claims {claimed} {what} at byte {}, there is room for {most}", self.at))
        })
    }

    /// A length, and as many bytes of UTF-8.
    pub fn text(&mut self, what: &str) -> Result<&'a str, FormatError> {
        let n_bytes = self.count(&format!("bytes of {what}"), 1, MAX_TEXT_BYTES)?;
        let start = self.at;
        let bytes = self.bytes(n_bytes)?;
        std::str::from_utf8(bytes).map_err(|_| damaged(format!("{what} at byte {start} is not UTF-8")))
    }
}
