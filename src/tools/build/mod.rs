//! Engines, from checkpoints, from ONNX directories and from GGUF files.

mod engine_file;
mod gguf;
mod kernels;
mod onnx;
mod onnx_architecture;
pub(crate) mod precision;
pub(crate) mod run;
mod text_files;

pub use crate::progress::Progress;
pub use gguf::build_gguf;
pub use kernels::GpuTarget;
pub use onnx::build_onnx;
pub use run::{BuildOptions, BuildReport, EngineText, Spreads, build, build_spread, find_sources};
