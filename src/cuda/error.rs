//! What the driver says when it fails.

use std::fmt;

/// A call of the driver's API that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaError {
    /// The function's name.
    pub call: &'static str,
    /// `CUresult`, as a number: drivers give codes that are younger than this program.
    pub code: u32,
}

impl CudaError {
    /// Whether the context is of no use after it.
    pub fn is_fatal(self) -> bool {
        matches!(self.code, 4 | 46 | 214 | 220 | 226 | 700 | 702 | 709..=711 | 714..=719)
    }
}

impl std::error::Error for CudaError {}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, code } = *self;
        match meaning(code) {
            Some(words) => write!(f, "{call}: {words} (CUDA error {code})"),
            None => write!(f, "{call}: CUDA error {code}"),
        }
    }
}

/// Of the codes in cuda.h those that a machine, an engine or a kernel can cause.
fn meaning(code: u32) -> Option<&'static str> {
    Some(match code {
        1 => "a value is not allowed",
        2 => "out of memory",
        3 => "the driver is not initialized",
        4 => "the driver shuts down",
        34 => "the library is a stub for linking, not a driver",
        46 => "the device is in use by another process, or not available",
        100 => "there is no device, or its nodes in /dev cannot be opened",
        101 => "there is no such device",
        200 => "the image is no cubin",
        201 => "there is no context on this thread",
        209 => "there is no code for this kind of device",
        214 => "an error of memory that cannot be corrected",
        222 => "the code was made by a younger tool chain than the driver knows",
        400 => "a handle is not valid",
        500 => "the symbol is not there",
        700 => "a kernel touched an address that is not its own",
        701 => "a kernel needs more registers or memory than a block may have",
        702 => "a kernel took too long",
        715 => "a kernel has an instruction that the device does not know",
        716 => "a kernel touched an address that is not aligned",
        719 => "a kernel failed",
        800 => "it is not permitted",
        801 => "the device does not support it",
        802 => "the system is not ready",
        803 => "library and kernel module are of different versions",
        999 => "unknown, which is often a kernel module that is not loaded",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_call_and_codes_of_younger_drivers_are_numbers() {
        let error = CudaError { call: "cuInit", code: 803 };
        let words = "cuInit: library and kernel module are of different versions (CUDA error 803)";
        assert_eq!(error.to_string(), words);
        assert_eq!(CudaError { call: "cuInit", code: 12_345 }.to_string(), "cuInit: CUDA error 12345");
    }
}
