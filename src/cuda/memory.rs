//! Memory of the device, and memory of the host that the device reads and writes where it lies.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bytemuck::Pod;
use cudarc::driver::sys;

use super::context::Context;
use super::error::CudaError;

/// `[len]` numbers on the device. Its operations take their turn on the context's stream.
pub struct Buffer<T> {
    at: sys::CUdeviceptr,
    len: usize,
    context: Arc<Context>,
    of: PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    /// Room for `len` numbers, which hold anything.
    ///
    /// # Errors
    /// [`CudaError`]: 2 when memory runs out.
    pub fn new(context: &Arc<Context>, len: usize) -> Result<Self, CudaError> {
        let mut at = 0;
        if len > 0 {
            // SAFETY: the pointer is to a variable that lives until the call returns.
            context
                .call("cuMemAlloc", || unsafe { sys::cuMemAlloc_v2(&raw mut at, len * size_of::<T>()) })?;
            context.note_taken(len * size_of::<T>());
        }
        Ok(Self { at, len, context: context.clone(), of: PhantomData })
    }

    /// Zeros.
    ///
    /// # Errors
    /// As [`Buffer::new`].
    pub fn zeros(context: &Arc<Context>, len: usize) -> Result<Self, CudaError> {
        let buffer = Self::new(context, len)?;
        if len > 0 {
            // SAFETY: so many bytes were allocated.
            context.call("cuMemsetD8Async", || unsafe {
                sys::cuMemsetD8Async(buffer.at, 0, len * size_of::<T>(), context.stream())
            })?;
        }
        Ok(buffer)
    }

    /// A copy of these.
    ///
    /// # Errors
    /// As [`Buffer::new`].
    pub fn of(context: &Arc<Context>, values: &[T]) -> Result<Self, CudaError> {
        let mut buffer = Self::new(context, values.len())?;
        buffer.write(0, values)?;
        Ok(buffer)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its address, as kernels take it.
    pub fn address(&self) -> u64 {
        self.at
    }

    /// Overwrites the numbers from `first` on. When it returns, the values were taken.
    ///
    /// # Errors
    /// [`CudaError`].
    ///
    /// # Panics
    /// When there are not so many.
    pub fn write(&mut self, first: usize, values: &[T]) -> Result<(), CudaError> {
        assert!(first + values.len() <= self.len);
        if values.is_empty() {
            return Ok(());
        }
        let (to, from) = (self.place(first), values.as_ptr().cast::<c_void>());
        // SAFETY: both places have so many bytes; the driver copies pageable memory before it returns.
        self.context.call("cuMemcpyHtoDAsync", || unsafe {
            sys::cuMemcpyHtoDAsync_v2(to, from, size_of_val(values), self.context.stream())
        })
    }

    /// The numbers from `first` on, once everything is done that was asked for before.
    ///
    /// # Errors
    /// [`CudaError`].
    ///
    /// # Panics
    /// When there are not so many.
    pub fn read(&self, first: usize, values: &mut [T]) -> Result<(), CudaError> {
        assert!(first + values.len() <= self.len);
        if !values.is_empty() {
            let (to, from, n) = (values.as_mut_ptr().cast(), self.place(first), size_of_val(values));
            // SAFETY: both places have so many bytes, and `values` is borrowed until the stream is through.
            self.context.call("cuMemcpyDtoHAsync", || unsafe {
                sys::cuMemcpyDtoHAsync_v2(to, from, n, self.context.stream())
            })?;
        }
        self.context.synchronize()
    }

    /// Copies `len` numbers from `first` on to a buffer of the same context, which may be this one, from `to_first` on.
    ///
    /// # Errors
    /// [`CudaError`].
    ///
    /// # Panics
    /// When there are not so many, here or there.
    pub fn copy_to(&self, first: usize, len: usize, to: &Self, to_first: usize) -> Result<(), CudaError> {
        assert!(first + len <= self.len && to_first + len <= to.len);
        let (from, to) = (self.place(first), to.place(to_first));
        if len == 0 || from == to {
            return Ok(());
        }
        // SAFETY: both places have so many bytes.
        self.context.call("cuMemcpyDtoDAsync", || unsafe {
            sys::cuMemcpyDtoDAsync_v2(to, from, len * size_of::<T>(), self.context.stream())
        })
    }

    fn place(&self, first: usize) -> sys::CUdeviceptr {
        self.at + (first * size_of::<T>()) as u64
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `new`. The driver waits for kernels that may use it.
            let _ = self.context.call("cuMemFree", || unsafe { sys::cuMemFree_v2(self.at) });
            self.context.note_given_back(self.len * size_of::<T>());
        }
    }
}

/// Bytes of the host's that the device reads where they lie.
pub struct Registered {
    at: *mut c_void,
    len: usize,
    on_device: sys::CUdeviceptr,
    context: Arc<Context>,
}

// SAFETY: only its address is used, by the driver.
unsafe impl Send for Registered {}
// SAFETY: as above.
unsafe impl Sync for Registered {}

impl Registered {
    /// # Errors
    /// [`CudaError`] when the device cannot read them.
    ///
    /// # Safety
    /// The bytes stay where they are as long as this value lives.
    pub unsafe fn new(context: &Arc<Context>, bytes: &[u8]) -> Result<Self, CudaError> {
        let (at, mut on_device) = (bytes.as_ptr().cast_mut().cast::<c_void>(), 0);
        let flags = sys::CU_MEMHOSTREGISTER_DEVICEMAP | sys::CU_MEMHOSTREGISTER_READ_ONLY;
        // SAFETY: the bytes are there, and nobody writes to them.
        context.call("cuMemHostRegister", || unsafe { sys::cuMemHostRegister_v2(at, bytes.len(), flags) })?;
        let mut registered = Self { at, len: bytes.len(), on_device, context: context.clone() };
        // SAFETY: the pointer is to a variable that lives until the call returns.
        context.call("cuMemHostGetDevicePointer", || unsafe {
            sys::cuMemHostGetDevicePointer_v2(&raw mut on_device, at, 0)
        })?;
        registered.on_device = on_device;
        Ok(registered)
    }

    /// Where kernels find these bytes, if they are some of them.
    pub fn address_of(&self, bytes: &[u8]) -> Option<u64> {
        let offset = (bytes.as_ptr() as usize).checked_sub(self.at as usize)?;
        (offset + bytes.len() <= self.len).then(|| self.on_device + offset as u64)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: registered in `new`. The driver waits for kernels that may read it.
        let _ = self.context.call("cuMemHostUnregister", || unsafe { sys::cuMemHostUnregister(self.at) });
    }
}

/// `[len]` numbers in the host's memory that kernels read and write where they lie.
pub struct Pinned<T> {
    at: *mut T,
    on_device: sys::CUdeviceptr,
    len: usize,
    context: Arc<Context>,
}

// SAFETY: it owns its memory, as a Vec does.
unsafe impl<T: Send> Send for Pinned<T> {}

impl<T> Pinned<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T: Pod> Pinned<T> {
    /// Zeros.
    ///
    /// # Errors
    /// [`CudaError`]: 2 when memory runs out.
    ///
    /// # Panics
    /// When `len` is zero.
    pub fn new(context: &Arc<Context>, len: usize) -> Result<Self, CudaError> {
        assert!(len > 0);
        let n_bytes = len * size_of::<T>();
        let (mut at, mut on_device) = (ptr::null_mut(), 0);
        // SAFETY: the pointer is to a variable that lives until the call returns.
        context.call("cuMemHostAlloc", || unsafe {
            sys::cuMemHostAlloc(&raw mut at, n_bytes, sys::CU_MEMHOSTALLOC_DEVICEMAP)
        })?;
        context.note_taken(n_bytes);
        // SAFETY: so many bytes were allocated; zero is a value of T, which is plain data.
        unsafe { ptr::write_bytes(at.cast::<u8>(), 0, n_bytes) };
        let mut pinned = Self { at: at.cast(), on_device, len, context: context.clone() };
        // SAFETY: as above.
        context.call("cuMemHostGetDevicePointer", || unsafe {
            sys::cuMemHostGetDevicePointer_v2(&raw mut on_device, at, 0)
        })?;
        pinned.on_device = on_device;
        Ok(pinned)
    }

    /// Its address, as kernels take it.
    pub fn address(&self) -> u64 {
        self.on_device
    }

    /// What the host sees.
    ///
    /// # Safety
    /// No kernel that is asked for writes to it: everything was waited for.
    pub unsafe fn as_slice(&self) -> &[T] {
        // SAFETY: so many values, and by the caller nobody writes.
        unsafe { std::slice::from_raw_parts(self.at, self.len) }
    }

    /// The same, to be written.
    ///
    /// # Safety
    /// No kernel that is asked for touches it: everything was waited for.
    pub unsafe fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: so many values, and by the caller nobody else.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }
}

impl Pinned<u32> {
    /// What the host may write while kernels read it.
    pub fn words(&self) -> &[AtomicU32] {
        // SAFETY: so many words, on the boundaries of words; whoever has them as numbers has them alone.
        unsafe { std::slice::from_raw_parts(self.at.cast(), self.len) }
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`. The driver waits for kernels that may use it.
        let _ = self.context.call("cuMemFreeHost", || unsafe { sys::cuMemFreeHost(self.at.cast()) });
        self.context.note_given_back(self.len * size_of::<T>());
    }
}
