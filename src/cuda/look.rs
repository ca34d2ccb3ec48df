//! Which devices there are. No context is made: it would take memory of the device.

use std::ffi::{CStr, c_char, c_int};

use cudarc::driver::sys;
use cudarc::driver::sys::CUdevice_attribute as Attribute;

use super::compiler::Architecture;
use super::error::CudaError;
use super::library::{self, check};

/// What the driver says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// The newest CUDA that it knows: major, minor.
    pub version: (c_int, c_int),
    pub gpus: Vec<Gpu>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    pub name: String,
    /// Compute capability: major, minor. 8.7 is Orin, 11.0 Thor.
    pub capability: (c_int, c_int),
    /// Bytes; on a Jetson those of the whole board.
    pub memory: usize,
    /// Shares its memory with the processor, as on a Jetson.
    pub is_integrated: bool,
    pub n_multiprocessors: c_int,
}

impl Gpu {
    /// What compilers call devices of its kind.
    pub fn architecture(&self) -> Architecture {
        let (major, minor) = self.capability;
        Architecture(u32::try_from(major * 10 + minor).unwrap_or(0))
    }
}

/// The driver and its devices; none where there is no driver's library.
///
/// # Errors
/// [`CudaError`] of the call that failed.
pub fn look() -> Result<Option<Driver>, CudaError> {
    if !library::open()? {
        return Ok(None);
    }
    let (mut version, mut n_devices): (c_int, c_int) = (0, 0);
    // SAFETY: the pointers are to integers that live until the calls return.
    unsafe {
        check("cuDriverGetVersion", sys::cuDriverGetVersion(&raw mut version))?;
        check("cuDeviceGetCount", sys::cuDeviceGetCount(&raw mut n_devices))?;
    }
    let gpus = (0..n_devices).map(gpu).collect::<Result<_, _>>()?;
    Ok(Some(Driver { version: (version / 1000, version % 1000 / 10), gpus }))
}

fn gpu(ordinal: c_int) -> Result<Gpu, CudaError> {
    let (mut device, mut memory, mut name) = (0, 0, [0 as c_char; 256]);
    let name_len = c_int::try_from(name.len() - 1).unwrap_or(0);
    // SAFETY: the pointers are to variables that live until the calls return; the last byte of the name stays zero.
    let name = unsafe {
        check("cuDeviceGet", sys::cuDeviceGet(&raw mut device, ordinal))?;
        check("cuDeviceTotalMem", sys::cuDeviceTotalMem_v2(&raw mut memory, device))?;
        check("cuDeviceGetName", sys::cuDeviceGetName(name.as_mut_ptr(), name_len, device))?;
        CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
    };
    let attribute = |attribute| {
        let mut value = 0;
        // SAFETY: the pointer is to an integer that lives until the call returns.
        check("cuDeviceGetAttribute", unsafe {
            sys::cuDeviceGetAttribute(&raw mut value, attribute, device)
        })?;
        Ok(value)
    };
    Ok(Gpu {
        name,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        memory,
        is_integrated: attribute(Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
        n_multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
    })
}
