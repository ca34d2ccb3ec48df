//! The only place that chooses a device.

use super::{Cpu, Device};
use crate::format::Target;
use crate::kernels::Kernels;

/// What [`open`] gives.
pub type Opened = Cpu;

/// An adapter on it.
pub type OpenedLora = <Opened as Device>::Lora;

/// The device that an engine was built for. `n_threads` counts the caller's too; 0 means one per available processor.
///
/// # Errors
/// The system's, when a thread cannot be started.
pub fn open(target: Target, n_threads: usize) -> std::io::Result<Opened> {
    match target {
        Target::Cpu => Cpu::new(Kernels::detect(), n_threads),
        Target::Cuda => Err(std::io::Error::other("this program computes on the processor alone")),
    }
}
