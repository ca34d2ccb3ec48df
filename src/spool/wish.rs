//! What an operator asks of the running daemon: one small file in control/, removed when it is done. A wish
//! that was left by a crash is granted at the next start; granting one twice does no harm.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;

use super::disk::Disk;
use super::error::SpoolError;
use super::place::Place;

/// A wish about a job in work/, which only the daemon may move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Stop the job and move it to hold/ with its journal.
    Hold(OsString),
    /// Stop the job and remove it without an answer.
    Delete(OsString),
    /// Look at new/ now, and try again now what failed.
    Flush,
}

/// A wish and the file that it stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WishFile {
    pub(super) name: OsString,
    /// None for a file that holds no wish.
    pub wish: Option<Wish>,
}

/// A name of 255 bytes and a word; anything longer is no wish.
const MAX_BYTES: u64 = 512;

impl Wish {
    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Wish::Hold(name) => [b"hold ", name.as_bytes()].concat(),
            Wish::Delete(name) => [b"delete ", name.as_bytes()].concat(),
            Wish::Flush => b"flush".to_vec(),
        }
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let name = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
        match (bytes.strip_prefix(b"hold "), bytes.strip_prefix(b"delete ")) {
            (Some(job), _) if is_job_name(job) => Some(Wish::Hold(name(job))),
            (_, Some(job)) if is_job_name(job) => Some(Wish::Delete(name(job))),
            _ if bytes == b"flush" => Some(Wish::Flush),
            _ => None,
        }
    }

    /// Puts the wish into control/ as a whole file of the name `mark`.
    pub(super) fn leave(&self, disk: &Disk, mark: &OsStr) -> Result<(), SpoolError> {
        let fail = |e| disk.error("write", Place::Tmp, mark, e);
        let file = disk.create(Place::Tmp, mark)?;
        disk.writer(&file).write_all(&self.to_bytes()).map_err(fail)?;
        disk.rename((Place::Tmp, mark), (Place::Control, mark)).map(|_| ())
    }
}

/// A plain name of a request file.
pub(super) fn is_job_name(name: &[u8]) -> bool {
    name.ends_with(b".json") && !name.starts_with(b".") && !name.contains(&b'/') && !name.contains(&0)
}

/// The wishes that wait, in the order of their names, which begin with their time.
pub(super) fn waiting(disk: &Disk) -> Result<Vec<WishFile>, SpoolError> {
    let mut names = Vec::new();
    disk.list(Place::Control, |name| names.push(name.to_owned()))?;
    names.sort();
    let mut wishes = Vec::new();
    for name in names {
        let mut bytes = Vec::new();
        let Some(stat) = disk.stat(Place::Control, &name)? else { continue };
        let is_file = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
        if is_file && let Ok(file) = disk.open_for_reading(Place::Control, &name) {
            let read = file.take(MAX_BYTES).read_to_end(&mut bytes);
            read.map_err(|e| disk.error("read", Place::Control, &name, e))?;
        }
        wishes.push(WishFile { wish: Wish::from_bytes(&bytes), name });
    }
    Ok(wishes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_read_back() {
        let name = || OsStr::from_bytes(b"a \xff\n.json").to_owned();
        for wish in [Wish::Hold(name()), Wish::Delete(name()), Wish::Flush] {
            assert_eq!(Wish::from_bytes(&wish.to_bytes()), Some(wish));
        }
        for bytes in ["", "flush ", "hold ", "hold x", "hold .x.json", "delete a/b.json", "delete ../x.json"]
        {
            assert_eq!(Wish::from_bytes(bytes.as_bytes()), None, "{bytes}");
        }
    }
}
