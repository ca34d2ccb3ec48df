//! The CUDA driver: as little of it as a decoder needs. Its library is loaded at the first question, so that the
//! program starts where there is none. One stream: what is asked for runs in its order.

mod compiler;
mod context;
mod error;
mod library;
mod look;
mod memory;
mod module;

pub use compiler::{Architecture, Compiler, CompilerError};
pub use context::Context;
pub use error::CudaError;
pub use look::{Driver, Gpu, look};
pub use memory::{Buffer, Pinned, Registered};
pub use module::{Argument, Function, Graph, Grid, Module};
