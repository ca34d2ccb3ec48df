//! The operations that a decoder needs, as a trait; `cpu` implements it with `kernels` and threads. [`open`] alone
//! chooses.

mod api;
pub mod cpu;
mod open;
mod plan;

pub use api::{Attend, CacheElement, CacheShape, Device, Output, Pairs};
pub use cpu::Cpu;
pub use open::{Opened, OpenedLora, open};
pub use plan::{AdapterRows, RowPlace, StepPlan, View};
