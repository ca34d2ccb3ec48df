//! Bytes to typed views and back. Takes `&[u8]` or shared [`Bytes`]; never a path, a thread or a kernel.

pub mod architecture;
pub mod error;
pub mod tensors;

pub use error::FormatError;
pub use tensors::{Bytes, Tensor, TensorFile};
