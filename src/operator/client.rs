//! The operator's end of the control socket.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::unistd::AccessFlags;

use super::error::OperatorError;
use crate::spool::check_spool;
use crate::spool::control::{Order, Reply, SOCKET_NAME, SocketPath};

/// A daemon that works answers within a step; one that has many jobs to move takes longer.
const WITHIN: Duration = Duration::from_secs(60);

/// Asks the daemon of the spool at `root`; none if no daemon runs there. `within` is how long an answer may
/// take, none for ever.
///
/// # Errors
/// [`OperatorError`] when there is no spool, or the daemon does not answer.
pub fn ask_within(
    root: &Path,
    order: &Order,
    within: Option<Duration>,
) -> Result<Option<Reply>, OperatorError> {
    check_spool(root)?;
    let talk = |source| {
        let error = OperatorError::system("talk to the daemon")(source);
        OperatorError::closed(root.join(SOCKET_NAME), AccessFlags::W_OK)(error)
    };
    let path = SocketPath::of(root).map_err(talk)?;
    let mut stream = match UnixStream::connect(path.as_path()) {
        Ok(stream) => stream,
        Err(error) if is_absence(error.kind()) => return Ok(None),
        Err(error) => return Err(talk(error)),
    };
    let answer = || -> std::io::Result<String> {
        stream.set_read_timeout(within)?;
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut text = String::new();
        BufReader::new(&stream).read_line(&mut text)?;
        Ok(text)
    };
    let mut answer = answer;
    let text = answer().map_err(talk)?;
    if text.is_empty() {
        // It ended while it was asked.
        return Ok(None);
    }
    match serde_json::from_str(&text) {
        Ok(Reply::Refused { refusal }) => Err(OperatorError::Refused(refusal)),
        Ok(reply) => Ok(Some(reply)),
        Err(_) => Err(OperatorError::other_version()),
    }
}

/// The same, for what does not take long.
///
/// # Errors
/// As [`ask_within`].
pub fn ask(root: &Path, order: &Order) -> Result<Option<Reply>, OperatorError> {
    ask_within(root, order, Some(WITHIN))
}

fn is_absence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}
