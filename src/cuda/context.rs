//! A device with its context, and the one stream on which everything runs in its order.

use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use cudarc::driver::sys;

use super::error::CudaError;
use super::library;

/// The device's primary context. Whatever is made in it keeps it alive.
pub struct Context {
    device: sys::CUdevice,
    raw: sys::CUcontext,
    stream: sys::CUstream,
    /// The thread that made the context current last: on it, it still is.
    current_on: Mutex<Option<ThreadId>>,
    n_calls: AtomicU64,
    n_bytes: AtomicUsize,
    /// The first error after which the context is of no use any more.
    fault: Mutex<Option<CudaError>>,
}

// SAFETY: the driver's functions may be called from any thread; the context is made current on it first.
unsafe impl Send for Context {}
// SAFETY: as above; what changes lies behind a mutex or is atomic.
unsafe impl Sync for Context {}

impl Context {
    /// Opens a device by its number; none where there is no driver. A thread may use the context of one device only.
    ///
    /// # Errors
    /// [`CudaError`] of the call that failed.
    pub fn open(ordinal: c_int) -> Result<Option<Arc<Self>>, CudaError> {
        if !library::open()? {
            return Ok(None);
        }
        let (mut device, mut raw) = (0, ptr::null_mut());
        // SAFETY: the pointers are to variables that live until the calls return.
        unsafe {
            library::check("cuDeviceGet", sys::cuDeviceGet(&raw mut device, ordinal))?;
            let retained = sys::cuDevicePrimaryCtxRetain(&raw mut raw, device);
            library::check("cuDevicePrimaryCtxRetain", retained)?;
        }
        let mut context = Self {
            device,
            raw,
            stream: ptr::null_mut(),
            current_on: Mutex::default(),
            n_calls: AtomicU64::new(0),
            n_bytes: AtomicUsize::new(0),
            fault: Mutex::default(),
        };
        let mut stream = ptr::null_mut();
        let no_wait_for_others = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: as above.
        context
            .call("cuStreamCreate", || unsafe { sys::cuStreamCreate(&raw mut stream, no_wait_for_others) })?;
        context.stream = stream;
        Ok(Some(Arc::new(context)))
    }

    /// Makes the context current on this thread and calls a function of the driver.
    ///
    /// # Errors
    /// What it says.
    pub(super) fn call(
        &self,
        name: &'static str,
        call: impl FnOnce() -> sys::CUresult,
    ) -> Result<(), CudaError> {
        let this_thread = Some(thread::current().id());
        let mut current_on = lock(&self.current_on);
        if *current_on != this_thread {
            // SAFETY: the context is retained as long as this value lives.
            library::check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.raw) })?;
            *current_on = this_thread;
        }
        drop(current_on);
        self.n_calls.fetch_add(1, Ordering::Relaxed);
        let result = library::check(name, call());
        if let Err(error) = result
            && error.is_fatal()
        {
            lock(&self.fault).get_or_insert(error);
        }
        result
    }

    pub(super) fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// Waits until everything is done that was asked for.
    ///
    /// # Errors
    /// [`CudaError`], of anything that failed meanwhile.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the stream lives as long as this value.
        self.call("cuStreamSynchronize", || unsafe { sys::cuStreamSynchronize(self.stream) })
    }

    /// Bytes that are free on the device, and all of them. On a Jetson this is the machine's memory.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the pointers are to variables that live until the call returns.
        self.call("cuMemGetInfo", || unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) })?;
        Ok((free, total))
    }

    /// What makes the context useless until the process, or the device, starts again.
    pub fn fault(&self) -> Option<CudaError> {
        *lock(&self.fault)
    }

    /// A property of the device by its number in cuda.h; 0 where the driver does not know it.
    fn attribute(&self, attribute: sys::CUdevice_attribute) -> c_int {
        let mut value = 0;
        // SAFETY: the pointer is to a variable that lives until the call returns.
        let asked = self.call("cuDeviceGetAttribute", || unsafe {
            sys::cuDeviceGetAttribute(&raw mut value, attribute, self.device)
        });
        asked.map_or(0, |()| value)
    }

    /// Whether the device reads the host's memory as fast as its own, and memory that the host may only read.
    pub fn shares_mapped_files(&self) -> bool {
        use sys::CUdevice_attribute as Attribute;
        let shares = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED) != 0;
        let registers = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED) != 0;
        let read_only = Attribute::CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED;
        shares && registers && self.attribute(read_only) != 0
    }

    /// Memory was taken for somebody, or given back.
    pub(super) fn note_taken(&self, n_bytes: usize) {
        self.n_bytes.fetch_add(n_bytes, Ordering::Relaxed);
    }

    pub(super) fn note_given_back(&self, n_bytes: usize) {
        self.n_bytes.fetch_sub(n_bytes, Ordering::Relaxed);
    }

    /// Bytes that are taken of the device's memory, and of the host's for both.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes.load(Ordering::Relaxed)
    }

    /// Calls of the driver so far.
    pub fn n_calls(&self) -> u64 {
        self.n_calls.load(Ordering::Relaxed)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if !self.stream.is_null() {
            let _ = self.call("cuStreamDestroy", || {
                // SAFETY: nothing else uses the stream any more.
                unsafe { sys::cuStreamDestroy_v2(self.stream) }
            });
        }
        // SAFETY: retained once in `open`; nothing made in it is left, for that would keep this value alive.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// What lies behind these mutexes is right whoever panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
