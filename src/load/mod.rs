//! Files to what computes: an engine as a decoder on its device, an adapter bound to it. All commands open them here.

mod adapter;
mod engine;

pub use adapter::{AdapterLoadError, BoundAdapter, load_adapter};
pub use engine::{EngineLoadError, load_decoder};
