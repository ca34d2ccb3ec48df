//! `tuning.ARCHITECTURE.json` of an engine directory: what `tune` has chosen for a GPU.

use serde::{Deserialize, Serialize};

use crate::format::FormatError;

const FILE: &str = "tuning file";

/// How products are launched on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuTuning {
    /// The device that was timed, by its driver's name, and what compilers call devices of its kind: `sm_87`.
    pub device: String,
    pub architecture: String,
    /// SHA-256 of the kernels that were timed, lower-case hex.
    pub kernels: String,
    pub products: Vec<TunedProduct>,
}

/// Products of one kernel and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunedProduct {
    pub kernel: String,
    pub inputs: usize,
    /// Sixteens of outputs.
    pub tiles: usize,
    /// Threads that share a tile, for 1, 2, 4 and 8 rows.
    pub threads: [u32; 4],
    /// From so many rows on, tensor cores are faster; never if none.
    pub tensor_cores_from: Option<usize>,
}

/// The file: what was chosen, and the digest of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuningFile {
    pub tuning: GpuTuning,
    /// SHA-256 of [`GpuTuning::to_json`], lower-case hex.
    pub sha256: String,
}

impl GpuTuning {
    /// On one line: equal choices give equal bytes.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }
}

impl TuningFile {
    /// # Errors
    /// [`FormatError::Damaged`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, FormatError> {
        serde_json::from_slice(bytes)
            .map_err(|error| FormatError::Damaged { what: FILE, why: error.to_string() })
    }

    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain data");
        text.push('\n');
        text
    }
}
