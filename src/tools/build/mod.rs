//! Engines, from checkpoints and from ONNX directories.

mod engine_file;
mod kernels;
mod onnx;
pub(crate) mod precision;
pub(crate) mod run;

pub use crate::progress::Progress;
pub use kernels::GpuTarget;
pub use onnx::build_onnx;
pub use run::{BuildOptions, BuildReport, Spreads, build, build_spread, find_sources};
