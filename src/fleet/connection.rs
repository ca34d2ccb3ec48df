//! The way to the server: addresses, TLS and credentials, and what is logged of it.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream::object_store::ObjectMetadata;
use async_nats::{Client, ConnectOptions, Event, jetstream};

use super::error::FleetError;
use super::layout::HEADER_ROOM;
use crate::config::Config;

/// A larger file holds no credentials.
const MAX_CREDENTIALS: u64 = 64 << 10;
/// Pieces of an object.
const MIN_PIECE: usize = 1 << 10;
const MAX_PIECE: usize = 128 << 10;
/// What the server may take for one answer.
const WITHIN: Duration = Duration::from_secs(10);
/// How often the server is asked whether it is there: a way that is cut without a word shows after two of them.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(8);

/// How to get to the servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// `nats://HOST:PORT` or `tls://HOST:PORT`, of one cluster.
    pub servers: Vec<String>,
    pub credentials: Option<PathBuf>,
    pub tls_ca: Option<PathBuf>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
}

/// What happens where no server answers at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It is an error: somebody waits.
    Never,
    /// It is tried again for ever.
    Forever,
}

/// A connection, which finds its way back by itself.
#[derive(Debug, Clone)]
pub struct Connection {
    pub client: Client,
    pub jetstream: jetstream::Context,
}

impl Connection {
    /// An object that is to be put into a bucket, in pieces that the server takes.
    pub fn object(&self, name: String) -> ObjectMetadata {
        let room = self.client.max_payload().saturating_sub(HEADER_ROOM);
        let chunk_size = room.clamp(MIN_PIECE, MAX_PIECE);
        ObjectMetadata { name, chunk_size: Some(chunk_size), ..ObjectMetadata::default() }
    }
}

impl Access {
    /// As `[bridge]` says.
    pub fn of(config: &Config) -> Self {
        let bridge = &config.bridge;
        Self {
            servers: bridge.servers.clone(),
            credentials: bridge.credentials.clone(),
            tls_ca: bridge.tls_ca.clone(),
            tls_cert: bridge.tls_cert.clone(),
            tls_key: bridge.tls_key.clone(),
        }
    }

    /// Connects; `name` is what the server's own lists call this client.
    ///
    /// # Errors
    /// [`FleetError`] when a file of secrets cannot be used, or when no server answers and nobody waits for one.
    pub async fn connect(&self, name: &str, retry: Retry) -> Result<Connection, FleetError> {
        let options = self.options(name, retry)?;
        let connected = options.connect(self.servers.clone()).await;
        let client = connected.map_err(|error| FleetError::NoServer {
            servers: self.shown(),
            // The source says more than the kind alone.
            reason: error.to_string(),
        })?;
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(WITHIN);
        Ok(Connection { client, jetstream })
    }

    fn options(&self, name: &str, retry: Retry) -> Result<ConnectOptions, FleetError> {
        let mut options = ConnectOptions::new()
            .name(name)
            .ping_interval(PING_EVERY)
            .request_timeout(Some(WITHIN))
            .reconnect_delay_callback(pause);
        // A command says itself what it could not do.
        if retry == Retry::Forever {
            options = options.retry_on_initial_connect().max_reconnects(None).event_callback(tell);
        }
        if let Some(path) = &self.credentials {
            let text = read_secret(path)?;
            let wanted = "a credentials file, with a JWT and the seed of its key";
            options = options.credentials(&text).map_err(|error| FleetError::File {
                path: path.clone(),
                found: error.to_string(),
                wanted,
            })?;
        }
        if let Some(path) = &self.tls_ca {
            readable(path)?;
            options = options.add_root_certificates(path.clone());
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => {
                readable(cert)?;
                read_secret(key)?;
                options = options.add_client_certificate(cert.clone(), key.clone());
            }
            (Some(path), None) | (None, Some(path)) => {
                let wanted = "tls_cert and tls_key, both or none";
                return Err(FleetError::File { path: path.clone(), found: "one of two".into(), wanted });
            }
            (None, None) => {}
        }
        let is_private = self.tls_ca.is_some() || self.tls_cert.is_some();
        Ok(options.require_tls(is_private || self.servers.iter().any(|server| server.starts_with("tls://"))))
    }

    /// The addresses without what may be a password in them.
    fn shown(&self) -> String {
        let shown = |server: &String| match (server.split_once("://"), server.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            _ => server.clone(),
        };
        self.servers.iter().map(shown).collect::<Vec<_>>().join(", ")
    }
}

/// Grows, with a part that differs from device to device: after an outage they do not all come at once.
fn pause(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1).min(7)).unwrap_or(0);
    let pause = (FIRST_PAUSE * 2_u32.pow(doublings)).min(MAX_PAUSE);
    pause.mul_f64(0.75 + 0.5 * f64::from(std::process::id() % 97) / 97.0)
}

async fn tell(event: Event) {
    match event {
        Event::Connected => tracing::info!("connected to the fleet's server"),
        Event::Disconnected => {
            tracing::warn!("cut off from the fleet's server; what is in the spool goes on")
        }
        Event::ServerError(error) => tracing::warn!("the fleet's server says: {error}"),
        Event::ClientError(error) => tracing::warn!("the way to the fleet's server: {error}"),
        other => tracing::debug!("the way to the fleet's server: {other}"),
    }
}

/// A small file that others may not read.
fn read_secret(path: &Path) -> Result<String, FleetError> {
    let (mut file, found) = open(path)?;
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(FleetError::OpenToOthers { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    let read = (&mut file).take(MAX_CREDENTIALS + 1).read_to_string(&mut text);
    let wrong =
        |found: String| FleetError::File { path: path.to_owned(), found, wanted: "a small text file" };
    read.map_err(|error| wrong(error.to_string()))?;
    if text.len() as u64 > MAX_CREDENTIALS { Err(wrong("a larger file".into())) } else { Ok(text) }
}

fn readable(path: &Path) -> Result<(), FleetError> {
    open(path).map(drop)
}

fn open(path: &Path) -> Result<(File, Metadata), FleetError> {
    let wrong = |found: String| FleetError::File {
        path: path.to_owned(),
        found,
        wanted: "a file that this user can read",
    };
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| wrong(error.to_string()))?;
    let found = file.metadata().map_err(|error| wrong(error.to_string()))?;
    if found.is_file() { Ok((file, found)) } else { Err(wrong("no regular file".into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_that_others_can_read_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bridge.creds");
        std::fs::write(&path, "secret").unwrap();
        for (mode, is_taken) in [(0o600, true), (0o640, true), (0o644, false), (0o604, false), (0o601, false)]
        {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let read = read_secret(&path);
            assert_eq!(read.is_ok(), is_taken, "{mode:o}: {read:?}");
        }
        let access = Access { credentials: Some(path), ..Access::default() };
        let error = access.options("test", Retry::Never).unwrap_err();
        assert!(error.to_string().contains("chmod o= "), "{error}");
    }

    #[test]
    fn messages_have_no_passwords() {
        let servers = vec!["nats://me:secret@host:4222".to_owned(), "tls://other".to_owned()];
        let access = Access { servers, ..Access::default() };
        assert_eq!(access.shown(), "nats://host:4222, tls://other");
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let pauses: Vec<Duration> = (1..20).map(pause).collect();
        assert!(pauses.is_sorted() && pauses[0] < Duration::from_millis(200), "{pauses:?}");
        assert!(*pauses.last().unwrap() <= Duration::from_secs(10), "{pauses:?}");
    }
}
