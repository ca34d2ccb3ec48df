//! The operations on a GPU: kernels of our own, launched by the thin layer in [`crate::cuda`]. They read the engine's
//! tiles as they are, and make every sum in the order of the processor's kernels: both give the same bits.

mod adapter;
mod attend;
mod cache;
mod draws;
mod files;
mod fuse;
mod gpu;
mod grid;
mod kernels;
mod launch;
mod launches;
mod memory;
mod operation;
mod ops;
mod program;
mod project;
mod purpose;
mod read_rate;
mod routing;
mod rows;
mod sampling;
mod scratch;
mod source;
mod step;
mod tune;
mod tuning;
mod weights;

pub use adapter::Lora;
pub use cache::Cache;
pub use gpu::{Cuda, OpenError};
pub use routing::Routing;
pub use rows::Rows;
pub use source::{HEADER, SOURCE};
pub use step::Step;
pub use tune::Timed;
pub use tuning::{Choice, Shape, Tuning};
pub use weights::{Vector, Weights};
