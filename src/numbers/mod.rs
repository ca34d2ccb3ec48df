//! What weights are stored as, one file for each way that has arithmetic of its own, and the words for a decoder's parts.
//! No file, no tensor.

pub mod architecture;
mod device;
pub mod family;
pub mod feedback;
pub mod gguf;
pub mod int4;
pub mod int8;
pub mod kept;
pub mod kind;
pub mod levels;
mod module;
pub mod precision;
mod rounding;
pub mod small_floats;
pub mod tiles;

pub use device::DeviceChoice;
pub use kept::KeptBlocks;
pub use kind::{Kind, MatrixShape, Storage};
pub use levels::Levels;
pub use module::Module;
pub use precision::{KvCacheDtype, Precision};
pub use rounding::{code_i8, code_u8, round_to_f32};
