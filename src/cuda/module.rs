//! Kernels: modules, functions, launches, and graphs of launches.

use std::ffi::{CStr, CString, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;

use super::context::Context;
use super::error::CudaError;

/// Code on the device.
pub struct Module {
    raw: sys::CUmodule,
    context: Arc<Context>,
}

// SAFETY: a handle of the driver, which takes it from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    /// Loads a cubin.
    ///
    /// # Errors
    /// [`CudaError`]: 209 when it is for other devices.
    pub fn load(context: &Arc<Context>, image: &[u8]) -> Result<Arc<Self>, CudaError> {
        let mut raw = ptr::null_mut();
        let image: *const c_void = image.as_ptr().cast();
        // SAFETY: a cubin says how long it is; the driver reads it before it returns.
        context.call("cuModuleLoadData", || unsafe { sys::cuModuleLoadData(&raw mut raw, image) })?;
        Ok(Arc::new(Self { raw, context: context.clone() }))
    }

    /// A kernel by its name.
    ///
    /// # Errors
    /// [`CudaError`]: 500 when there is none.
    ///
    /// # Panics
    /// When the name has a NUL.
    pub fn function(self: &Arc<Self>, name: &str) -> Result<Function, CudaError> {
        let name: Arc<CStr> = CString::new(name).expect("names of kernels have no NUL").into();
        let mut raw = ptr::null_mut();
        // SAFETY: the name lives until the call returns.
        self.context.call("cuModuleGetFunction", || unsafe {
            sys::cuModuleGetFunction(&raw mut raw, self.raw, name.as_ptr())
        })?;
        Ok(Function { raw, name, module: self.clone() })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: no function of it is left, for that would keep this value alive.
        let _ = self.context.call("cuModuleUnload", || unsafe { sys::cuModuleUnload(self.raw) });
    }
}

/// A kernel.
#[derive(Clone)]
pub struct Function {
    raw: sys::CUfunction,
    name: Arc<CStr>,
    module: Arc<Module>,
}

// SAFETY: a handle of the driver, which takes it from any thread.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

/// How many threads a launch has, and what they share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    pub blocks: [u32; 3],
    pub threads: u32,
    /// Bytes of shared memory beyond what the kernel declares.
    pub shared: u32,
}

/// A parameter, by value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument {
    I32(i32),
    F32(f32),
    Address(u64),
}

/// Most parameters that a kernel has.
const MAX_ARGUMENTS: usize = 24;

impl Function {
    /// As in the source.
    pub fn name(&self) -> &str {
        self.name.to_str().unwrap_or_default()
    }

    /// Asks for a launch; it takes its turn on the context's stream.
    ///
    /// # Errors
    /// [`CudaError`] when the launch is not possible; what the kernel does wrong is told later.
    ///
    /// # Panics
    /// With too many arguments.
    ///
    /// # Safety
    /// The arguments are those that the kernel takes, and what it reads and writes through them lives until it is done.
    pub unsafe fn launch(&self, grid: Grid, arguments: &[Argument]) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe { self.launch_with(grid, &[], arguments) }
    }

    /// The same of a kernel whose first parameter is a structure of so many words, if there are some.
    ///
    /// # Errors
    /// As [`Function::launch`].
    ///
    /// # Panics
    /// With too many arguments.
    ///
    /// # Safety
    /// As [`Function::launch`]; the structure has the words that are given.
    pub unsafe fn launch_with(
        &self,
        grid: Grid,
        structure: &[u64],
        arguments: &[Argument],
    ) -> Result<(), CudaError> {
        let first = usize::from(!structure.is_empty());
        assert!(first + arguments.len() <= MAX_ARGUMENTS);
        let mut pointers = [ptr::null_mut::<c_void>(); MAX_ARGUMENTS];
        pointers[0] = structure.as_ptr().cast_mut().cast();
        for (pointer, argument) in pointers[first..].iter_mut().zip(arguments) {
            *pointer = match argument {
                Argument::I32(value) => ptr::from_ref(value).cast_mut().cast(),
                Argument::F32(value) => ptr::from_ref(value).cast_mut().cast(),
                Argument::Address(value) => ptr::from_ref(value).cast_mut().cast(),
            };
        }
        let (context, [x, y, z]) = (&self.module.context, grid.blocks);
        // SAFETY: the driver reads the arguments before it returns; the rest is the caller's promise.
        context.call("cuLaunchKernel", || unsafe {
            sys::cuLaunchKernel(
                self.raw,
                x,
                y,
                z,
                grid.threads,
                1,
                1,
                grid.shared,
                context.stream(),
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        })
    }

    /// Lets launches ask for so much shared memory, which is more than the 48 KiB that all may have.
    ///
    /// # Errors
    /// [`CudaError`]: 1 when the device has not so much.
    pub fn allow_shared(&self, n_bytes: i32) -> Result<(), CudaError> {
        let what = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function lives as long as its module, which this value keeps.
        self.module
            .context
            .call("cuFuncSetAttribute", || unsafe { sys::cuFuncSetAttribute(self.raw, what, n_bytes) })
    }
}

/// Launches that are asked for by one call.
pub struct Graph {
    raw: sys::CUgraphExec,
    context: Arc<Context>,
}

// SAFETY: a handle of the driver, which takes it from any thread.
unsafe impl Send for Graph {}

impl Graph {
    /// What `body` asks for becomes a graph; nothing of it runs. Kernels and memory must live as long as the graph.
    ///
    /// # Errors
    /// [`CudaError`], of `body` too. No capture is left under way.
    pub fn capture(
        context: &Arc<Context>,
        body: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<Self, CudaError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as the context.
        context.call("cuStreamBeginCapture", || unsafe {
            sys::cuStreamBeginCapture_v2(context.stream(), mode)
        })?;
        let asked = body();
        let (mut graph, mut raw) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the pointer is to a variable that lives until the call returns.
        let ended = context.call("cuStreamEndCapture", || unsafe {
            sys::cuStreamEndCapture(context.stream(), &raw mut graph)
        });
        let made = asked.and(ended).and_then(|()| {
            // SAFETY: as above; the capture gave a graph.
            context.call("cuGraphInstantiate", || unsafe {
                sys::cuGraphInstantiateWithFlags(&raw mut raw, graph, 0)
            })
        });
        if !graph.is_null() {
            // SAFETY: what was made of it does not need it.
            let _ = context.call("cuGraphDestroy", || unsafe { sys::cuGraphDestroy(graph) });
        }
        made.map(|()| Self { raw, context: context.clone() })
    }

    /// Asks for all of it.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn launch(&self) -> Result<(), CudaError> {
        // SAFETY: made by `capture`.
        self.context.call("cuGraphLaunch", || unsafe { sys::cuGraphLaunch(self.raw, self.context.stream()) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `capture`. The driver waits until it is through.
        let _ = self.context.call("cuGraphExecDestroy", || unsafe { sys::cuGraphExecDestroy(self.raw) });
    }
}
