//! The driver's library: whether it is there, and what its functions return.

use cudarc::driver::sys;

use super::error::CudaError;

/// Loads the driver and initializes it; false where there is none, and then its functions would end the program.
///
/// # Errors
/// [`CudaError`], of a driver without a device too.
pub fn open() -> Result<bool, CudaError> {
    // SAFETY: loading the driver's library runs its initializers, as every program does that uses it.
    if !unsafe { sys::is_culib_present() } {
        return Ok(false);
    }
    // SAFETY: the call takes no pointers.
    check("cuInit", unsafe { sys::cuInit(0) }).map(|()| true)
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
