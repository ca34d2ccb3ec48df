//! The only place that chooses a device.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::cuda::{Cuda, OpenError, Tuning};
use super::either::{Either, Opened};
use super::{Cpu, Device, DeviceMemory};
use crate::cuda::look;
use crate::format::GpuTuning;
use crate::kernels::Kernels;
use crate::numbers::DeviceChoice;

/// An adapter on the device that was chosen.
pub type OpenedLora = <Opened as Device>::Lora;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("cannot start threads: {0}")]
    Threads(std::io::Error),
    #[error("the GPU cannot be used: {0}")]
    Gpu(String),
}

/// What a device is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceName {
    /// `cpu` or `cuda`.
    pub device: &'static str,
    /// The instruction set of its kernels, or the GPU with its architecture.
    pub kernels: String,
    /// Threads of the host.
    pub n_threads: usize,
}

/// The processor. `n_threads` counts the caller's too; 0 means one per available processor.
///
/// # Errors
/// The system's, when a thread cannot be started.
pub fn open_cpu(n_threads: usize) -> std::io::Result<Cpu> {
    Cpu::new(Kernels::detect(), n_threads)
}

/// The device that is wanted; `cubin` gives the engine's kernels for GPUs of an architecture, if it has them, and `tuning` what
/// was chosen for them. A tuning that does not fit is not used, which is logged.
///
/// # Errors
/// [`DeviceError`] when a GPU is wanted and cannot be used. On its own it is the reason for the processor, which is
/// logged.
pub fn open<E: Display, T: Display>(
    wanted: DeviceChoice,
    cubin: impl Fn(&str) -> Result<Option<Vec<u8>>, E>,
    tuning: impl Fn(&str) -> Result<Option<GpuTuning>, T>,
    n_threads: usize,
) -> Result<Opened, DeviceError> {
    let on_cpu = || open_cpu(n_threads).map(Either::Cpu).map_err(DeviceError::Threads);
    match wanted {
        DeviceChoice::Cpu => on_cpu(),
        DeviceChoice::Cuda => open_gpu(cubin, tuning, n_threads)
            .map(|gpu| Either::Cuda(Box::new(gpu)))
            .map_err(DeviceError::Gpu),
        DeviceChoice::Auto => match open_gpu(cubin, tuning, n_threads) {
            Ok(gpu) => Ok(Either::Cuda(Box::new(gpu))),
            Err(why) => {
                tracing::info!("computing on the processor: {why}");
                on_cpu()
            }
        },
    }
}

fn open_gpu<E: Display, T: Display>(
    cubin: impl Fn(&str) -> Result<Option<Vec<u8>>, E>,
    tuning: impl Fn(&str) -> Result<Option<GpuTuning>, T>,
    n_threads: usize,
) -> Result<Cuda, String> {
    const NO_DRIVER: &str = "there is no driver for a GPU (libcuda.so.1)";
    let driver = look().map_err(|error| error.to_string())?.ok_or(NO_DRIVER)?;
    let gpu = driver.gpus.first().ok_or("the driver knows no GPU")?;
    let architecture = gpu.architecture();
    let image = cubin(&architecture.to_string()).map_err(|error| error.to_string())?.ok_or_else(|| {
        format!(
            "the engine has no kernels for {} ({architecture}); build it with --target cuda:{architecture}",
            gpu.name
        )
    })?;
    let name = format!("{}, {architecture}", gpu.name);
    let opened = Cuda::open(0, name, &image, n_threads).map_err(|error: OpenError| error.to_string())?;
    let opened = opened.ok_or(NO_DRIVER)?;
    let chosen = tuning(&architecture.to_string()).map_err(|error| error.to_string());
    Ok(match chosen.and_then(|found| found.map(|found| Tuning::of_file(&found, &gpu.name)).transpose()) {
        Ok(Some(tuning)) => {
            tracing::info!("products are launched as `tune` has chosen");
            opened.with_tuning(tuning)
        }
        Ok(None) => opened,
        Err(why) => {
            tracing::warn!("products are launched as on any GPU: {why}");
            opened
        }
    })
}

impl Opened {
    pub fn name(&self) -> DeviceName {
        match self {
            Self::Cpu(cpu) => DeviceName {
                device: DeviceChoice::Cpu.name(),
                kernels: cpu.kernels().name.to_owned(),
                n_threads: cpu.n_threads(),
            },
            Self::Cuda(gpu) => DeviceName {
                device: DeviceChoice::Cuda.name(),
                kernels: gpu.name().to_owned(),
                n_threads: gpu.n_threads(),
            },
        }
    }

    /// Bytes per second that the device reads of its memory; none where it has no room for what is read.
    pub fn read_rate(&self) -> Option<f64> {
        match self {
            Self::Cpu(cpu) => cpu.read_rate().ok(),
            Self::Cuda(gpu) => gpu.read_rate().ok(),
        }
    }

    /// Memory of the device's own, where it has such.
    pub fn memory(&self) -> Option<DeviceMemory> {
        match self {
            Self::Cpu(_) => None,
            Self::Cuda(gpu) => Some(gpu.memory()),
        }
    }

    /// Counts what is computed, piece by piece: it stands still only while nothing is.
    pub fn n_tasks(&self) -> Arc<AtomicU64> {
        match self {
            Self::Cpu(cpu) => cpu.n_tasks(),
            Self::Cuda(gpu) => gpu.n_tasks(),
        }
    }
}
