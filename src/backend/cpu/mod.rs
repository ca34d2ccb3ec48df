//! The operations on the processor: `kernels` over a pool of threads.

mod attend;
mod cache;
mod ops;
mod pool;
mod project;
mod rows;
mod weights;

pub use cache::Cache;
pub use ops::Cpu;
pub use rows::Rows;
pub use weights::{Lora, Vector, Weights};
