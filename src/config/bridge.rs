//! `[bridge]`: how this machine's spool joins a queue on NATS JetStream. `jetspool bridge` reads it.

use std::path::PathBuf;

use serde::Deserialize;

use super::value::{name_or_none, number, path, path_or_none, servers, within};

/// Where the bridge keeps the adapters that it fetched.
const DEFAULT_ADAPTERS: &str = "/var/lib/jetspool-bridge/adapters";
const DEFAULT_SERVER: &str = "nats://127.0.0.1:4222";
/// 16 TiB.
const MAX_MIB: usize = 1 << 24;

/// What the bridge is told. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeConfig {
    /// Addresses of one cluster of servers: `nats://HOST:PORT`, or `tls://HOST:PORT`.
    #[serde(default = "default_servers", deserialize_with = "servers")]
    pub servers: Vec<String>,
    /// A credentials file, with a JWT and the seed of its key.
    #[serde(default, deserialize_with = "path_or_none")]
    pub credentials: Option<PathBuf>,
    /// Who vouches for the servers, instead of the system's list (PEM).
    #[serde(default, deserialize_with = "path_or_none")]
    pub tls_ca: Option<PathBuf>,
    /// The certificate that this machine shows, and its key (PEM).
    #[serde(default, deserialize_with = "path_or_none")]
    pub tls_cert: Option<PathBuf>,
    #[serde(default, deserialize_with = "path_or_none")]
    pub tls_key: Option<PathBuf>,
    /// What the queue calls the engine; none means the name of its directory.
    #[serde(default, deserialize_with = "name_or_none")]
    pub model: Option<String>,
    /// What the fleet calls this machine; none means its host name.
    #[serde(default, deserialize_with = "name_or_none")]
    pub device: Option<String>,
    /// Jobs of the queue that are in the spool at once.
    #[serde(default = "number::<4>", deserialize_with = "within::<1, 256, _>")]
    pub ahead: usize,
    /// Largest job that is fetched from the queue.
    #[serde(default = "number::<64>", deserialize_with = "within::<1, 4096, _>")]
    pub max_job_mib: usize,
    /// The directory of the adapters that were fetched.
    #[serde(default = "default_adapters", deserialize_with = "path")]
    pub adapters: PathBuf,
    /// What they may take; those that were not used for the longest time go first.
    #[serde(default = "number::<2048>", deserialize_with = "within::<1, MAX_MIB, _>")]
    pub adapters_mib: usize,
    /// A job that was handed out more often is given up.
    #[serde(default = "number::<20>", deserialize_with = "within::<1, 1000, _>")]
    pub max_deliveries: usize,
    /// The file for node_exporter's textfile collector.
    #[serde(default, deserialize_with = "path_or_none")]
    pub metrics_file: Option<PathBuf>,
}

impl Default for BridgeConfig {
    /// What an empty table says.
    fn default() -> Self {
        toml::from_str("").expect("every key has a default")
    }
}

fn default_servers() -> Vec<String> {
    vec![DEFAULT_SERVER.to_owned()]
}

fn default_adapters() -> PathBuf {
    DEFAULT_ADAPTERS.into()
}
