//! What is done off the loop before a request runs: its file is read, it is rendered and tokenized. A text
//! that takes long moves to a lane of its own, so that it costs nobody else his turn.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;

use super::event::{Event, Events};
use super::jobs::{How, Start};
use crate::answer::{Ready, TextLimits, TextProcess};
use crate::spool::wire::{Fault, FaultCode, RequestFile};
use crate::spool::{JobId, OpenJob};

/// What most texts take is a thousandth of this.
const FAST: Duration = Duration::from_millis(250);
const SLOW: Duration = Duration::from_secs(10);
/// Memory of the process that works on texts.
const MEMORY: u64 = 256 << 20;

/// A request file that was read.
pub struct Read {
    pub job: JobId,
    pub size: u64,
    pub crc: u32,
    pub file: std::io::Result<Result<RequestFile, Fault>>,
}

/// A request that is ready.
pub struct Prepared {
    pub job: JobId,
    pub index: usize,
    pub is_alone: bool,
    pub ready: Ready,
}

/// The lanes of one engine's texts; cheap to clone.
#[derive(Clone)]
pub struct Lanes {
    fast: Lane,
    slow: Lane,
    /// Files are read one at a time: a large one is in memory as a whole meanwhile.
    reading: Arc<AsyncMutex<()>>,
    events: Events,
}

#[derive(Clone)]
struct Lane {
    /// Whose turn it is.
    turn: Arc<AsyncMutex<()>>,
    process: Arc<Mutex<TextProcess>>,
}

impl Lanes {
    /// Lanes for the texts of the engine in `directory`. No process is started before it is needed.
    pub fn new(directory: &std::path::Path, events: Events) -> Self {
        let lane = |time| Lane {
            turn: Arc::default(),
            process: Arc::new(Mutex::new(TextProcess::new(directory, TextLimits { time, memory: MEMORY }))),
        };
        Self { fast: lane(FAST), slow: lane(SLOW), reading: Arc::default(), events }
    }

    /// Reads the file of a job, and sends it.
    pub fn read(&self, job: JobId, opened: OpenJob) {
        let lanes = self.clone();
        tokio::spawn(async move {
            let _turn = lanes.reading.lock().await;
            let OpenJob { input, size, .. } = opened;
            let read = tokio::task::spawn_blocking(move || RequestFile::read(input, size)).await;
            let (file, crc) = match read {
                Ok(Ok((file, crc))) => (Ok(file), crc),
                Ok(Err(error)) => (Err(error), 0),
                Err(error) => (Err(std::io::Error::other(error)), 0),
            };
            lanes.events.send_async(Event::Read(Read { job, size, crc, file })).await;
        });
    }

    /// Makes a request ready, and sends it.
    pub fn prepare(&self, start: Start) {
        let lanes = self.clone();
        tokio::spawn(async move {
            let (job, index, is_alone) = (start.job, start.index, start.how == How::Alone);
            let start = Arc::new(start);
            let mut ready = lanes.fast.prepare(&start).await;
            if ready.is_too_costly() {
                ready = lanes.slow.prepare(&start).await;
            }
            lanes.events.send_async(Event::Prepared(Prepared { job, index, is_alone, ready })).await;
        });
    }

    /// Ends the processes; the next text starts them again.
    pub fn rest(&self) {
        for lane in [&self.fast, &self.slow] {
            // One that works is left alone.
            if let Ok(mut process) = lane.process.try_lock() {
                process.stop();
            }
        }
    }
}

impl Lane {
    async fn prepare(&self, start: &Arc<Start>) -> Ready {
        let _turn = self.turn.lock().await;
        let (process, begun) = (Arc::clone(&self.process), Arc::clone(start));
        let done = tokio::task::spawn_blocking(move || {
            let Start { job, index, file, .. } = &*begun;
            Ready::new(file.request(*index), (file, *index), job.unix_time() as i64, |prompt| {
                let mut process: MutexGuard<'_, TextProcess> =
                    process.lock().unwrap_or_else(PoisonError::into_inner);
                process.prepare(prompt)
            })
        });
        done.await.unwrap_or_else(|error| {
            Ready::refused(&start.file, start.index, Fault::new(FaultCode::Internal, error.to_string()))
        })
    }
}
