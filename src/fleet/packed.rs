//! An adapter's files as one tar, the same bytes for the same files: read twice, once for its digest and once to be sent.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, ReadBuf};

use super::names::AdapterDigest;
use crate::store::StoreError;
use crate::store::adapter_files::{
    PEFT_CONFIG_FILE, PEFT_WEIGHTS_FILE, PROCESSED_CONFIG_FILE, PROCESSED_WEIGHTS_FILE,
};

/// Tar's unit; two empty ones end it.
const BLOCK: usize = 512;
const PIECE: usize = 64 << 10;

/// The files of an adapter, opened.
#[derive(Debug)]
pub struct Packed {
    /// Name in the tar, bytes, file.
    files: Vec<(&'static str, u64, File)>,
}

impl Packed {
    /// A directory with an adapter as PEFT saves it or as process-lora writes it, or its file of weights.
    ///
    /// # Errors
    /// [`StoreError`] of a file that is missing or cannot be read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let directory = directory_of(path);
        let is_processed = directory.join(PROCESSED_WEIGHTS_FILE).exists();
        let names = if is_processed {
            [PROCESSED_CONFIG_FILE, PROCESSED_WEIGHTS_FILE]
        } else {
            [PEFT_CONFIG_FILE, PEFT_WEIGHTS_FILE]
        };
        let open = |name: &'static str| {
            let path = directory.join(name);
            let file = File::open(&path).map_err(StoreError::io(&path, "open"))?;
            let metadata = file.metadata().map_err(StoreError::io(&path, "look at"))?;
            if !metadata.is_file() {
                return Err(StoreError::io(&path, "read")(io::ErrorKind::InvalidInput.into()));
            }
            Ok((name, metadata.len(), file))
        };
        Ok(Self { files: names.into_iter().map(open).collect::<Result<_, _>>()? })
    }

    /// The digest of the tar.
    ///
    /// # Errors
    /// A file that cannot be read, or is not as long as it was.
    pub fn digest(&mut self) -> io::Result<AdapterDigest> {
        let mut hasher = Sha256::new();
        let mut reader = self.read()?;
        let mut piece = vec![0; PIECE];
        loop {
            match reader.read(&mut piece)? {
                0 => return Ok(AdapterDigest::of(hasher)),
                n => hasher.update(&piece[..n]),
            }
        }
    }

    /// The tar, to be sent.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn body(&mut self) -> io::Result<impl AsyncRead + Unpin> {
        Ok(Blocking(self.read()?))
    }

    fn read(&mut self) -> io::Result<Box<dyn Read + Send + '_>> {
        let mut parts: Box<dyn Read + Send> = Box::new(io::empty());
        for (name, n_bytes, file) in &mut self.files {
            file.rewind()?;
            let filler = n_bytes.next_multiple_of(BLOCK as u64) - *n_bytes;
            let content = Whole { left: *n_bytes, file };
            parts = Box::new(
                parts.chain(header(name, *n_bytes)?).chain(content).chain(io::repeat(0).take(filler)),
            );
        }
        Ok(Box::new(parts.chain(io::repeat(0).take(2 * BLOCK as u64))))
    }
}

/// The directory of a file of weights, or the path itself.
fn directory_of(path: &Path) -> PathBuf {
    let is_weights = [PROCESSED_WEIGHTS_FILE, PEFT_WEIGHTS_FILE].iter().any(|name| path.ends_with(name));
    match path.parent().filter(|_| is_weights && !path.is_dir()) {
        Some(parent) => parent.to_owned(),
        None => path.to_owned(),
    }
}

/// Nothing of the machine or the time goes in.
fn header(name: &str, n_bytes: u64) -> io::Result<Cursor<Vec<u8>>> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(n_bytes);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(Cursor::new(header.as_bytes().to_vec()))
}

/// As many bytes as the header says, or an error.
struct Whole<'a> {
    left: u64,
    file: &'a File,
}

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = (&mut self.file).take(self.left).read(buffer)?;
        if n == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

/// A command that has nothing else to do may wait for the disk.
struct Blocking<R>(R);

impl<R: Read + Unpin> AsyncRead for Blocking<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = self.0.read(buffer.initialize_unfilled())?;
        buffer.advance(n);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &[u8])]) {
        std::fs::create_dir_all(folder).unwrap();
        files.iter().for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).unwrap());
    }

    fn bytes(path: &Path) -> Vec<u8> {
        let mut found = Vec::new();
        Packed::open(path).unwrap().read().unwrap().read_to_end(&mut found).unwrap();
        found
    }

    #[test]
    fn another_reader_of_tars_finds_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let weights = vec![7; 1000];
        write(folder.path(), &[(PEFT_CONFIG_FILE, b"{}"), (PEFT_WEIGHTS_FILE, &weights), ("other", b"x")]);
        let packed = folder.path().join("packed.tar");
        std::fs::write(&packed, bytes(folder.path())).unwrap();
        let list = std::process::Command::new("tar").arg("-tvf").arg(&packed).output().unwrap();
        assert!(list.status.success(), "{list:?}");
        let list = String::from_utf8(list.stdout).unwrap();
        assert_eq!(list.lines().count(), 2, "{list}");
        let mut command = std::process::Command::new("tar");
        let found = command.arg("-xOf").arg(&packed).arg(PEFT_WEIGHTS_FILE).output().unwrap();
        assert!(found.stdout == weights, "{found:?}");
    }

    #[test]
    fn the_same_files_are_the_same_bytes_wherever_they_lie() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        for place in [&a, &b] {
            write(place, &[(PROCESSED_CONFIG_FILE, b"{}"), (PROCESSED_WEIGHTS_FILE, &[1; 512])]);
        }
        assert_eq!(bytes(&a), bytes(&b.join(PROCESSED_WEIGHTS_FILE)));
        let sum = Packed::open(&a).unwrap().digest().unwrap();
        let wanted: String = Sha256::digest(bytes(&a)).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(sum.to_string(), format!("sha256:{wanted}"));
    }

    #[test]
    fn what_is_no_adapter_is_refused_and_a_file_that_shrinks_too() {
        let folder = tempfile::tempdir().unwrap();
        let error = Packed::open(folder.path()).expect_err("there is nothing");
        assert!(error.to_string().contains(PEFT_CONFIG_FILE), "{error}");
        write(folder.path(), &[(PEFT_CONFIG_FILE, b"{}"), (PEFT_WEIGHTS_FILE, &[7; 1000])]);
        let mut packed = Packed::open(folder.path()).unwrap();
        std::fs::write(folder.path().join(PEFT_WEIGHTS_FILE), [7; 10]).unwrap();
        assert_eq!(packed.digest().expect_err("it is shorter").kind(), io::ErrorKind::UnexpectedEof);
    }
}
