//! A file that is written in blocks of one large page, so that the system's cache can hold it in such pages: who maps
//! it has a translation for 2 MiB instead of 512.

use std::fs::File;
use std::io::{self, Write};

/// Bytes of a large page on x86-64, and on aarch64 with pages of 4 KiB.
pub(super) const LARGE_PAGE: usize = 2 << 20;

/// What a file may have before it gets the room of a whole block.
const SMALL: usize = 512 << 10;

/// Collects bytes from a file's beginning on. What was not flushed is not written.
pub struct Blocks {
    file: File,
    /// Less than a block.
    rest: Vec<u8>,
}

impl Blocks {
    /// `file` is empty.
    pub fn new(file: File) -> Self {
        Self { file, rest: Vec::new() }
    }

    /// The file, to write at places of it or to sync what was flushed.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes what is left; the file is not synced.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(mut self) -> io::Result<File> {
        self.flush()?;
        Ok(self.file)
    }
}

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let whole = bytes.len() / LARGE_PAGE * LARGE_PAGE;
        if self.rest.is_empty() && whole > 0 {
            self.file.write_all(&bytes[..whole])?;
            return Ok(whole);
        }
        let n = bytes.len().min(LARGE_PAGE - self.rest.len());
        if self.rest.len() + n > SMALL {
            self.rest.reserve_exact(LARGE_PAGE - self.rest.len());
        }
        self.rest.extend_from_slice(&bytes[..n]);
        if self.rest.len() == LARGE_PAGE {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.rest)?;
        self.rest.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_arrive_in_order() {
        let bytes: Vec<u8> = (0..251).cycle().take(5 * LARGE_PAGE + 77).collect();
        let sizes = [4096, LARGE_PAGE - 1, LARGE_PAGE, LARGE_PAGE + 1, 3 * LARGE_PAGE, bytes.len()];
        for (len, wanted) in sizes.map(|len| (len, &bytes[..])).into_iter().chain([(1, &bytes[..4096])]) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x");
            let mut blocks = Blocks::new(File::create(&path).unwrap());
            wanted.chunks(len).for_each(|piece| blocks.write_all(piece).unwrap());
            blocks.flush().unwrap();
            assert!(std::fs::read(&path).unwrap() == wanted, "pieces of {len}");
        }
    }
}
