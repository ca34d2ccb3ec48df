//! Kernels for GPUs that come to lie beside an engine's weights: compiled here, or those of the package.

use std::path::{Path, PathBuf};

use crate::cuda::{Architecture, Compiler, look};
use crate::device::cuda::{HEADER, SOURCE};
use crate::store::engine::cubin_file;
use crate::store::read_small_optional;
use crate::tools::ToolError;

/// Orin and Thor.
const JETSONS: [Architecture; 2] = [Architecture(87), Architecture(110)];

/// Where the package puts its own.
pub const PACKAGED: &str = "/usr/lib/jetspool";

/// The GPUs that an engine is to have kernels for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GpuTarget {
    /// None: those of this machine, or the Jetsons' where there is none.
    pub architectures: Vec<Architecture>,
    /// The compiler's library, where it is not found by itself.
    pub nvrtc: Option<PathBuf>,
}

/// A cubin of each architecture that is wanted.
///
/// # Errors
/// [`ToolError::Kernels`] when one can neither be compiled nor found.
pub(super) fn cubins(target: &GpuTarget) -> Result<Vec<(Architecture, Vec<u8>)>, ToolError> {
    let mut architectures = target.architectures.clone();
    if architectures.is_empty() {
        let found = look().ok().flatten().map(|driver| driver.gpus).unwrap_or_default();
        architectures = found.iter().map(|gpu| gpu.architecture()).collect();
    }
    if architectures.is_empty() {
        architectures = JETSONS.to_vec();
    }
    architectures.sort_unstable();
    architectures.dedup();
    let failed = |error: &dyn std::fmt::Display| ToolError::Kernels(error.to_string());
    let compiler = Compiler::open(target.nvrtc.as_deref()).map_err(|error| failed(&error))?;
    let one = |architecture: Architecture| {
        let Some(compiler) = &compiler else { return packaged(architecture) };
        let compiled = compiler.cubin(SOURCE, HEADER, architecture);
        compiled.map_err(|error| failed(&error))
    };
    architectures.into_iter().map(|architecture| Ok((architecture, one(architecture)?))).collect()
}

fn packaged(architecture: Architecture) -> Result<Vec<u8>, ToolError> {
    let path = Path::new(PACKAGED).join(cubin_file(&architecture.to_string()));
    read_small_optional(&path)?.map(|bytes| bytes.to_vec()).ok_or_else(|| {
        ToolError::Kernels(format!(
            "there is neither a compiler (libnvrtc.so, of the CUDA toolkit or of the Python package \
             nvidia-cuda-nvrtc; name it with --nvrtc) nor {}",
            path.display()
        ))
    })
}
