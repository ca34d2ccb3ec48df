//! `bridge status`: what this device said of itself last.

use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::jetstream::context::KeyValueErrorKind;

use super::connection::Retry;
use super::error::FleetError;
use super::heartbeat::Heartbeat;
use super::layout::DEVICES;
use super::listing::Seen;
use super::runtime::block_on;
use super::settings::BridgeSettings;

/// Asks the server; none if the device was not heard of.
///
/// # Errors
/// [`FleetError`] when it cannot be asked, or has no fleet.
pub fn standing(settings: &BridgeSettings) -> Result<Option<Seen>, FleetError> {
    block_on(async {
        let connection = settings.access.connect("jetspool bridge status", Retry::Never).await?;
        let refused = "say what it knows of this device";
        let store =
            connection.jetstream.get_key_value(DEVICES).await.map_err(|error| match error.kind() {
                KeyValueErrorKind::GetBucket => FleetError::NoLayout { what: format!("bucket {DEVICES}") },
                _ => FleetError::server(refused)(error),
            })?;
        let value = store.get(settings.device.as_str()).await.map_err(FleetError::server(refused))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let seen = |heartbeat: Heartbeat| Seen { seconds_ago: (now - heartbeat.at).max(0.0), heartbeat };
        let heartbeat = value.map(|value| serde_json::from_slice(&value)).transpose();
        Ok(heartbeat.map_err(FleetError::server(refused))?.map(seen))
    })
}
