//! The daemon of the spool, asked through its socket: how it is, whether it has a job, and what it is to do with
//! the bridge's own jobs.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::spool::Action;
use crate::spool::control::{Acted, JobName, Order, Refusal, Reply, SocketPath};
use crate::spool::report::{JobReport, JobStage, Report, State};

/// A daemon that works answers between two steps.
const WITHIN: Duration = Duration::from_secs(10);
/// A report with many jobs is larger than an order.
const MAX_REPLY: u64 = 16 << 20;

/// The daemon's end of a spool.
#[derive(Debug, Clone)]
pub struct Daemon {
    root: PathBuf,
}

/// How the daemon is.
#[derive(Debug, Clone, PartialEq)]
pub enum DaemonState {
    /// It takes jobs.
    Working(Box<Report>),
    /// It takes no more jobs: it ends, or the disk is in trouble.
    Unwilling(Box<Report>, String),
    /// None runs, or it does not answer.
    Gone(String),
}

impl Daemon {
    pub fn of(root: PathBuf) -> Self {
        Self { root }
    }

    /// Asks how it is.
    pub async fn state(&self) -> DaemonState {
        match self.ask(&Order::Status).await {
            Ok(Reply::Status { report }) => match (report.state, &report.trouble) {
                (State::Stopping, _) => DaemonState::Unwilling(report, "the daemon ends".into()),
                (_, Some(trouble)) => {
                    let trouble = trouble.clone();
                    DaemonState::Unwilling(report, trouble)
                }
                _ => DaemonState::Working(report),
            },
            Ok(Reply::Refused { refusal }) => DaemonState::Gone(refusal.message),
            Ok(_) => DaemonState::Gone("the daemon is of another version".into()),
            Err(error) => DaemonState::Gone(format!("the daemon does not answer: {error}")),
        }
    }

    /// The jobs of this name that it has taken.
    ///
    /// # Errors
    /// The system's, when it does not answer.
    pub async fn jobs(&self, name: &OsStr) -> io::Result<Vec<JobReport>> {
        match self.ask(&Order::Job { name: JobName(name.to_owned()) }).await? {
            Reply::Jobs { jobs } => Ok(jobs),
            other => Err(unexpected(&other)),
        }
    }

    /// Does something with files of the bridge's own. Whether all of it was done.
    ///
    /// # Errors
    /// The system's, when it does not answer.
    pub async fn act(&self, action: Action, names: Vec<JobName>) -> io::Result<Result<(), Refusal>> {
        match self.ask(&Order::Act { action, names: Some(names) }).await? {
            Reply::Acted { jobs, .. } => {
                let failed = jobs.into_iter().find_map(|Acted { result, .. }| result.err());
                Ok(failed.map_or(Ok(()), Err))
            }
            Reply::Refused { refusal } => Ok(Err(refusal)),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&self, order: &Order) -> io::Result<Reply> {
        timeout(WITHIN, self.converse(order)).await.map_err(|_| io::Error::from(ErrorKind::TimedOut))?
    }

    async fn converse(&self, order: &Order) -> io::Result<Reply> {
        let path = SocketPath::of(&self.root)?;
        let mut stream = UnixStream::connect(path.as_path()).await?;
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut text = String::new();
        BufReader::new((&mut stream).take(MAX_REPLY)).read_line(&mut text).await?;
        if text.is_empty() {
            // It ended while it was asked.
            return Err(ErrorKind::ConnectionAborted.into());
        }
        Ok(serde_json::from_str(&text)?)
    }
}

/// Whether nothing of a job was computed yet, so that it may be given to somebody else.
pub fn is_unbegun(job: &JobReport) -> bool {
    let rests = matches!(job.stage, JobStage::Waiting | JobStage::Answering);
    rests && job.n_answered == 0 && job.n_under_way == 0
}

fn unexpected(reply: &Reply) -> io::Error {
    match reply {
        Reply::Refused { refusal } => io::Error::other(refusal.message.clone()),
        _ => io::Error::other("the daemon is of another version"),
    }
}
