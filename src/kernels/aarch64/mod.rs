//! AArch64 instruction sets.

mod neon;
mod products;

pub use neon::{DOT, MATRIX, Neon, PLAIN};
