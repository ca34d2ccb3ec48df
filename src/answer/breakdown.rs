//! What takes an engine away from those who wait for its answers.

use crate::device::DeviceFault;
use crate::store::Damage;

/// Why all that is under way must be computed again, on an engine that is opened anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Breakdown {
    /// Its files are others than those that it was opened from.
    #[error("the engine's {0}")]
    Files(#[from] Damage),
    /// What computed it computes no more.
    #[error("the device failed: {0}")]
    Device(DeviceFault),
}
