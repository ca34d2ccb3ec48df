//! The operations compiled for one instruction set, as function pointers.

use std::ops::Range;

use half::f16;

use super::attention::{self, AttendTask};
use super::elementwise;
use super::lora;
use super::low_rank::{self, LowRankTask};
use super::matmul::{self, MatmulTask};
use super::matrix::Matrix;
use super::scalar::Scalar;

/// One instruction set's operations; the safety contracts are those of the functions of the same name.
#[derive(Clone, Copy)]
pub struct Kernels {
    pub name: &'static str,
    pub matmul: unsafe fn(&mut MatmulTask<'_>),
    pub unpack_row: unsafe fn(Matrix<'_>, usize, &mut [f32]),
    pub attend: unsafe fn(&mut AttendTask<'_>),
    pub lora_shrink: unsafe fn(&[f32], &[f16], f32, &mut [f32]),
    pub lora_expand: unsafe fn(&[f32], &[f16], Range<usize>, *mut f32),
    pub low_rank: unsafe fn(&mut LowRankTask<'_>),
    pub rms_norm: unsafe fn(*const f32, &[f32], f32, *mut f32),
    pub silu_mul: unsafe fn(&mut [f32], &[f32]),
    pub gelu_mul: unsafe fn(&mut [f32], &[f32]),
    pub narrow: unsafe fn(&[f32], &mut [f16]),
}

/// A table whose functions are compiled with the given features; `$isa` is a value made inside them.
macro_rules! table {
    ($name:literal, $isa:expr, $(#[$features:meta])?) => {{
        $(#[$features])?
        unsafe fn matmul(task: &mut MatmulTask<'_>) {
            unsafe { matmul::matmul($isa, task) }
        }
        $(#[$features])?
        unsafe fn unpack_row(w: Matrix<'_>, row: usize, out: &mut [f32]) {
            unsafe { matmul::unpack_row($isa, w, row, out) }
        }
        $(#[$features])?
        unsafe fn attend(task: &mut AttendTask<'_>) {
            unsafe { attention::attend($isa, task) }
        }
        $(#[$features])?
        unsafe fn lora_shrink(x: &[f32], a: &[f16], scale: f32, h: &mut [f32]) {
            unsafe { lora::shrink($isa, x, a, scale, h) }
        }
        $(#[$features])?
        unsafe fn lora_expand(h: &[f32], b: &[f16], columns: Range<usize>, y: *mut f32) {
            unsafe { lora::expand($isa, h, b, columns, y) }
        }
        $(#[$features])?
        unsafe fn low_rank(task: &mut LowRankTask<'_>) {
            unsafe { low_rank::low_rank($isa, task) }
        }
        $(#[$features])?
        unsafe fn rms_norm(x: *const f32, weight: &[f32], eps: f32, y: *mut f32) {
            unsafe { elementwise::rms_norm($isa, x, weight, eps, y) }
        }
        $(#[$features])?
        unsafe fn silu_mul(gate: &mut [f32], up: &[f32]) {
            unsafe { elementwise::silu_mul($isa, gate, up) }
        }
        $(#[$features])?
        unsafe fn gelu_mul(gate: &mut [f32], up: &[f32]) {
            unsafe { elementwise::gelu_mul($isa, gate, up) }
        }
        $(#[$features])?
        unsafe fn narrow(from: &[f32], to: &mut [f16]) {
            unsafe { elementwise::narrow($isa, from, to) }
        }
        Kernels {
            name: $name,
            matmul,
            unpack_row,
            attend,
            lora_shrink,
            lora_expand,
            low_rank,
            rms_norm,
            silu_mul,
            gelu_mul,
            narrow,
        }
    }};
}

impl Kernels {
    /// Runs everywhere, slowly.
    pub fn scalar() -> Self {
        table!("scalar", Scalar,)
    }

    /// The best that this processor has.
    pub fn detect() -> Self {
        Self::best().unwrap_or_else(Self::scalar)
    }

    #[cfg(target_arch = "x86_64")]
    fn best() -> Option<Self> {
        use super::x86_64::Avx2;
        // SAFETY (of the table's functions): the table exists only after the detection.
        Avx2::new().map(|_| table!("avx2", Avx2::assume(), #[target_feature(enable = "avx2,fma,f16c")]))
    }

    #[cfg(target_arch = "aarch64")]
    fn best() -> Option<Self> {
        use super::aarch64::Neon;
        // SAFETY (of the table's functions): the table exists only after the detection.
        Neon::new().map(|_| table!("neon", Neon::assume(), #[target_feature(enable = "neon")]))
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn best() -> Option<Self> {
        None
    }
}
