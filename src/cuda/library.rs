//! The driver's library: whether it is there, and what its functions return.

use cudarc::driver::sys;

use super::error::CudaError;

/// Whether there is a driver. Its functions end the program where there is none.
pub fn is_there() -> bool {
    // SAFETY: loading the driver's library runs its initializers, as every program does that uses it.
    unsafe { sys::is_culib_present() }
}

/// The result of a call as a number, before anything looks at what its name is.
///
/// # Errors
/// [`CudaError`] unless it is zero.
pub fn check(call: &'static str, result: sys::CUresult) -> Result<(), CudaError> {
    match result as u32 {
        0 => Ok(()),
        code => Err(CudaError { call, code }),
    }
}
