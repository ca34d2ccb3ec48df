//! Rows of a weight matrix as f32, 32 elements at a time: what each kind of storage means.

use half::f16;

use super::minifloat::{e4m3, e8m0};
use super::simd::Simd;

/// Rows of weights that give 32 elements at a time as f32.
pub trait Rows<S: Simd>: Copy {
    /// Elements are f32 already: unpacking would only copy.
    const IS_F32: bool = false;

    /// # Safety
    /// `row` and `k..k + 32` lie inside the matrix.
    unsafe fn load32(&self, s: S, row: usize, k: usize) -> [S::F32; 4];

    /// What the sum over a row is multiplied by.
    ///
    /// # Safety
    /// `row` lies inside the matrix.
    #[inline(always)]
    unsafe fn factor(&self, _row: usize) -> f32 {
        1.0
    }
}

#[derive(Clone, Copy)]
pub struct F32Rows {
    pub w: *const f32,
    pub stride: usize,
}

impl<S: Simd> Rows<S> for F32Rows {
    const IS_F32: bool = true;

    #[inline(always)]
    unsafe fn load32(&self, s: S, row: usize, k: usize) -> [S::F32; 4] {
        // SAFETY: inside the matrix by the caller.
        unsafe {
            let at = self.w.add(row * self.stride + k);
            [s.load(at), s.load(at.add(8)), s.load(at.add(16)), s.load(at.add(24))]
        }
    }
}

#[derive(Clone, Copy)]
pub struct F16Rows {
    pub w: *const f16,
    pub stride: usize,
}

impl<S: Simd> Rows<S> for F16Rows {
    #[inline(always)]
    unsafe fn load32(&self, s: S, row: usize, k: usize) -> [S::F32; 4] {
        // SAFETY: inside the matrix by the caller.
        unsafe {
            let at = self.w.add(row * self.stride + k);
            [s.load_f16(at), s.load_f16(at.add(8)), s.load_f16(at.add(16)), s.load_f16(at.add(24))]
        }
    }
}

#[derive(Clone, Copy)]
pub struct I8Rows {
    pub w: *const i8,
    pub scale: *const f32,
    pub stride: usize,
}

impl<S: Simd> Rows<S> for I8Rows {
    #[inline(always)]
    unsafe fn load32(&self, s: S, row: usize, k: usize) -> [S::F32; 4] {
        // SAFETY: inside the matrix by the caller.
        unsafe {
            let at = self.w.add(row * self.stride + k);
            [s.load_i8(at), s.load_i8(at.add(8)), s.load_i8(at.add(16)), s.load_i8(at.add(24))]
        }
    }

    #[inline(always)]
    unsafe fn factor(&self, row: usize) -> f32 {
        // SAFETY: one scale per row.
        unsafe { *self.scale.add(row) }
    }
}

/// A type of scales.
pub trait Number: Copy {
    fn widen(self) -> f32;
}

impl Number for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Number for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

/// Groups whose zero is 8.
#[derive(Clone, Copy)]
pub struct I4Rows<T> {
    pub w: *const u8,
    pub scale: *const T,
    pub stride: usize,
    pub group: usize,
}

impl<S: Simd, T: Number> Rows<S> for I4Rows<T> {
    #[inline(always)]
    unsafe fn load32(&self, s: S, row: usize, k: usize) -> [S::F32; 4] {
        let first = row * self.stride + k;
        // SAFETY: inside the matrix by the caller; groups are whole blocks, so one scale covers the block.
        unsafe {
            let scale = s.splat((*self.scale.add(first / self.group)).widen());
            s.load_i4_block(self.w.add(first / 2)).map(|q| s.mul(q, scale))
        }
    }
}

/// Groups with zeros of their own.
#[derive(Clone, Copy)]
pub struct I4ZeroRows<T> {
    pub rows: I4Rows<T>,
    pub zero: *const u8,
}

impl<S: Simd, T: Number> Rows<S> for I4ZeroRows<T> {
    #[inline(always)]
    unsafe fn load32(&self, s: S, row: usize, k: usize) -> [S::F32; 4] {
        let I4Rows { w, scale, stride, group } = self.rows;
        let first = row * stride + k;
        // SAFETY: as for groups without zeros.
        unsafe {
            let scale = s.splat((*scale.add(first / group)).widen());
            // Codes are loaded as q - 8.
            let zero = s.splat(f32::from(*self.zero.add(first / group)) - 8.0);
            s.load_i4_block(w.add(first / 2)).map(|q| s.mul(s.sub(q, zero), scale))
        }
    }
}

#[derive(Clone, Copy)]
pub struct Fp8Rows {
    pub w: *const u8,
    pub scale: *const f32,
    pub stride: usize,
}

impl<S: Simd> Rows<S> for Fp8Rows {
    #[inline(always)]
    unsafe fn load32(&self, s: S, row: usize, k: usize) -> [S::F32; 4] {
        // SAFETY: inside the matrix by the caller.
        unsafe {
            let at = self.w.add(row * self.stride + k);
            [s.load_e4m3(at), s.load_e4m3(at.add(8)), s.load_e4m3(at.add(16)), s.load_e4m3(at.add(24))]
        }
    }

    #[inline(always)]
    unsafe fn factor(&self, row: usize) -> f32 {
        // SAFETY: one scale per row.
        unsafe { *self.scale.add(row) }
    }
}

#[derive(Clone, Copy)]
pub struct Mxfp8Rows {
    pub w: *const u8,
    pub scale: *const u8,
    pub stride: usize,
}

impl<S: Simd> Rows<S> for Mxfp8Rows {
    #[inline(always)]
    unsafe fn load32(&self, s: S, row: usize, k: usize) -> [S::F32; 4] {
        let first = row * self.stride + k;
        // SAFETY: inside the matrix by the caller; k is a multiple of 32, so one scale covers the elements.
        unsafe {
            let at = self.w.add(first);
            let scale = s.splat(e8m0(*self.scale.add(first / 32)));
            [s.load_e4m3(at), s.load_e4m3(at.add(8)), s.load_e4m3(at.add(16)), s.load_e4m3(at.add(24))]
                .map(|q| s.mul(q, scale))
        }
    }
}

#[derive(Clone, Copy)]
pub struct Nvfp4Rows {
    pub w: *const u8,
    pub scale: *const u8,
    pub row_scale: *const f32,
    pub stride: usize,
}

impl<S: Simd> Rows<S> for Nvfp4Rows {
    #[inline(always)]
    unsafe fn load32(&self, s: S, row: usize, k: usize) -> [S::F32; 4] {
        let first = row * self.stride + k;
        // SAFETY: inside the matrix by the caller; a block of 32 has two scales.
        unsafe {
            let [a, b, c, d] = s.load_e2m1_block(self.w.add(first / 2));
            let scale = self.scale.add(first / 16);
            let (low, high) = (s.splat(e4m3(*scale)), s.splat(e4m3(*scale.add(1))));
            [s.mul(a, low), s.mul(b, low), s.mul(c, high), s.mul(d, high)]
        }
    }

    #[inline(always)]
    unsafe fn factor(&self, row: usize) -> f32 {
        // SAFETY: one scale per row.
        unsafe { *self.row_scale.add(row) }
    }
}

/// Evaluates an expression with the rows of a matrix, of whatever kind they are.
macro_rules! with_rows {
    ($w:expr, $rows:ident => $body:expr) => {{
        use $crate::kernels::matrix::{GroupScales, Values};
        use $crate::kernels::weight_rows::{
            F16Rows, F32Rows, Fp8Rows, I4Rows, I4ZeroRows, I8Rows, Mxfp8Rows, Nvfp4Rows,
        };
        let stride = $w.stride();
        macro_rules! with {
            ($value:expr) => {{
                let $rows = $value;
                $body
            }};
        }
        macro_rules! with_groups {
            ($q:expr, $scale:expr, $zero:expr, $group:expr) => {{
                let rows = I4Rows { w: $q.as_ptr(), scale: $scale.as_ptr(), stride, group: $group };
                match $zero {
                    None => with!(rows),
                    Some(zero) => with!(I4ZeroRows { rows, zero: zero.as_ptr() }),
                }
            }};
        }
        match $w.values() {
            Values::F32(v) => with!(F32Rows { w: v.as_ptr(), stride }),
            Values::F16(v) => with!(F16Rows { w: v.as_ptr(), stride }),
            Values::I8 { q, scale } => with!(I8Rows { w: q.as_ptr(), scale: scale.as_ptr(), stride }),
            Values::I4 { q, scale: GroupScales::F16(scale), zero, group } => {
                with_groups!(q, scale, zero, group)
            }
            Values::I4 { q, scale: GroupScales::F32(scale), zero, group } => {
                with_groups!(q, scale, zero, group)
            }
            Values::Fp8 { q, scale } => with!(Fp8Rows { w: q.as_ptr(), scale: scale.as_ptr(), stride }),
            Values::Mxfp8 { q, scale } => with!(Mxfp8Rows { w: q.as_ptr(), scale: scale.as_ptr(), stride }),
            Values::Nvfp4 { q, scale, row_scale } => with!(Nvfp4Rows {
                w: q.as_ptr(),
                scale: scale.as_ptr(),
                row_scale: row_scale.as_ptr(),
                stride
            }),
        }
    }};
}
pub(super) use with_rows;
