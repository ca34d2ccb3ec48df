//! The fleet's jobs that this bridge looks after: one entry per job, whatever brought it here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::jetstream::AckKind;
use async_nats::jetstream::message::Acker;
use tokio::sync::Notify;

use super::names::SpoolName;

/// All jobs, by name.
#[derive(Debug, Default)]
pub struct Table {
    entries: Mutex<BTreeMap<SpoolName, Arc<Entry>>>,
    /// Something left.
    pub left: Notify,
}

/// One job.
#[derive(Default)]
pub struct Entry {
    /// The message by which the queue gave it to this device; none for one that was found in the spool.
    acker: Mutex<Option<Acker>>,
    /// An answer may have come out.
    pub came_out: Notify,
}

/// What looks after a job; it leaves the table with it.
pub struct Held {
    pub name: SpoolName,
    pub entry: Arc<Entry>,
    table: Arc<Table>,
}

impl Table {
    /// A job that nobody looks after yet. Otherwise `acker` is given to who does, and there is nothing to do.
    pub fn enter(self: &Arc<Self>, name: SpoolName, acker: Option<Acker>) -> Option<Held> {
        let mut entries = locked(&self.entries);
        if let Some(entry) = entries.get(&name) {
            if let Some(acker) = acker {
                *locked(&entry.acker) = Some(acker);
            }
            return None;
        }
        let entry = Arc::new(Entry { acker: Mutex::new(acker), came_out: Notify::new() });
        entries.insert(name.clone(), Arc::clone(&entry));
        Some(Held { name, entry, table: Arc::clone(self) })
    }

    /// Tells who looks after a job that an answer may be there; whether somebody does.
    pub fn tell(&self, name: &SpoolName) -> bool {
        let entries = locked(&self.entries);
        let entry = entries.get(name);
        if let Some(entry) = entry {
            entry.came_out.notify_one();
        }
        entry.is_some()
    }

    pub fn len(&self) -> usize {
        locked(&self.entries).len()
    }
}

impl Entry {
    /// Whether the queue waits for this device.
    pub fn is_awaited(&self) -> bool {
        locked(&self.acker).is_some()
    }

    /// Says something about the job to the queue, which goes on waiting. What does not get through shows by itself:
    /// the queue gives the job out again.
    pub async fn say(&self, kind: AckKind) {
        let acker = locked(&self.acker).take();
        if let Some(acker) = acker {
            let _ = acker.ack_with(kind).await;
            // One that came in the meantime is newer.
            locked(&self.acker).get_or_insert(acker);
        }
    }

    /// Gives the job back to the queue.
    pub async fn give_back(&self, kind: AckKind) {
        let acker = locked(&self.acker).take();
        if let Some(acker) = acker {
            let _ = acker.ack_with(kind).await;
        }
    }

    /// The job is done with; waits until the queue says that it knows. Whether it does.
    pub async fn finish(&self) -> bool {
        let acker = locked(&self.acker).take();
        match acker {
            Some(acker) => acker.double_ack().await.is_ok(),
            None => true,
        }
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("is_awaited", &self.is_awaited()).finish()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        locked(&self.table.entries).remove(&self.name);
        self.table.left.notify_waiters();
    }
}

/// A panic elsewhere leaves nothing half done here.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::names::{JobKey, Model};

    #[test]
    fn a_job_is_looked_after_once() {
        let table = Arc::new(Table::default());
        let name = SpoolName { model: Model::new("m").unwrap(), key: JobKey::new("a").unwrap() };
        assert!(!table.tell(&name));
        let held = table.enter(name.clone(), None).unwrap();
        assert!(table.enter(name.clone(), None).is_none() && table.tell(&name));
        assert_eq!(table.len(), 1);
        drop(held);
        assert!(table.len() == 0 && table.enter(name, None).is_some());
    }
}
