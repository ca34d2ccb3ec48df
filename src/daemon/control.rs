//! The daemon's end of the control socket. Anybody may connect; what he may do is decided by who he is.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::event::{Asked, Event, Events, Peer};
use crate::exit;
use crate::spool::control::{MAX_LINE_BYTES, Order, Refusal, Reply, SocketPath};

/// Conversations at once; more of them wait.
const MAX_PEERS: usize = 64;
/// An order is a line that comes at once.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// Who is who for this daemon.
#[derive(Debug, Clone, Copy)]
pub struct Rights {
    /// The user that the daemon runs as.
    pub own_user: u32,
    /// The group of new/: its members may drop files.
    pub group: u32,
}

/// Listens in the spool at `root` in place of whoever listened before; the lock says that nobody else does.
///
/// # Errors
/// The system's.
pub fn listen(root: &Path) -> io::Result<UnixListener> {
    let path = SocketPath::of(root)?;
    match std::fs::remove_file(path.as_path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path.as_path())?;
    std::fs::set_permissions(path.as_path(), std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Takes orders and sends them to the loop, for ever.
pub async fn serve(listener: UnixListener, rights: Rights, events: Events) {
    let places = Arc::new(Semaphore::new(MAX_PEERS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let events = events.clone();
                tokio::spawn(async move {
                    // Whoever goes away in the middle of it has his reasons.
                    let _ = converse(stream, rights, &events).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("cannot take a control request: {error}");
                tokio::time::sleep(READ_WITHIN).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, rights: Rights, events: &Events) -> io::Result<()> {
    let by = peer(&stream, rights)?;
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MAX_LINE_BYTES as u64));
    timeout(READ_WITHIN, reader.read_line(&mut line)).await.map_err(io::Error::other)??;
    let reply = match serde_json::from_str::<Order>(&line) {
        Err(error) => refused(exit::USAGE, format!("this is no control request: {error}")),
        Ok(_) if !by.is_operator && !by.is_member => refused(
            exit::NOT_ALLOWED,
            "only root, the service's user and members of its group may ask".into(),
        ),
        Ok(order) => {
            let (sender, receiver) = oneshot::channel();
            events.send_async(Event::Asked(Asked { order, by, reply: sender })).await;
            tokio::select! {
                reply = receiver => reply.unwrap_or_else(|_| refused(exit::TRY_AGAIN, "the daemon ends".into())),
                // Nothing more is expected: the other side has gone away.
                _ = reader.read_u8() => return Ok(()),
            }
        }
    };
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    writer.write_all(&text).await
}

fn refused(code: u8, message: String) -> Reply {
    Reply::Refused { refusal: Refusal { code, message } }
}

fn peer(stream: &UnixStream, rights: Rights) -> io::Result<Peer> {
    let credentials = getsockopt(&stream.as_fd(), PeerCredentials)?;
    let user = credentials.uid();
    let is_operator = user == 0 || user == rights.own_user;
    let is_member = credentials.gid() == rights.group || groups(stream)?.contains(&rights.group);
    Ok(Peer { user, is_operator, is_member })
}

/// The other groups of the peer (SO_PEERGROUPS, socket(7)).
fn groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    use std::os::fd::AsRawFd;
    let mut groups = vec![0u32; 32];
    loop {
        let mut n_bytes = libc::socklen_t::try_from(groups.len() * 4).map_err(io::Error::other)?;
        // SAFETY: the buffer has the length that is passed, and lives until the call returns.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut n_bytes,
            )
        };
        let n_groups = n_bytes as usize / 4;
        match result {
            0 => {
                groups.truncate(n_groups);
                return Ok(groups);
            }
            _ if n_groups > groups.len() => groups.resize(n_groups, 0),
            // An old kernel, or an emulator: then only the first group counts.
            _ => return Ok(Vec::new()),
        }
    }
}
