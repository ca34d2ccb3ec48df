//! What the loop does about the orders of operators.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;

use tokio::sync::oneshot;

use super::compute::Compute;
use super::event::{Asked, Peer};
use super::main_loop::MainLoop;
use super::scout::Look;
use super::writer::{Act, Write};
use crate::spool::control::{Acted, JobName, Order, Reply};
use crate::spool::{Action, Claimed, JobId, split_suffix};

/// Jobs that a report lists.
const N_JOBS: usize = 50;

impl MainLoop {
    pub(super) fn asked_for(&mut self, asked: Asked) {
        let Asked { order, by, reply } = asked;
        match order {
            Order::Status => {
                let report = Box::new(self.report(N_JOBS));
                let _ = reply.send(Reply::Status { report });
            }
            Order::Job { name } => {
                let is_meant = self.meant(std::slice::from_ref(&name));
                let ids: Vec<String> = self
                    .jobs
                    .all()
                    .filter(|job| is_meant.contains(&job.id))
                    .map(|job| job.id.to_string())
                    .collect();
                let jobs = self.jobs.report().into_iter().filter(|job| ids.contains(&job.id)).collect();
                let _ = reply.send(Reply::Jobs { jobs });
            }
            Order::Flush => {
                self.flushing.push(reply);
                self.threads.writer.send(Write::Retry);
                self.threads.scout.send(Look::Scan);
            }
            Order::Follow { name, inode } => self.followers.add(name.0, inode, reply),
            Order::Act { action, names } => self.act(action, names, by, reply),
        }
    }

    /// Stops what runs of the jobs, then lets the writer move them.
    fn act(&mut self, action: Action, names: Option<Vec<JobName>>, by: Peer, reply: oneshot::Sender<Reply>) {
        let mut withdrawn = BTreeMap::new();
        if matches!(action, Action::Hold | Action::Delete) {
            let meant = match &names {
                Some(names) => self.meant(names),
                None => self.jobs.all().map(|job| job.id).collect(),
            };
            let may = |job: &Claimed| by.is_operator || job.owner == by.user;
            let may: Vec<Claimed> =
                self.jobs.all().filter(|job| meant.contains(&job.id) && may(job)).cloned().collect();
            for job in may {
                let id = job.id;
                if self.jobs.withdraw(id) {
                    self.marking.retain(|marking| !marking.is_of(id));
                    self.threads.compute.send(Compute::Cancel(id.micros()));
                    self.followers.forget(id);
                    withdrawn.insert(id, job);
                }
            }
        }
        let (sender, receiver) = oneshot::channel();
        self.threads.writer.send(Write::Act(Act { action, names, withdrawn, by, reply: sender }));
        self.is_news = true;
        tokio::spawn(async move {
            let (jobs, is_more) = receiver.await.unwrap_or_default();
            tell(action, &jobs);
            let _ = reply.send(Reply::Acted { jobs, is_more });
        });
    }

    /// The jobs in work/ that are meant by these names: by name, with or without its suffix, or by id.
    fn meant(&self, names: &[JobName]) -> BTreeSet<JobId> {
        let is_meant = |job: &Claimed| {
            let (id, dropped) = (job.id.to_string(), job.name.as_bytes());
            names.iter().any(|JobName(name)| {
                let name = name.as_bytes();
                let both = [id.as_bytes(), b".", dropped].concat();
                name == dropped
                    || split_suffix(&job.name).is_some_and(|(stem, _)| stem.as_bytes() == name)
                    || name == id.as_bytes()
                    || name == both
            })
        };
        self.jobs.all().filter(|job| is_meant(job)).map(|job| job.id).collect()
    }
}

fn tell(action: Action, jobs: &[Acted]) {
    for job in jobs {
        match &job.result {
            Ok(_) => tracing::info!("{}: {}", job.name, action.past()),
            Err(refusal) => tracing::info!("{}: not {}: {refusal}", job.name, action.past()),
        }
    }
}
