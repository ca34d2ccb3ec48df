//! The operations on the processor: `kernels` over a pool of threads.

mod adapter;
mod attend;
mod cache;
mod inputs;
mod ops;
mod processor;
mod project;
mod read_rate;
mod routing;
mod rows;
mod shared;
mod weights;

pub use adapter::Lora;
pub use cache::Cache;
pub use processor::Cpu;
pub use routing::{ExpertRows, Routing};
pub use rows::Rows;
pub use weights::{Vector, Weights};
