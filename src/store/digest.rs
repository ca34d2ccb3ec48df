//! SHA-256 of files, in lower-case hex: taken while a file is written, and again when somebody doubts it.

use std::io::{self, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::StoreError;
use super::map::open_regular;

/// Hands bytes on and takes their digest.
pub struct Sha256Writer<W> {
    inner: W,
    hasher: Sha256,
}

impl<W> Sha256Writer<W> {
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    /// The writer, and the digest of what went to it.
    pub fn finish(self) -> (W, String) {
        (self.inner, hex(&self.hasher.finalize()))
    }
}

impl<W: Write> Write for Sha256Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n_written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n_written]);
        Ok(n_written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The digest of bytes.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The digest of a file, read as a whole.
///
/// # Errors
/// [`StoreError::Io`], [`StoreError::NotRegular`].
pub fn sha256_of_file(path: &Path) -> Result<String, StoreError> {
    let (mut file, _) = open_regular(path)?;
    let mut writer = Sha256Writer::new(io::sink());
    io::copy(&mut file, &mut writer).map_err(StoreError::io(path, "read"))?;
    Ok(writer.finish().1)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_read_and_known_digests_agree() {
        // FIPS 180-2, appendix B.1.
        let wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), wanted);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        let mut writer = Sha256Writer::new(std::fs::File::create(&path).unwrap());
        writer.write_all(b"a").and_then(|()| writer.write_all(b"bc")).unwrap();
        assert_eq!(writer.finish().1, wanted);
        assert_eq!(sha256_of_file(&path).unwrap(), wanted);
        assert!(sha256_of_file(folder.path()).is_err());
    }
}
