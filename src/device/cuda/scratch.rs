//! Memory that is kept from one operation, or step, to the next.

use super::rows::Rows;
use crate::cuda::{Argument, Buffer, Pinned};

/// Buffers of products and of attention.
#[derive(Default)]
pub struct Scratch {
    pub codes: Grown<i8>,
    pub scale: Grown<f32>,
    pub sum: Grown<f32>,
    pub hidden: Grown<f32>,
    /// Inputs as one matrix takes them.
    pub changed: Option<Rows>,
    pub outs: Grown<f32>,
    pub weights: Grown<f32>,
}

/// A buffer that grows, and holds anything then.
pub struct Grown<T> {
    pub buffer: Option<Buffer<T>>,
}

impl<T: bytemuck::Pod> Grown<T> {
    /// Where kernels find it; nowhere while it is not needed.
    pub fn at(&self) -> Argument {
        Argument::Address(self.buffer.as_ref().map_or(0, Buffer::address))
    }
}

impl<T> Default for Grown<T> {
    fn default() -> Self {
        Self { buffer: None }
    }
}

/// The memory of plans.
#[derive(Default)]
pub struct PlanMemory {
    pub words: Option<Pinned<u32>>,
}
