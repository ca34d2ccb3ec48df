//! Memory that grows. What is freed for it may be used by launches that were only written down: they are asked for first.

use super::gpu::Cuda;
use super::rows::{Memory, Rows};
use super::scratch::Grown;
use crate::cuda::{Argument, Buffer, Pinned};

impl Cuda {
    /// Room for so many elements; what it held is lost.
    pub(super) fn room<T: bytemuck::Pod>(&self, grown: &mut Grown<T>, len: usize) -> Argument {
        if grown.buffer.as_ref().is_none_or(|buffer| buffer.len() < len) {
            self.flush();
            grown.buffer = None;
            grown.buffer = self.note(Buffer::new(&self.context, len.next_power_of_two()));
        }
        grown.at()
    }

    /// See [`crate::device::Device::set_n_rows`]; where memory runs out the step fails, and nothing is launched that would
    /// use them.
    pub(super) fn resize(&self, rows: &mut Rows, n_rows: usize) {
        rows.copy.take();
        let len = n_rows * rows.stride();
        if len > rows.capacity() {
            self.flush();
            // Twice as much, so that a step more does not take another one.
            let len = len.next_power_of_two();
            match &mut rows.memory {
                Memory::Device(buffer) => {
                    *buffer = None;
                    *buffer = self.note(Buffer::zeros(&self.context, len));
                }
                Memory::Host(pinned) => {
                    *pinned = None;
                    *pinned = self.note(Pinned::new(&self.context, len));
                }
            }
        }
        rows.n_rows = n_rows;
    }

    /// See [`crate::device::Device::read_row`].
    pub(super) fn row<'a>(&self, rows: &'a Rows, row_idx: usize) -> &'a [f32] {
        if !self.is_idle() {
            // Who wants to know what went wrong asks `finish`.
            let _ = self.wait();
        }
        let all = match &rows.memory {
            // SAFETY: everything was waited for.
            Memory::Host(Some(pinned)) => unsafe { pinned.as_slice() },
            Memory::Host(None) => &[],
            Memory::Device(buffer) => rows.copy.get_or_init(|| {
                let mut values = vec![f32::NAN; rows.n_elements()];
                if let Some(buffer) = buffer {
                    self.note(buffer.read(0, &mut values));
                }
                values
            }),
        };
        &all[row_idx * rows.stride()..][..rows.width()]
    }
}
