//! The operations on the processor: `kernels` over a pool of threads.

mod attend;
mod cache;
mod inputs;
mod ops;
mod pool;
mod processor;
mod project;
mod rows;
mod shared;
mod weights;

pub use cache::Cache;
pub use processor::Cpu;
pub use rows::Rows;
pub use weights::{Lora, Vector, Weights};
