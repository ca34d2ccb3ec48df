//! Where a request stands in the text of its file.

use std::ops::Range;

/// A request's place in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    start: u32,
    n_bytes: u32,
    crc: u32,
}

impl Span {
    /// The place of `bytes`, which begin at `start`.
    pub fn of(start: u32, bytes: &[u8]) -> Self {
        let n_bytes = u32::try_from(bytes.len()).expect("files of 4 GiB are refused");
        Self { start, n_bytes, crc: crc32fast::hash(bytes) }
    }

    /// Whether these are the bytes that stood there.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        crc32fast::hash(bytes) == self.crc
    }

    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.start as usize + self.n_bytes as usize
    }
}
