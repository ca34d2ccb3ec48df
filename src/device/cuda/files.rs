//! Mapped files that the device reads where they lie, so that weights are in memory once.

use std::sync::{Arc, Mutex, PoisonError};

use super::purpose::{Counted, Counter};
use crate::cuda::{Buffer, Context, CudaError, Registered};
use crate::format::Bytes;

/// Files that are registered with the driver.
#[derive(Default)]
pub struct Files(Mutex<Vec<Arc<File>>>);

/// A file, registered as long as anybody reads it.
struct File {
    // Dropped in this order: what is registered must be there.
    registered: Registered,
    _bytes: Bytes,
}

/// Bytes where kernels find them.
pub struct Place {
    address: u64,
    _kept: Kept,
}

/// What keeps them there.
#[expect(dead_code, reason = "held until it is dropped")]
enum Kept {
    Mapped(Arc<File>),
    Copy(Buffer<u8>, Counted),
}

impl Place {
    pub fn address(&self) -> u64 {
        self.address
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
                let file = Arc::new(File { registered, _bytes: Arc::clone(bytes) });
                self.0.lock().unwrap_or_else(PoisonError::into_inner).push(file);
            }
            Err(error) => tracing::debug!("the weights are copied: {error}"),
        }
    }

    /// These bytes where kernels find them: in a file that was seen, or in a copy, which is counted.
    ///
    /// # Errors
    /// [`CudaError`]: 2 when memory runs out.
    pub fn place(&self, context: &Arc<Context>, copies: &Counter, bytes: &[u8]) -> Result<Place, CudaError> {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = files.iter().find_map(|file| Some((file.registered.address_of(bytes)?, file)));
        if let Some((address, file)) = found {
            return Ok(Place { address, _kept: Kept::Mapped(Arc::clone(file)) });
        }
        let copy = Buffer::of(context, bytes)?;
        Ok(Place { address: copy.address(), _kept: Kept::Copy(copy, copies.count(bytes.len())) })
    }
}
