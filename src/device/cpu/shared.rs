//! One buffer that several tasks write to.

use std::ops::Range;

/// Lets tasks write disjoint parts of one buffer.
pub struct Shared<E = f32>(*mut E);

impl<E> Clone for Shared<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Shared<E> {}

// SAFETY: every task writes rows or columns that no other task of the call touches.
unsafe impl<E> Send for Shared<E> {}
// SAFETY: as above.
unsafe impl<E> Sync for Shared<E> {}

impl<E> Shared<E> {
    pub fn new(buffer: *mut E) -> Self {
        Self(buffer)
    }

    /// # Safety
    /// `offset` lies inside the buffer.
    pub unsafe fn at(self, offset: usize) -> *mut E {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }

    /// # Safety
    /// The range lies inside the buffer, which outlives the result, and nobody else uses it meanwhile.
    pub unsafe fn part<'a>(self, range: Range<usize>) -> &'a mut [E] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(range.start), range.len()) }
    }
}
