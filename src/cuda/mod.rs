//! The CUDA driver: as little of it as jetspool asks for. Its library is loaded at the first question, so that the
//! program starts where there is none.

mod error;
mod look;

pub use error::CudaError;
pub use look::{Driver, Gpu, look};
