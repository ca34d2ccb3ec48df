//! x86-64 instruction sets.

mod amx;
mod avx2;
mod avx512;
mod codes;
mod inner;

pub use amx::Amx;
pub use avx2::Avx2;
pub use avx512::Avx512;
