//! What a checkpoint says of its quantization: which modules, in which layout. The tensors are in
//! [`crate::numbers::kind`]'s terms only after `build` has read them.

mod algorithm;
mod auto_round;
mod bitsandbytes;
mod compressed;
mod keys;
mod modelopt;
mod modules;
mod read;
mod words;

pub use algorithm::{Algorithm, Bits, Gptq, Packed};
pub use modules::Quantization;
