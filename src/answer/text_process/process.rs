//! The daemon's end: starts the text process when there is something to prepare, and kills it when it takes too much.
//!
//! Its time and memory are watched from here, ten milliseconds at a time: this works wherever a process can be started,
//! also where the service's rights do not let it set limits of its own.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::frame::{Arriving, framed};
use super::limits::{Launch, TextLimits};
use super::messages::{self, Opening};
use crate::answer::prompter::{Prepared, PromptRequest};
use crate::answer::text_files::TEXT_FILES;
use crate::answer::usage::mib;
use crate::spool::wire::{ChatOptions, Fault, FaultCode};
use crate::text::ChatMessage;

/// Milliseconds between two looks at the process.
const TICK: u8 = 10;
const READ_BYTES: usize = 1 << 16;

/// Whose text, and how much it may cost.
#[derive(Debug, Clone)]
pub struct TextProcessOptions {
    /// An engine, or the checkpoint of one.
    pub directory: PathBuf,
    /// Longest prompt, in tokens.
    pub max_input_len: usize,
    pub limits: TextLimits,
    pub launch: Launch,
}

/// Prepares prompts, one at a time. The process ends with the thread that started it.
pub struct TextProcess {
    options: TextProcessOptions,
    /// Opened once: a directory that is replaced meanwhile does not change what is prepared.
    files: [Option<File>; TEXT_FILES.len()],
    channel: Option<UnixStream>,
    /// /proc/PID/status of the process.
    usage: Option<File>,
    shared: Arc<Shared>,
}

/// Ends what a [`TextProcess`] is doing, from any thread.
#[derive(Clone)]
pub struct Canceller {
    shared: Arc<Shared>,
}

/// Why there is no prompt.
#[derive(Debug, thiserror::Error)]
pub enum NotPrepared {
    /// The request's own fault.
    #[error(transparent)]
    Refused(Fault),
    /// Somebody used the [`Canceller`].
    #[error("cancelled while its prompt was prepared")]
    Cancelled,
    /// The process cannot be started now; nothing is wrong with the request.
    #[error("cannot start the text process: {0}")]
    Later(#[from] io::Error),
}

#[derive(Default)]
struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    child: Option<Child>,
    is_preparing: bool,
    is_cancelled: bool,
}

/// Why an exchange did not end with an answer.
enum Broken {
    TooSlow,
    TooLarge,
    Cancelled,
    Died(ExitStatus),
    Language,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Canceller {
    /// Kills the process if it prepares something; [`TextProcess::prepare`] returns at once.
    pub fn cancel(&self) {
        let mut state = self.shared.lock();
        if state.is_preparing {
            state.is_cancelled = true;
            if let Some(child) = &mut state.child {
                // An error means that it has ended already.
                let _ = child.kill();
            }
        }
    }
}

impl TextProcess {
    /// Opens the text files; no process is started yet.
    ///
    /// # Errors
    /// The system's.
    pub fn new(options: TextProcessOptions) -> io::Result<Self> {
        let open = |name: &str| match File::open(options.directory.join(name)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let mut files = [const { None }; TEXT_FILES.len()];
        for (file, name) in files.iter_mut().zip(TEXT_FILES) {
            *file = open(name)?;
        }
        Ok(Self { options, files, channel: None, usage: None, shared: Arc::default() })
    }

    pub fn canceller(&self) -> Canceller {
        Canceller { shared: Arc::clone(&self.shared) }
    }

    /// The tokens of a request; waits for them, for no longer than the limit.
    ///
    /// # Errors
    /// [`NotPrepared`]; what took too much or broke the process is the request's [`FaultCode::PromptTooCostly`].
    pub fn prepare(&mut self, request: &PromptRequest) -> Result<Prepared, NotPrepared> {
        self.guarded(|process| process.prepare_twice(&messages::request_to_bytes(request)))
    }

    /// Tries the engine's text in a new process: opens it and renders a short conversation.
    ///
    /// # Errors
    /// What is wrong with it, or what it took too much of; a template may refuse the conversation.
    pub fn check(&mut self) -> Result<(), String> {
        self.stop();
        let request = PromptRequest {
            tools: None,
            messages: vec![ChatMessage::new("user", "Hello")],
            chat: ChatOptions::default(),
            local_time: 0,
        };
        match self.guarded(|process| process.prepare_twice(&messages::request_to_bytes(&request))) {
            Ok(_) => Ok(()),
            Err(NotPrepared::Refused(fault)) if fault.code == FaultCode::BadRequest => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Ends the process; the next request starts another one.
    pub fn stop(&mut self) {
        (self.channel, self.usage) = (None, None);
        let child = self.shared.lock().child.take();
        if let Some(mut child) = child {
            end(&mut child);
        }
    }

    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, NotPrepared>,
    ) -> Result<T, NotPrepared> {
        {
            let mut state = self.shared.lock();
            (state.is_preparing, state.is_cancelled) = (true, false);
        }
        let result = work(self);
        let mut state = self.shared.lock();
        state.is_preparing = false;
        if state.is_cancelled { result.map_err(|_| NotPrepared::Cancelled) } else { result }
    }

    /// A process that somebody else killed, such as the system for want of memory, is no fault of the request yet.
    fn prepare_twice(&mut self, request: &[u8]) -> Result<Prepared, NotPrepared> {
        self.start()?;
        let mut answer = self.exchange(request);
        if matches!(answer, Err(Broken::Died(status)) if status.signal() == Some(libc::SIGKILL)) {
            self.start()?;
            answer = self.exchange(request);
        }
        let answer = answer.and_then(|bytes| messages::parse_answer(&bytes).map_err(|_| Broken::Language));
        match answer {
            Ok(prepared) => prepared.map_err(NotPrepared::Refused),
            Err(broken) => Err(self.not_prepared(broken)),
        }
    }

    /// Starts the process and gives it the files, unless it is there.
    fn start(&mut self) -> Result<(), NotPrepared> {
        let has_ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        if self.shared.lock().child.as_mut().is_none_or(has_ended) {
            self.stop();
        }
        if self.channel.is_some() {
            return Ok(());
        }
        let (channel, other_end) = UnixStream::pair()?;
        let child = self
            .options
            .launch
            .command()
            .stdin(Stdio::from(OwnedFd::from(other_end)))
            .stdout(Stdio::null())
            .spawn()?;
        self.usage = File::open(format!("/proc/{}/status", child.id())).ok();
        self.shared.lock().child = Some(child);
        channel.set_nonblocking(true)?;
        self.send_opening(&channel)?;
        self.channel = Some(channel);
        let opened = self.exchange_frame(&[]).map_err(|broken| self.not_prepared(broken))?;
        messages::parse_opened(&opened).map_err(|why| {
            self.stop();
            NotPrepared::Refused(Fault::new(FaultCode::Internal, why))
        })
    }

    fn send_opening(&self, channel: &UnixStream) -> io::Result<()> {
        let TextProcessOptions { directory, max_input_len, limits, .. } = &self.options;
        let opening = Opening {
            directory: directory.as_os_str().as_bytes().to_owned(),
            has_file: self.files.each_ref().map(Option::is_some),
            max_input_len: *max_input_len as u64,
            time_ms: u64::try_from(limits.time.as_millis()).unwrap_or(u64::MAX),
            memory_bytes: limits.memory_bytes,
        };
        let frame = framed(&opening.to_bytes());
        let files: Vec<_> = self.files.iter().flatten().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&files)];
        let n_rights = usize::from(!files.is_empty());
        let sent = sendmsg::<()>(
            channel.as_raw_fd(),
            &[IoSlice::new(&frame)],
            &rights[..n_rights],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        if sent == frame.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
    }

    fn exchange(&mut self, body: &[u8]) -> Result<Vec<u8>, Broken> {
        self.exchange_frame(&framed(body))
    }

    /// Sends bytes and waits for a frame.
    fn exchange_frame(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Broken> {
        match self.exchange_watched(bytes) {
            Ok(Some(frame)) => Ok(frame),
            Err(broken) => {
                self.stop();
                Err(broken)
            }
            Ok(None) => {
                let child = self.shared.lock().child.take();
                (self.channel, self.usage) = (None, None);
                let status = child.map(|mut child| end(&mut child));
                Err(Broken::Died(status.unwrap_or_default()))
            }
        }
    }

    /// None when the process has ended.
    fn exchange_watched(&self, bytes: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        let Some(channel) = &self.channel else { return Ok(None) };
        let deadline = Instant::now() + self.options.limits.time;
        let (mut to_send, mut arriving) = (bytes, Arriving::default());
        let mut buffer = vec![0; READ_BYTES];
        loop {
            self.watch(deadline)?;
            let wanted =
                if to_send.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT };
            let mut polled = [PollFd::new(channel.as_fd(), wanted)];
            // An interruption is a tick.
            let _ = poll(&mut polled, PollTimeout::from(TICK));
            let ready = polled[0].revents().unwrap_or(PollFlags::empty());
            if ready.contains(PollFlags::POLLOUT) {
                match when_ready((&*channel).write(to_send)) {
                    Ok(n_sent) => to_send = &to_send[n_sent.unwrap_or(0)..],
                    Err(_) => return Ok(None),
                }
            }
            if ready.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
                let n_read = match when_ready((&*channel).read(&mut buffer)) {
                    Ok(Some(0)) | Err(_) => return Ok(None),
                    Ok(n_read) => n_read.unwrap_or(0),
                };
                if arriving.push(&buffer[..n_read]).map_err(|_| Broken::Language)? {
                    return Ok(Some(arriving.into_body()));
                }
            }
        }
    }

    fn watch(&self, deadline: Instant) -> Result<(), Broken> {
        if self.shared.lock().is_cancelled {
            return Err(Broken::Cancelled);
        }
        if Instant::now() > deadline {
            return Err(Broken::TooSlow);
        }
        let private = self.usage.as_ref().and_then(private_bytes);
        if private.is_some_and(|private| private > self.options.limits.memory_bytes) {
            return Err(Broken::TooLarge);
        }
        Ok(())
    }

    fn not_prepared(&self, broken: Broken) -> NotPrepared {
        let TextLimits { time, memory_bytes } = self.options.limits;
        let cost = match broken {
            Broken::Cancelled => return NotPrepared::Cancelled,
            Broken::Language => {
                return NotPrepared::Refused(Fault::new(FaultCode::Internal, messages::BadFrame.to_string()));
            }
            Broken::TooSlow => format!("takes more than {} s", time.as_secs_f64()),
            Broken::TooLarge => format!("takes more than {} of memory", mib(memory_bytes)),
            Broken::Died(status) if status.signal() == Some(libc::SIGXCPU) => {
                format!("takes more than {} s", time.as_secs_f64())
            }
            Broken::Died(status) => format!("broke its process ({status})"),
        };
        let message = format!(
            "making the prompt {cost}: the chat template or the text of the messages is the reason; \
             shorten the messages, or repair chat_template in the checkpoint"
        );
        NotPrepared::Refused(Fault::new(FaultCode::PromptTooCostly, message))
    }
}

impl Drop for TextProcess {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Kills a process, if it is still there, and takes its exit status.
fn end(child: &mut Child) -> ExitStatus {
    // Errors mean that it has ended, or was waited for.
    let _ = child.kill();
    child.wait().unwrap_or_default()
}

/// None if the channel is not ready after all.
fn when_ready(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        result => result.map(Some),
    }
}

/// Private memory of a process, in RAM and in swap (proc(5), status).
fn private_bytes(status: &File) -> Option<u64> {
    let mut buffer = [0; 4096];
    let n_read = status.read_at(&mut buffer, 0).ok()?;
    let text = String::from_utf8_lossy(&buffer[..n_read]);
    let bytes = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key))?;
        value.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(bytes("RssAnon:")? + bytes("VmSwap:").unwrap_or(0))
}
