//! The text process itself: reads requests on its standard input, a socket, and answers there until it is closed.

use std::ffi::OsStr;
use std::io::{self, ErrorKind, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::time::TimeValLike;

use super::frame::{read_frame, write_frame};
use super::messages::{self, Opening};
use crate::answer::error::AnswerError;
use crate::answer::prompter::Prompter;
use crate::answer::text_files::{TEXT_FILES, TextFiles};
use crate::answer::usage::give_back_heap;
use crate::spool::wire::{Fault, FaultCode};

/// Address space that costs nothing before it is touched: the stacks of rendering threads.
const STACKS: u64 = 192 << 20;
/// After a request of so many bytes the heap's free pages are given back.
const LARGE_REQUEST: usize = 1 << 16;

/// Serves one daemon; ends with it.
///
/// # Errors
/// [`AnswerError::System`] when the channel breaks.
pub fn text_worker() -> Result<(), AnswerError> {
    serve().map_err(AnswerError::system("speak with the daemon"))
}

fn serve() -> io::Result<()> {
    detach();
    let channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (opening, files) = receive_opening(&channel)?;
    limit(Resource::RLIMIT_DATA, opening.memory_bytes.saturating_add(STACKS));
    let opened = open(&opening, files);
    let said = opened.as_ref().map(|_| ()).map_err(ToString::to_string);
    write_frame(&channel, &messages::opened_to_bytes(&said))?;
    let Ok(prompter) = opened else { return Ok(()) };
    while let Some(frame) = read_frame(&channel)? {
        limit_time(Duration::from_millis(opening.time_ms));
        let answer = match messages::parse_request(&frame) {
            Ok(request) => prompter.prepare(&request),
            Err(error) => Err(Fault::new(FaultCode::Internal, error.to_string())),
        };
        write_frame(&channel, &messages::answer_to_bytes(&answer))?;
        if frame.len() > LARGE_REQUEST {
            drop((frame, answer));
            give_back_heap();
        }
    }
    Ok(())
}

/// Signals to the daemon's group are the daemon's matter; its end is this process's. For want of memory the system
/// ends this process first.
fn detach() {
    for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT] {
        // SAFETY: no handler is installed.
        let _ = unsafe { signal(ignored, SigHandler::SigIgn) };
    }
    // Without it the closed channel ends this process, once its request is done.
    let _ = set_pdeathsig(Signal::SIGKILL);
    limit(Resource::RLIMIT_CORE, 0);
    // Only a wish.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}

/// Limits of the system are a second bound: the service's rights may not let them be set, and the daemon watches.
fn limit(resource: Resource, most: u64) {
    if let Ok((_, hard)) = getrlimit(resource) {
        let _ = setrlimit(resource, most.min(hard), hard);
    }
}

/// So much more time of the processor.
fn limit_time(time: Duration) {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return };
    let used = (usage.user_time() + usage.system_time()).num_seconds();
    limit(Resource::RLIMIT_CPU, u64::try_from(used).unwrap_or(0) + time.as_secs() + 2);
}

/// The first frame, and the files that come with it.
fn receive_opening(channel: &UnixStream) -> io::Result<(Opening, Vec<RawFd>)> {
    let mut length = [0; 4];
    let mut space = nix::cmsg_space!([RawFd; TEXT_FILES.len()]);
    let mut files = Vec::new();
    {
        let mut slices = [IoSliceMut::new(&mut length)];
        let message = recvmsg::<()>(
            channel.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_WAITALL,
        )?;
        if message.bytes != size_of::<u32>() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = part {
                files.extend(received);
            }
        }
    }
    let frame = read_frame(length.as_slice().chain(channel))?.ok_or(ErrorKind::UnexpectedEof)?;
    let opening = Opening::parse(&frame).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    Ok((opening, files))
}

fn open(opening: &Opening, files: Vec<RawFd>) -> Result<Prompter, AnswerError> {
    let mut files = files.into_iter();
    let paths = opening.has_file.map(|has_file| {
        let file = if has_file { files.next() } else { None };
        file.map(|file| PathBuf::from(format!("/proc/self/fd/{file}")))
    });
    let directory = Path::new(OsStr::from_bytes(&opening.directory));
    let files = TextFiles::read_paths(directory, paths)?;
    let tokenizer = Arc::new(files.tokenizer()?);
    let max_input_len = usize::try_from(opening.max_input_len).unwrap_or(usize::MAX);
    Prompter::new(&files, tokenizer, max_input_len)
}
