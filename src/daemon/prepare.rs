//! What is done off the loop before a request runs: its file is read, it is rendered and tokenized. A text
//! that takes long moves to a lane of its own, so that it costs nobody else his turn.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::sync::{Mutex, oneshot};

use super::event::{Done, Event, Events, Read};
use super::jobs::{How, Start};
use crate::answer::{
    Guides, Launch, NotPrepared, Prepared, PromptRequest, Ready, TextLimits, TextProcess, TextProcessOptions,
};
use crate::spool::wire::{Fault, FaultCode, RequestFile};
use crate::spool::{JobId, OpenJob, form};

/// Larger files are read one at a time: each is in memory as a whole meanwhile.
const LARGE: u64 = 1 << 20;
/// What most texts take is a thousandth of this.
const FAST: Duration = Duration::from_millis(250);
/// An idle lane ends its process after so long.
const REST_AFTER: Duration = Duration::from_secs(3);
/// A process that cannot be started is tried again after this, so many times.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const N_TRIES: usize = 10;

/// Whose texts.
#[derive(Clone)]
pub struct TextSource {
    pub directory: PathBuf,
    /// Longest prompt, in tokens.
    pub max_input_len: usize,
    pub launch: Launch,
    pub guides: Arc<Guides>,
}

/// The lanes of one engine's texts; cheap to clone.
#[derive(Clone)]
pub struct Lanes {
    fast: Sender<Wanted>,
    slow: Sender<Wanted>,
    /// Whose turn it is to read a large file.
    reading: Arc<Mutex<()>>,
    events: Events,
}

/// A request for a lane, and who waits for it.
type Wanted = (Arc<Start>, oneshot::Sender<Ready>);

/// A thread with a process of its own: the process ends with the thread.
struct Lane {
    source: TextSource,
    limits: TextLimits,
    process: Option<TextProcess>,
}

impl TextSource {
    pub fn options(&self, limits: TextLimits) -> TextProcessOptions {
        let Self { directory, max_input_len, launch, .. } = self.clone();
        TextProcessOptions { directory, max_input_len, limits, launch }
    }
}

impl Lanes {
    /// Lanes for the texts of an engine. No process is started before it is needed.
    ///
    /// # Errors
    /// The system's, when a thread cannot be started.
    pub fn new(source: &TextSource, events: Events) -> std::io::Result<Self> {
        let slow = TextLimits::default();
        let fast = TextLimits { time: FAST, ..slow };
        Ok(Self {
            fast: Lane::start("jetspool-text", source.clone(), fast)?,
            slow: Lane::start("jetspool-slow", source.clone(), slow)?,
            reading: Arc::default(),
            events,
        })
    }

    /// Reads the file of a job that was dropped as `name`, and sends it.
    pub fn read(&self, job: JobId, name: &OsStr, opened: OpenJob) {
        let form = form(name, || job.stamp());
        let lanes = self.clone();
        tokio::spawn(async move {
            let OpenJob { input, size, .. } = opened;
            let _turn = if size > LARGE { Some(lanes.reading.lock().await) } else { None };
            let read = tokio::task::spawn_blocking(move || RequestFile::read(input, size, form)).await;
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
            let mut ready = prepare_in(&lanes.fast, &start).await;
            if ready.is_too_costly() {
                lanes.events.send_async(Event::Slow(job, index)).await;
                ready = prepare_in(&lanes.slow, &start).await;
            }
            lanes.events.send_async(Event::Prepared(Done { job, index, is_alone, ready })).await;
        });
    }
}

async fn prepare_in(lane: &Sender<Wanted>, start: &Arc<Start>) -> Ready {
    let (sender, receiver) = oneshot::channel();
    // A lane that has ended drops the sender.
    let _ = lane.send((Arc::clone(start), sender));
    receiver.await.unwrap_or_else(|_| {
        let fault = Fault::new(FaultCode::Internal, "the thread that prepares prompts has ended");
        Ready::refused(&start.file, start.index, fault)
    })
}

impl Lane {
    fn start(name: &str, source: TextSource, limits: TextLimits) -> std::io::Result<Sender<Wanted>> {
        let (sender, receiver) = channel();
        let lane = Lane { source, limits, process: None };
        std::thread::Builder::new().name(name.to_owned()).spawn(move || lane.run(&receiver))?;
        Ok(sender)
    }

    /// Works until nobody asks any more.
    fn run(mut self, wanted: &Receiver<Wanted>) {
        loop {
            let next = match &self.process {
                Some(_) => wanted.recv_timeout(REST_AFTER),
                None => wanted.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match next {
                Ok((start, sender)) => {
                    let Start { job, index, file, .. } = &*start;
                    let date = job.unix_seconds().cast_signed();
                    let guides = Arc::clone(&self.source.guides);
                    let request = file.request(*index);
                    let ready = Ready::new(request, (file, *index), date, &guides, |p| self.prepare(p));
                    // Whoever asked may have gone: the job was held.
                    let _ = sender.send(ready);
                }
                Err(RecvTimeoutError::Timeout) => self.process = None,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn prepare(&mut self, request: &PromptRequest) -> Result<Prepared, Fault> {
        let mut why = String::new();
        for _ in 0..N_TRIES {
            match self.try_prepare(request) {
                Ok(prepared) => return Ok(prepared),
                Err(NotPrepared::Refused(fault)) => return Err(fault),
                Err(error) => why = error.to_string(),
            }
            std::thread::sleep(RETRY_AFTER);
        }
        Err(Fault::new(FaultCode::Internal, why))
    }

    fn try_prepare(&mut self, request: &PromptRequest) -> Result<Prepared, NotPrepared> {
        let process = match &mut self.process {
            Some(process) => process,
            none => none.insert(TextProcess::new(self.source.options(self.limits))?),
        };
        process.prepare(request)
    }
}
