//! Arithmetic on slices. Each file is one operation, written once over [`simd::Simd`]; [`Kernels`] is the
//! table of these operations compiled for one instruction set. scalar.rs is their meaning, bit for bit.

pub mod activations;
pub mod attention;
pub mod elementwise;
pub mod lora;
pub mod matmul;
pub mod matrix;
pub mod merge_delta;
pub mod minifloat;
mod numbers;
pub mod scalar;
pub mod simd;
mod table;
pub mod tile;
mod weights;

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

pub use table::Kernels;
