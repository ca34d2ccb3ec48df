//! What an operator and the running daemon say to each other, over a socket in the spool: one line of JSON
//! with an order, one line of JSON with the answer. Who asks is told by the system, not by the line.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::SpoolError;
use super::name::printable;
use super::operate::{Action, Found};
use super::report::{JobReport, Report};

/// The socket's name in the spool.
pub const SOCKET_NAME: &str = "control.sock";
/// A longer line is no order.
pub const MAX_LINE_BYTES: usize = 1 << 20;
/// Paths of sockets are shorter than this (unix(7)).
const MAX_SOCKET_PATH: usize = 100;

/// A file name or a job's id as it was given; any bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobName(pub OsString);

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Order {
    /// The daemon at this moment.
    Status,
    /// The jobs under way that a name means.
    Job { name: JobName },
    /// Look at new/ now, and try again now what failed.
    Flush,
    /// Do it with the jobs of these names, or with all that the action is for.
    Act { action: Action, names: Option<Vec<JobName>> },
    /// Wait until the file that was dropped has its answer. `inode` tells it from others of the name.
    Follow { name: JobName, inode: u64 },
}

/// What became of one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acted {
    pub name: JobName,
    pub id: Option<String>,
    /// Where the job was taken from, or why it was not.
    pub result: Result<String, Refusal>,
}

impl Acted {
    /// What became of a job that was found.
    pub fn of(job: &Found, result: Result<(), Refusal>) -> Self {
        let result = result.map(|()| job.place.name().to_owned());
        Self { name: JobName(job.name.clone()), id: job.id.map(|id| id.to_string()), result }
    }

    /// Nothing was found under a name.
    pub fn failed(name: &OsStr, error: &SpoolError) -> Self {
        Self { name: JobName(name.to_owned()), id: None, result: Err(Refusal::of(error)) }
    }
}

impl Refusal {
    pub fn of(error: &SpoolError) -> Self {
        Self { code: error.exit_code(), message: error.to_string() }
    }
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The exit code of sysexits.h.
    pub code: u8,
    pub message: String,
}

/// The daemon's answer to an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    Status {
        report: Box<Report>,
    },
    Jobs {
        jobs: Vec<JobReport>,
    },
    Flushed,
    /// `is_more`: there are more jobs than one order is for.
    Acted {
        jobs: Vec<Acted>,
        is_more: bool,
    },
    /// The answer stands in out/ under this name.
    Answered {
        name: JobName,
    },
    /// The daemon knows nothing of the file.
    Unknown,
    Refused {
        refusal: Refusal,
    },
}

impl JobName {
    pub fn as_os_str(&self) -> &OsStr {
        &self.0
    }
}

/// Fit for a terminal.
impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        printable(&self.0).fmt(f)
    }
}

/// A text where it is one, else a list of bytes.
impl Serialize for JobName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => serializer.collect_seq(self.0.as_bytes()),
        }
    }
}

impl<'de> Deserialize<'de> for JobName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Text(String),
            Bytes(Vec<u8>),
        }
        Ok(Self(match Wire::deserialize(deserializer)? {
            Wire::Text(text) => text.into(),
            Wire::Bytes(bytes) => OsString::from_vec(bytes),
        }))
    }
}

/// The path of the spool's socket, by way of an open directory where its own would be too long.
pub struct SocketPath {
    path: PathBuf,
    /// Keeps the way open.
    _dir: Option<File>,
}

impl SocketPath {
    /// # Errors
    /// The system's, when the spool cannot be opened.
    pub fn of(root: &Path) -> std::io::Result<Self> {
        let path = root.join(SOCKET_NAME);
        if path.as_os_str().len() < MAX_SOCKET_PATH {
            return Ok(Self { path, _dir: None });
        }
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let dir = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(root)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_NAME}", dir.as_raw_fd()));
        Ok(Self { path, _dir: Some(dir) })
    }

    pub fn as_path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_read_back() {
        let name = || JobName(OsStr::from_bytes(b"a \xff\n.json").to_owned());
        let plain = || JobName("x.json".into());
        let orders = [
            Order::Status,
            Order::Flush,
            Order::Act { action: Action::Hold, names: Some(vec![name(), plain()]) },
            Order::Act { action: Action::Release, names: None },
            Order::Follow { name: name(), inode: 7 },
        ];
        for order in orders {
            let line = serde_json::to_string(&order).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Order>(&line).unwrap(), order, "{line}");
        }
        assert_eq!(
            serde_json::to_string(&Order::Job { name: plain() }).unwrap(),
            r#"{"order":"job","name":"x.json"}"#
        );
        assert!(serde_json::from_str::<Order>(r#"{"order":"reboot"}"#).is_err());
    }
}
