//! Sixteen rows of codes at once, by the tile registers of AMX (Sapphire Rapids and later); fewer rows, and all else, as
//! by AVX-512.
//!
//! A block of weights lies in an engine as the instruction wants its second factor: a row of the register is a quad of
//! inputs, four bytes for each of sixteen outputs. So a block is
//!
//! ```text
//! sums [16 rows][16 outputs] = x [16 rows][32 inputs] * w [8 quads][16 outputs][4]
//! ```
//!
//! Codes of every kind fit into signed bytes. Rust 1.95 has these instructions as assembly only.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use half::f16;

use super::inner::{as_inner, simd_of_inner};
use super::{Avx512, codes};
use crate::kernels::simd::{LANES, Simd};
use crate::kernels::tile::{BLOCK, MAX_CODE_ROWS, TILE_ROWS, Tile};

/// Quads of inputs of a block, and of half a block.
const QUADS: usize = BLOCK / 4;
const HALF: usize = QUADS / 2;
/// Bytes of a row of weights, and of sums.
const LINE: usize = 4 * TILE_ROWS;

/// Proof that the processor has AMX for bytes, that the system lets this process use it, and what [`Avx512`] proves.
///
/// Products of [`MAX_CODE_ROWS`] rows are made while a `Shaped` of the same thread lives.
#[derive(Clone, Copy)]
pub struct Amx(pub(in crate::kernels) Avx512);

impl Amx {
    pub fn new() -> Option<Self> {
        Avx512::new().filter(|_| has_tiles() && may_use_tiles()).map(Self)
    }

    /// # Safety
    /// [`Amx::new`] has returned a value in this process, or [`Avx512::new`] has and something else does what the
    /// instructions of AMX would.
    #[inline(always)]
    pub unsafe fn assume() -> Self {
        // SAFETY: the caller's promise is more than what this one asks for.
        Self(unsafe { Avx512::assume() })
    }

    /// Gives this thread's tile registers their shapes.
    #[inline(always)]
    pub fn shape(self) -> Shaped {
        // SAFETY: a value is the proof; the operand has 64 bytes that the instruction takes.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(nostack, preserves_flags, readonly))
        };
        Shaped(())
    }
}

/// The thread's tile registers have their shapes while it lives; then the system need not save them.
pub struct Shaped(());

impl Drop for Shaped {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: only an `Amx` makes one of these.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _,
                options(nostack, preserves_flags, nomem)
            );
        }
    }
}

/// The operand of LDTILECFG (Intel, Software Developer's Manual, volume 2).
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    n_rows: [u8; 16],
}

/// Register 0 has the sums; 1 and 2 have the activations and weights of a block, 3 and 4 those of half a block.
#[expect(clippy::cast_possible_truncation, reason = "no register has more than 16 rows or 64 bytes a row")]
static SHAPES: Shapes = {
    const ROWS: u8 = MAX_CODE_ROWS as u8;
    const BYTES: u16 = LINE as u16;
    const INPUTS: u16 = BLOCK as u16;
    const N_QUADS: u8 = QUADS as u8;
    Shapes {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [BYTES, INPUTS, BYTES, INPUTS / 2, BYTES, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        n_rows: [ROWS, ROWS, N_QUADS, ROWS, N_QUADS / 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    }
};

/// Sums over `N` quads of inputs, those of a block or of half a block: `w` is `[N][TILE_ROWS][4]`, row r of the
/// activations begins at `x + 32 r`.
///
/// # Safety
/// So many elements of `R` = [`MAX_CODE_ROWS`] rows; a [`Shaped`] of this thread lives.
#[inline(always)]
unsafe fn multiply<const N: usize, const R: usize>(w: *const i8, x: *const i8) -> [__m512; R] {
    const { assert!(N == QUADS || N == HALF) };
    let mut sums = [const { MaybeUninit::<__m512i>::uninit() }; R];
    // SAFETY: the shapes of the registers are those of the caller's elements and of the sums, all of which are written.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tileloadd tmm{rows}, [{x} + {input_bytes}]",
            "tileloadd tmm{weights}, [{w} + {line}]",
            "tdpbssd tmm0, tmm{rows}, tmm{weights}",
            "tilestored [{sums} + {line}], tmm0",
            rows = const { if N == QUADS { 1 } else { 3 } },
            weights = const { if N == QUADS { 2 } else { 4 } },
            x = in(reg) x, input_bytes = in(reg) BLOCK,
            w = in(reg) w, line = in(reg) LINE,
            sums = in(reg) sums.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _,
            options(nostack, preserves_flags)
        );
        let mut found = [_mm512_setzero_ps(); R];
        for (found, sums) in found.iter_mut().zip(&sums) {
            *found = _mm512_cvtepi32_ps(sums.assume_init_read());
        }
        found
    }
}

/// Products with codes that are unpacked first: of sixteen rows by the tile registers, of fewer as the one inside has them.
macro_rules! dots {
    ($($dot:ident: $unpack:ident, $quads:ident;)*) => {
        $(
            #[inline(always)]
            unsafe fn $dot<const R: usize>(self, w: *const u8, x: *const i8) -> [__m512; R] {
                unsafe {
                    if R == MAX_CODE_ROWS {
                        let mut quads = [_mm512_setzero_si512(); $quads];
                        codes::$unpack(w, |quad, codes| quads[quad] = codes);
                        multiply::<$quads, R>(quads.as_ptr().cast(), x)
                    } else {
                        self.0.$dot(w, x)
                    }
                }
            }
        )*
    };
}

// SAFETY: AVX-512 keeps the promises.
unsafe impl Simd for Amx {
    simd_of_inner!();
}

// SAFETY: a value exists only where the features were detected; the loads and stores touch exactly the elements that
// the trait names.
unsafe impl Tile for Amx {
    type Wide = __m512;

    const CODE_ROWS: usize = MAX_CODE_ROWS;

    as_inner! {
        safe {
            wide_splat(value: f32) -> __m512;
            wide_add(a: __m512, b: __m512) -> __m512;
            wide_mul(a: __m512, b: __m512) -> __m512;
            wide_mul_add(a: __m512, b: __m512, c: __m512) -> __m512;
            prefetch(at: *const u8);
        }
        by_pointer {
            wide_load(from: *const f32) -> __m512;
            wide_store(to: *mut f32, value: __m512);
            wide_load_f16(from: *const f16) -> __m512;
            wide_load_u8(from: *const u8) -> __m512;
            wide_load_i8(from: *const i8) -> __m512;
            wide_load_e4m3(from: *const u8) -> __m512;
            wide_choose(numbers: *const f32, words: *const u8, shift: u32) -> __m512;
        }
    }

    #[inline(always)]
    unsafe fn dot_i8<const R: usize>(self, w: *const i8, x: *const i8) -> [__m512; R] {
        unsafe { if R == MAX_CODE_ROWS { multiply::<QUADS, R>(w, x) } else { self.0.dot_i8(w, x) } }
    }
    dots! {
        dot_u4: fours, QUADS;
        dot_u5: fives, QUADS;
        dot_i6: sixes, HALF;
        dot_e2m1: e2m1, HALF;
    }
}

/// Whether processor and system have tile registers and products of bytes (Intel, Software Developer's Manual, volume 1,
/// chapter 18).
fn has_tiles() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const AMX_TILE: u32 = 1 << 24;
    const AMX_INT8: u32 = 1 << 25;
    const TILE_STATES: u64 = 1 << 17 | 1 << 18;
    const FEATURES: u32 = 7;
    if __cpuid(0).eax < FEATURES || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let features = __cpuid_count(FEATURES, 0).edx;
    // SAFETY: OSXSAVE says that the instruction is there.
    let states = unsafe { _xgetbv(0) };
    features & AMX_TILE != 0 && features & AMX_INT8 != 0 && states & TILE_STATES == TILE_STATES
}

/// Asks Linux for the right to use the registers, which holds for all threads (Documentation/arch/x86/xstate.rst).
fn may_use_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call takes two numbers, and changes nothing but what threads may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}
