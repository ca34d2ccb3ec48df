//! The archive of an adapter: a tar with exactly the two files of one form. It comes from a network: nothing of what
//! it says decides about a path, and nothing about a size beyond the limit.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::store::adapter_files::{
    PEFT_CONFIG_FILE, PEFT_WEIGHTS_FILE, PROCESSED_CONFIG_FILE, PROCESSED_WEIGHTS_FILE,
};

/// Entries that are looked at; there are two.
const MAX_ENTRIES: usize = 4;

/// What is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As PEFT saves an adapter.
    Peft,
    /// As process-lora writes it.
    Processed,
}

/// Writes the files into `to`, an empty directory.
///
/// # Errors
/// `InvalidData` for anything but an adapter within `limit` bytes; the system's.
pub fn unpack(archive: impl Read, to: &Path, limit: u64) -> io::Result<Form> {
    let mut archive = tar::Archive::new(archive.take(limit.saturating_add(1 << 20)));
    let mut left = limit;
    for (at, entry) in archive.entries().map_err(damaged)?.enumerate() {
        let mut entry = entry.map_err(damaged)?;
        if at >= MAX_ENTRIES {
            return Err(wrong("the archive holds more than an adapter's two files".into()));
        }
        let name = file_name(&entry.path_bytes())?;
        if !entry.header().entry_type().is_file() {
            return Err(wrong(format!("{name} is no regular file")));
        }
        let n_bytes = entry.size();
        left = left.checked_sub(n_bytes).ok_or_else(|| wrong(format!("more than {limit} bytes")))?;
        let mut file = File::create_new(to.join(name)).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => wrong(format!("{name} stands there twice")),
            _ => error,
        })?;
        let n = io::copy(&mut (&mut entry).take(n_bytes), &mut file)?;
        if n != n_bytes {
            return Err(wrong(format!("{name} ends in the middle")));
        }
    }
    let has = |name: &str| to.join(name).exists();
    match [PEFT_CONFIG_FILE, PEFT_WEIGHTS_FILE, PROCESSED_CONFIG_FILE, PROCESSED_WEIGHTS_FILE].map(has) {
        [true, true, false, false] => Ok(Form::Peft),
        [false, false, true, true] => Ok(Form::Processed),
        _ => Err(wrong(format!(
            "wanted {PEFT_CONFIG_FILE} and {PEFT_WEIGHTS_FILE}, or {PROCESSED_CONFIG_FILE} and {PROCESSED_WEIGHTS_FILE}"
        ))),
    }
}

/// One of the four names, with or without `./` before it.
fn file_name(path: &[u8]) -> io::Result<&'static str> {
    let name = path.strip_prefix(b"./").unwrap_or(path);
    let known = [PEFT_CONFIG_FILE, PEFT_WEIGHTS_FILE, PROCESSED_CONFIG_FILE, PROCESSED_WEIGHTS_FILE];
    known.into_iter().find(|known| known.as_bytes() == name).ok_or_else(|| {
        let found: String =
            String::from_utf8_lossy(name).chars().filter(|c| !c.is_control()).take(80).collect();
        wrong(format!("the archive holds {found:?}, which is no file of an adapter"))
    })
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// What the reader of archives cannot read is the archive's fault.
fn damaged(error: io::Error) -> io::Error {
    wrong(format!("no archive of tar: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            // Names that the builder itself would refuse.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(bytes.len() as u64);
            header.set_mode(0o777);
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpacked(bytes: &[u8], limit: u64) -> (io::Result<Form>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (unpack(bytes, dir.path(), limit), dir)
    }

    #[test]
    fn both_forms_are_taken() {
        for (names, form) in [
            ([PEFT_CONFIG_FILE, PEFT_WEIGHTS_FILE], Form::Peft),
            ([PROCESSED_CONFIG_FILE, "./processed_adapter_model.safetensors"], Form::Processed),
        ] {
            let (found, dir) = unpacked(&archive(&[(names[0], b"{}"), (names[1], b"weights")]), 100);
            assert_eq!(found.unwrap(), form);
            let name = names[1].trim_start_matches("./");
            assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), b"weights");
        }
    }

    #[test]
    fn anything_else_is_refused_and_writes_nowhere() {
        let two: (&str, &[u8]) = (PEFT_CONFIG_FILE, b"{}");
        let cases: [&[(&str, &[u8])]; 8] = [
            &[],
            &[two],
            &[two, two],
            &[two, ("../adapter_model.safetensors", b"x")],
            &[two, ("/tmp/adapter_model.safetensors", b"x")],
            &[two, ("sub/adapter_model.safetensors", b"x")],
            &[two, (PROCESSED_WEIGHTS_FILE, b"x")],
            &[two, (PEFT_WEIGHTS_FILE, &[0; 200])],
        ];
        for files in cases {
            let (found, _dir) = unpacked(&archive(files), 100);
            assert_eq!(found.unwrap_err().kind(), io::ErrorKind::InvalidData, "{files:?}");
        }
        let whole = archive(&[two, (PEFT_WEIGHTS_FILE, b"weights")]);
        for bytes in [&whole[..700], b"no archive", &whole[..1536]] {
            let (found, _dir) = unpacked(bytes, 100);
            assert_eq!(found.unwrap_err().kind(), io::ErrorKind::InvalidData, "{} bytes", bytes.len());
        }
    }

    #[test]
    fn a_link_is_no_file() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, PEFT_CONFIG_FILE, "/etc/passwd").unwrap();
        let (found, dir) = unpacked(&builder.into_inner().unwrap(), 100);
        assert_eq!(found.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(!dir.path().join(PEFT_CONFIG_FILE).exists());
    }
}
