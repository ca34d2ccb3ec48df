//! What the configuration says, as the fleet's room takes it.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::connection::Access;
use super::error::FleetError;
use super::names::{Device, Model};
use crate::config::Config;

/// What a bridge is, and what it may do.
#[derive(Debug, Clone)]
pub struct BridgeSettings {
    pub access: Access,
    pub model: Model,
    pub device: Device,
    pub spool: PathBuf,
    /// Jobs of the queue that are in the spool at once.
    pub n_ahead: usize,
    pub max_job_bytes: u64,
    /// The directory of the adapters that were fetched, and what they may take.
    pub adapters: PathBuf,
    pub max_adapter_bytes: u64,
    pub max_deliveries: u64,
    pub metrics_file: Option<PathBuf>,
    /// The daemon's rule for paths in requests.
    pub allowed_roots: Vec<PathBuf>,
}

impl BridgeSettings {
    /// # Errors
    /// [`FleetError`] when the host has no name, or one of the names is wrong.
    pub fn of(config: &Config) -> Result<Self, FleetError> {
        let bridge = &config.bridge;
        let device = match &bridge.device {
            Some(name) => Device::new(name)?,
            None => Device::fitting(&nix::unistd::gethostname().map_err(|errno| FleetError::System {
                action: "read the host's name",
                source: errno.into(),
            })?),
        };
        Ok(Self {
            access: Access::of(config),
            model: model(config)?,
            device,
            spool: config.spool.clone(),
            n_ahead: bridge.ahead,
            max_job_bytes: (bridge.max_job_mib as u64) << 20,
            adapters: bridge.adapters.clone(),
            max_adapter_bytes: (bridge.adapters_mib as u64) << 20,
            max_deliveries: bridge.max_deliveries as u64,
            metrics_file: bridge.metrics_file.clone(),
            allowed_roots: config.allowed_roots.clone(),
        })
    }
}

/// What the queue calls the configured engine.
///
/// # Errors
/// [`FleetError::Name`].
pub fn model(config: &Config) -> Result<Model, FleetError> {
    Ok(match &config.bridge.model {
        Some(name) => Model::new(name)?,
        // As the daemon names the directory, so that a link to an engine keeps its name.
        None => Model::fitting(config.engine.file_name().unwrap_or(OsStr::new(""))),
    })
}
