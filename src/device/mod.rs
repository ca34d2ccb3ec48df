//! The dozen operations that a decoder needs, as a trait; `cpu` implements it with `kernels` and threads.
//! The device's implementation (`cuda`) gets its room beside it.

mod api;
pub mod cpu;

pub use api::{Attend, AttendRow, Backend, CacheElement, CacheShape, ExpertRows, LoraRows, Output, Part};
pub use cpu::Cpu;
