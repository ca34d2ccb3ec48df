//! Who waits for the answer of a file that he dropped.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};

use tokio::sync::oneshot;

use crate::spool::JobId;
use crate::spool::control::{JobName, Reply};

/// Answers that are remembered for who asks too late.
const N_RECENT: usize = 1024;
/// Who waits at once; the socket has its own limit.
const MAX_WAITING: usize = 1024;

/// A file: its name, and its inode where it is known.
type File = (OsString, Option<u64>);

#[derive(Default)]
pub struct Followers {
    waiting: Vec<(OsString, u64, oneshot::Sender<Reply>)>,
    /// Jobs under way.
    jobs: BTreeMap<JobId, File>,
    recent: VecDeque<(File, OsString)>,
}

impl Followers {
    /// A file is a job now.
    pub fn note_job(&mut self, job: JobId, name: &OsStr, inode: Option<u64>) {
        self.jobs.insert(job, (name.to_owned(), inode));
    }

    /// A job is over, without an answer.
    pub fn forget(&mut self, job: JobId) {
        self.jobs.remove(&job);
    }

    /// A job's answer is out under the name `answer`.
    pub fn tell(&mut self, job: JobId, answer: &OsStr) {
        let Some(file) = self.jobs.remove(&job) else { return };
        let (tell, wait) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(name, inode, _)| is_same(&file, name, *inode));
        self.waiting = wait;
        let tell: Vec<(OsString, u64, oneshot::Sender<Reply>)> = tell;
        for (_, _, sender) in tell {
            let _ = sender.send(Reply::Answered { name: JobName(answer.to_owned()) });
        }
        if self.recent.len() == N_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((file, answer.to_owned()));
    }

    /// Waits for a file's answer, if it is not out already.
    pub fn add(&mut self, name: OsString, inode: u64, sender: oneshot::Sender<Reply>) {
        self.waiting.retain(|(_, _, sender)| !sender.is_closed());
        let answer = self.recent.iter().rev().find(|(file, _)| is_same(file, &name, inode));
        match answer {
            Some((_, answer)) => {
                let _ = sender.send(Reply::Answered { name: JobName(answer.clone()) });
            }
            None if self.waiting.len() < MAX_WAITING => self.waiting.push((name, inode, sender)),
            None => drop(sender.send(Reply::Unknown)),
        }
    }
}

/// After a restart only the name is known.
fn is_same(file: &File, name: &OsStr, inode: u64) -> bool {
    file.0 == name && file.1.is_none_or(|known| known == inode)
}
