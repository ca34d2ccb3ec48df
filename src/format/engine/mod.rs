//! An engine: its configuration, the tensors of `llm.engine`, and a matrix that is found there.

mod config;
mod layout;
mod stored;
mod tuning;

pub use config::EngineConfig;
pub use layout::{
    EMBEDDING, FINAL_NORM, FORMAT_VERSION, HEAD, Item, Limits, PAD_PREFIX, PAGE, TENSOR_ALIGN, Target,
    checkpoint_names, experts_weight, items, projection_bias, projection_weight, router_weight,
};
pub use stored::StoredMatrix;
pub use tuning::{GpuTuning, TunedProduct, TuningFile};
