//! AArch64 instruction sets.

mod neon;

pub use neon::Neon;
