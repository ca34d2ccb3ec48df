//! Mapped files that the device reads where they lie, so that weights are in memory once.

use std::sync::{Arc, Mutex, PoisonError};

use crate::cuda::{Buffer, Context, CudaError, Registered};
use crate::format::Bytes;

/// Files that are registered with the driver.
#[derive(Default)]
pub struct Files(Mutex<Vec<(Arc<Registered>, Bytes)>>);

/// Bytes where kernels find them.
pub enum Place {
    /// In a file; which one is kept registered.
    Mapped {
        address: u64,
        _file: Arc<Registered>,
    },
    Copy(Buffer<u8>),
}

impl Place {
    pub fn address(&self) -> u64 {
        match self {
            Self::Mapped { address, .. } => *address,
            Self::Copy(buffer) => buffer.address(),
        }
    }
}

impl Files {
    /// Registers a file, where the device shares the host's memory; where it does not, or will not, its weights are
    /// copied.
    pub fn see(&self, context: &Arc<Context>, bytes: &Bytes) {
        if !context.shares_mapped_files() {
            return;
        }
        // SAFETY: whoever owns the bytes is kept beside the registration, and dropped after it.
        match unsafe { Registered::new(context, (**bytes).as_ref()) } {
            Ok(registered) => {
                let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                files.push((Arc::new(registered), Arc::clone(bytes)));
            }
            Err(error) => tracing::debug!("the weights are copied: {error}"),
        }
    }

    /// These bytes where kernels find them: in a file that was seen, or in a copy.
    ///
    /// # Errors
    /// [`CudaError`]: 2 when memory runs out.
    pub fn place(&self, context: &Arc<Context>, bytes: &[u8]) -> Result<Place, CudaError> {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = files.iter().find_map(|(file, _)| Some((file.address_of(bytes)?, Arc::clone(file))));
        match found {
            Some((address, file)) => Ok(Place::Mapped { address, _file: file }),
            None => Buffer::of(context, bytes).map(Place::Copy),
        }
    }
}
