//! The operations that a decoder needs, as a trait; `cpu` implements it with `kernels` and threads, `cuda` with kernels
//! for a GPU. [`open`] alone chooses.

mod api;
mod check;
pub mod cpu;
pub mod cuda;
mod draw;
mod either;
mod open;
mod plan;
mod pool;

pub use api::{Attend, CacheElement, CacheShape, Device, DeviceFault, DeviceMemory, Output, Pairs};
pub use cpu::Cpu;
pub use draw::{Among, Draw, Drawn, Rule};
pub use either::{Either, Opened};
pub use open::{DeviceError, DeviceName, OpenedLora, open, open_cpu};
pub use plan::{AdapterRows, RowPlace, StepPlan, View};
