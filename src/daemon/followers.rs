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

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: u64 = 7;

    fn ask(followers: &mut Followers, name: &str, inode: u64) -> oneshot::Receiver<Reply> {
        let (sender, receiver) = oneshot::channel();
        followers.add(name.into(), inode, sender);
        receiver
    }

    fn told(receiver: &mut oneshot::Receiver<Reply>) -> Option<String> {
        match receiver.try_recv() {
            Ok(Reply::Answered { name }) => Some(name.0.into_string().unwrap()),
            Ok(_) => panic!("this is no answer"),
            Err(_) => None,
        }
    }

    #[test]
    fn who_asks_before_or_after_is_told_the_name_of_his_own_answer() {
        let mut followers = Followers::default();
        let mut early = ask(&mut followers, "x.json", 1);
        let mut other = ask(&mut followers, "x.json", 2);
        followers.note_job(JobId::from_micros(JOB), "x.json".as_ref(), Some(1));
        assert_eq!(told(&mut early), None);
        followers.tell(JobId::from_micros(JOB), "x.7.json".as_ref());
        assert_eq!(told(&mut early).as_deref(), Some("x.7.json"));
        assert_eq!(told(&mut other), None, "another file of the same name");
        assert_eq!(told(&mut ask(&mut followers, "x.json", 1)).as_deref(), Some("x.7.json"));
        assert_eq!(told(&mut ask(&mut followers, "x.json", 3)), None);
        // Of two answers of one file the later one counts.
        followers.note_job(JobId::from_micros(JOB + 1), "x.json".as_ref(), Some(1));
        followers.tell(JobId::from_micros(JOB + 1), "x.8.json".as_ref());
        assert_eq!(told(&mut ask(&mut followers, "x.json", 1)).as_deref(), Some("x.8.json"));
    }

    #[test]
    fn after_a_restart_the_name_is_enough() {
        let mut followers = Followers::default();
        followers.note_job(JobId::from_micros(JOB), "x.json".as_ref(), None);
        let mut follower = ask(&mut followers, "x.json", 99);
        followers.tell(JobId::from_micros(JOB), "x.json".as_ref());
        assert_eq!(told(&mut follower).as_deref(), Some("x.json"));
    }

    #[test]
    fn who_has_gone_away_is_forgotten_and_memory_is_bounded() {
        let mut followers = Followers::default();
        for inode in 0..3 * MAX_WAITING as u64 {
            drop(ask(&mut followers, "x.json", inode));
        }
        assert!(followers.waiting.len() <= 1);
        let _waiting: Vec<_> =
            (0..MAX_WAITING as u64 + 1).map(|i| ask(&mut followers, "y.json", i)).collect();
        assert_eq!(followers.waiting.len(), MAX_WAITING);
        for job in 0..2 * N_RECENT as u64 {
            followers.note_job(JobId::from_micros(job), "z.json".as_ref(), Some(job));
            followers.tell(JobId::from_micros(job), "z.json".as_ref());
        }
        assert_eq!((followers.recent.len(), followers.jobs.len()), (N_RECENT, 0));
    }
}
