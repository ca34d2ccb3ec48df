//! The operations compiled for one instruction set, as function pointers.

use half::f16;

use super::activations::{self, CodesMut};
use super::attention::{self, AttendTask, Weight};
use super::elementwise;
use super::lora::{self, ExpandTask, ShrinkTask};
use super::matmul::{self, MatmulTask};
use super::matrix::Partner;
use super::merge_delta::{self, LowRankTask};
use super::scalar::Scalar;
use super::tile::Tile;
#[cfg(target_arch = "x86_64")]
use super::x86_64::{Amx, Avx2, Avx512};

/// One instruction set's operations; the safety contracts are those of the functions of the same name.
#[derive(Clone, Copy)]
pub struct Kernels {
    pub name: &'static str,
    multiply_numbers: unsafe fn(&MatmulTask<'_>),
    multiply_codes: unsafe fn(&MatmulTask<'_>),
    /// Rows of a group of codes where there are so many, see [`activations::code_groups`].
    pub code_rows: usize,
    pub quantize: unsafe fn(&[f32], usize, &mut CodesMut<'_>),
    /// Queries of a task where there are many.
    pub n_queries: usize,
    pub attend: unsafe fn(&mut AttendTask<'_>),
    pub combine: unsafe fn(&[Weight], &[&[f32]], *mut f32),
    pub lora_shrink: unsafe fn(&mut ShrinkTask<'_>),
    pub lora_expand: unsafe fn(&ExpandTask<'_>),
    pub low_rank: unsafe fn(&mut LowRankTask<'_>),
    pub rms_norm: unsafe fn(*const f32, &[f32], f32, *mut f32),
    pub silu_mul: unsafe fn(&mut [f32], &[f32]),
    pub gelu_mul: unsafe fn(&mut [f32], &[f32]),
    pub narrow: unsafe fn(&[f32], &mut [f16]),
    pub read: unsafe fn(&[u8]) -> f32,
}

/// A table whose functions are compiled with the given features, of which a value of `$isa` is the proof.
macro_rules! table {
    ($name:literal, $isa:ty, $(#[$features:meta])?) => {{
        $(#[$features])?
        unsafe fn multiply_numbers(task: &MatmulTask<'_>) {
            unsafe { matmul::multiply_numbers(<$isa>::assume(), task) }
        }
        $(#[$features])?
        unsafe fn multiply_codes(task: &MatmulTask<'_>) {
            unsafe { matmul::multiply_codes(<$isa>::assume(), task) }
        }
        $(#[$features])?
        unsafe fn quantize(x: &[f32], stride: usize, out: &mut CodesMut<'_>) {
            unsafe { activations::quantize(<$isa>::assume(), x, stride, out) }
        }
        $(#[$features])?
        unsafe fn attend(task: &mut AttendTask<'_>) {
            unsafe { attention::attend(<$isa>::assume(), task) }
        }
        $(#[$features])?
        unsafe fn combine(weights: &[Weight], part_outs: &[&[f32]], out: *mut f32) {
            unsafe { attention::combine(<$isa>::assume(), weights, part_outs, out) }
        }
        $(#[$features])?
        unsafe fn lora_shrink(task: &mut ShrinkTask<'_>) {
            unsafe { lora::shrink(<$isa>::assume(), task) }
        }
        $(#[$features])?
        unsafe fn lora_expand(task: &ExpandTask<'_>) {
            unsafe { lora::expand(<$isa>::assume(), task) }
        }
        $(#[$features])?
        unsafe fn low_rank(task: &mut LowRankTask<'_>) {
            unsafe { merge_delta::low_rank(<$isa>::assume(), task) }
        }
        $(#[$features])?
        unsafe fn rms_norm(x: *const f32, weight: &[f32], eps: f32, y: *mut f32) {
            unsafe { elementwise::rms_norm(<$isa>::assume(), x, weight, eps, y) }
        }
        $(#[$features])?
        unsafe fn silu_mul(gate: &mut [f32], up: &[f32]) {
            unsafe { elementwise::silu_mul(<$isa>::assume(), gate, up) }
        }
        $(#[$features])?
        unsafe fn gelu_mul(gate: &mut [f32], up: &[f32]) {
            unsafe { elementwise::gelu_mul(<$isa>::assume(), gate, up) }
        }
        $(#[$features])?
        unsafe fn narrow(from: &[f32], to: &mut [f16]) {
            unsafe { elementwise::narrow(<$isa>::assume(), from, to) }
        }
        $(#[$features])?
        unsafe fn read(bytes: &[u8]) -> f32 {
            unsafe { elementwise::read(<$isa>::assume(), bytes) }
        }
        Kernels {
            name: $name,
            multiply_numbers,
            multiply_codes,
            code_rows: <$isa as Tile>::CODE_ROWS,
            quantize,
            n_queries: <$isa as Tile>::QUERIES,
            attend,
            combine,
            lora_shrink,
            lora_expand,
            low_rank,
            rms_norm,
            silu_mul,
            gelu_mul,
            narrow,
            read,
        }
    }};
}

impl Kernels {
    /// `y = x W^T + bias` for some tiles of a matrix.
    ///
    /// # Panics
    /// As [`matmul::multiply_numbers`].
    ///
    /// # Safety
    /// As [`matmul::multiply_numbers`].
    pub unsafe fn matmul(&self, task: &MatmulTask<'_>) {
        // SAFETY: the caller's promise.
        unsafe {
            match task.w.partner() {
                Partner::F32 => (self.multiply_numbers)(task),
                Partner::I8 => (self.multiply_codes)(task),
            }
        }
    }

    /// Runs everywhere, slowly.
    pub fn scalar() -> Self {
        table!("scalar", Scalar,)
    }

    /// The best that this processor has.
    pub fn detect() -> Self {
        Self::all()[0]
    }

    /// Every table that this processor has, the best first, `scalar` last.
    pub fn all() -> Vec<Self> {
        let mut all = Self::vectors();
        all.push(Self::scalar());
        all
    }

    #[cfg(target_arch = "x86_64")]
    fn vectors() -> Vec<Self> {
        // SAFETY (of the tables' functions): a table exists only after the detection.
        let avx2 = Avx2::new().map(|_| table!("avx2", Avx2, #[target_feature(enable = "avx2,fma,f16c")]));
        let (avx512, amx) = (Avx512::new().map(Self::by_avx512), Amx::new().map(Self::by_amx));
        [amx, avx512, avx2].into_iter().flatten().collect()
    }

    #[cfg(target_arch = "x86_64")]
    fn by_avx512(_: Avx512) -> Self {
        table!(
            "avx512vnni",
            Avx512,
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
        )
    }

    /// By AMX, and by AVX-512 what AMX is not for. [`Kernels::all`] has it where the processor has AMX.
    #[cfg(target_arch = "x86_64")]
    pub fn by_amx(amx: Amx) -> Self {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
        unsafe fn multiply_codes(task: &MatmulTask<'_>) {
            // SAFETY: a table exists only after the detection; registers have their shapes where a group needs them.
            unsafe {
                let amx = Amx::assume();
                let _shaped = (task.n_rows >= Amx::CODE_ROWS).then(|| amx.shape());
                matmul::multiply_codes(amx, task);
            }
        }
        Kernels { name: "amx", multiply_codes, code_rows: Amx::CODE_ROWS, ..Self::by_avx512(amx.0) }
    }

    #[cfg(target_arch = "aarch64")]
    fn vectors() -> Vec<Self> {
        use super::aarch64::{DOT, MATRIX, Neon, PLAIN};
        // SAFETY (of the tables' functions): a table exists only after the detection.
        let Some(plain) =
            Neon::<PLAIN>::new().map(|_| table!("neon", Neon<PLAIN>, #[target_feature(enable = "neon")]))
        else {
            return Vec::new();
        };
        // Only products of codes differ.
        #[target_feature(enable = "neon,dotprod")]
        unsafe fn by_dot(task: &MatmulTask<'_>) {
            unsafe { matmul::multiply_codes(Neon::<DOT>::assume(), task) }
        }
        #[target_feature(enable = "neon,dotprod,i8mm")]
        unsafe fn by_matrix(task: &MatmulTask<'_>) {
            unsafe { matmul::multiply_codes(Neon::<MATRIX>::assume(), task) }
        }
        let matrix =
            Neon::<MATRIX>::new().map(|_| Kernels { name: "i8mm", multiply_codes: by_matrix, ..plain });
        let dot = Neon::<DOT>::new().map(|_| Kernels { name: "dotprod", multiply_codes: by_dot, ..plain });
        [matrix, dot, Some(plain)].into_iter().flatten().collect()
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn vectors() -> Vec<Self> {
        Vec::new()
    }
}
