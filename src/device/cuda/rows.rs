//! Activations on the device: rows of f32, each padded with zeros to the stride that matrices use.

use std::sync::OnceLock;

use crate::cuda::{Argument, Buffer, Pinned};
use crate::numbers::precision::row_stride;

/// `[n_rows, width]`, stored `[n_rows, stride]`; elements beyond the width are zero.
pub struct Rows {
    pub(super) memory: Memory,
    pub(super) n_rows: usize,
    width: usize,
    /// What the host has read of the device's memory, until a kernel writes.
    pub(super) copy: OnceLock<Vec<f32>>,
}

/// Zeros to begin with; what grows is a new one.
pub(super) enum Memory {
    Device(Option<Buffer<f32>>),
    /// The host's, which the device writes over whatever lies between them; on a Jetson that is nothing.
    Host(Option<Pinned<f32>>),
}

impl Rows {
    pub fn new(width: usize) -> Self {
        Self { memory: Memory::Device(None), n_rows: 0, width, copy: OnceLock::new() }
    }

    /// The same, which the host reads where they lie.
    pub fn on_host(width: usize) -> Self {
        Self { memory: Memory::Host(None), ..Self::new(width) }
    }

    /// Rows of another width, which hold anything, beyond it too.
    pub fn set_width(&mut self, width: usize) {
        (self.width, self.n_rows) = (width, 0);
        self.copy.take();
    }

    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn stride(&self) -> usize {
        row_stride(self.width)
    }

    /// Elements, with those beyond the width.
    pub fn n_elements(&self) -> usize {
        self.n_rows * self.stride()
    }

    /// For a kernel that reads.
    pub fn at(&self) -> Argument {
        Argument::Address(self.address())
    }

    /// For a kernel that writes.
    pub fn at_mut(&mut self) -> Argument {
        self.copy.take();
        self.at()
    }

    /// As a number, in a structure.
    pub fn address_mut(&mut self) -> u64 {
        self.copy.take();
        self.address()
    }

    fn address(&self) -> u64 {
        match &self.memory {
            Memory::Device(buffer) => buffer.as_ref().map_or(0, Buffer::address),
            Memory::Host(pinned) => pinned.as_ref().map_or(0, Pinned::address),
        }
    }

    /// Elements that there is memory for.
    pub fn capacity(&self) -> usize {
        match &self.memory {
            Memory::Device(buffer) => buffer.as_ref().map_or(0, Buffer::len),
            Memory::Host(pinned) => pinned.as_ref().map_or(0, Pinned::len),
        }
    }
}
