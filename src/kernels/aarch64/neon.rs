//! Eight lanes in two 128-bit registers: NEON, which every 64-bit Arm processor has, and its products of bytes.

use std::arch::aarch64::*;

use half::f16;

use super::products::{dot_block, matrix_block, multiply_block};
use crate::kernels::minifloat::E4M3_FACTOR;
use crate::kernels::simd::{LANES, Simd};
use crate::kernels::tile::{E2M1_DOUBLED, Tile, wide_of_pairs};

/// NEON alone.
pub const PLAIN: u8 = 0;
/// With sums of four products (dotprod: Cortex-A78AE of Orin).
pub const DOT: u8 = 1;
/// With products of two by eight and eight by two (i8mm: Neoverse V3AE of Thor).
pub const MATRIX: u8 = 2;

/// Proof that the processor has NEON and what `PRODUCTS` names.
#[derive(Clone, Copy)]
pub struct Neon<const PRODUCTS: u8>(());

impl<const PRODUCTS: u8> Neon<PRODUCTS> {
    pub fn new() -> Option<Self> {
        let has_dot = std::arch::is_aarch64_feature_detected!("dotprod");
        let has_matrix = std::arch::is_aarch64_feature_detected!("i8mm");
        let has_products = match PRODUCTS {
            PLAIN => true,
            DOT => has_dot,
            _ => has_dot && has_matrix,
        };
        (has_products && std::arch::is_aarch64_feature_detected!("neon")).then_some(Self(()))
    }

    /// # Safety
    /// [`Neon::new`] has returned a value on this processor.
    #[inline(always)]
    pub unsafe fn assume() -> Self {
        Self(())
    }
}

/// Lanes 0..4 and 4..8.
#[derive(Clone, Copy)]
pub struct Pair(float32x4_t, float32x4_t);

macro_rules! lanewise {
    ($($name:ident = $intrinsic:ident),*) => {$(
        #[inline(always)]
        fn $name(self, a: Pair, b: Pair) -> Pair {
            unsafe { Pair($intrinsic(a.0, b.0), $intrinsic(a.1, b.1)) }
        }
    )*};
}

// SAFETY: a value exists only where NEON was detected, which is what each intrinsic needs; the loads and
// stores touch exactly the elements that the trait names.
unsafe impl<const PRODUCTS: u8> Simd for Neon<PRODUCTS> {
    type F32 = Pair;

    lanewise!(add = vaddq_f32, sub = vsubq_f32, mul = vmulq_f32, div = vdivq_f32);
    lanewise!(max = vmaxq_f32, min = vminq_f32);

    #[inline(always)]
    fn splat(self, value: f32) -> Pair {
        unsafe { Pair(vdupq_n_f32(value), vdupq_n_f32(value)) }
    }
    #[inline(always)]
    fn mul_add(self, a: Pair, b: Pair, c: Pair) -> Pair {
        unsafe { Pair(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)) }
    }
    #[inline(always)]
    fn round(self, a: Pair) -> Pair {
        unsafe { Pair(vrndnq_f32(a.0), vrndnq_f32(a.1)) }
    }
    #[inline(always)]
    fn exp2_integral(self, a: Pair) -> Pair {
        let power = |x| unsafe {
            let exponent = vaddq_s32(vcvtq_s32_f32(x), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
        };
        Pair(power(a.0), power(a.1))
    }
    #[inline(always)]
    fn to_array(self, a: Pair) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        unsafe {
            vst1q_f32(lanes.as_mut_ptr(), a.0);
            vst1q_f32(lanes.as_mut_ptr().add(4), a.1);
        }
        lanes
    }
    #[inline(always)]
    fn sum(self, a: Pair) -> f32 {
        unsafe {
            let pairs = vaddq_f32(a.0, a.1);
            let fours = vadd_f32(vget_low_f32(pairs), vget_high_f32(pairs));
            vget_lane_f32::<0>(fours) + vget_lane_f32::<1>(fours)
        }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Pair {
        unsafe { Pair(vld1q_f32(from), vld1q_f32(from.add(4))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: Pair) {
        unsafe {
            vst1q_f32(to, value.0);
            vst1q_f32(to.add(4), value.1);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Pair {
        unsafe {
            let halves = vld1q_u16(from.cast());
            Pair(widen_f16(vget_low_u16(halves)), widen_f16(vget_high_u16(halves)))
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16, value: Pair) {
        unsafe {
            vst1_u16(to.cast(), narrow_f16(value.0));
            vst1_u16(to.cast::<u16>().add(4), narrow_f16(value.1));
        }
    }
    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> Pair {
        unsafe {
            let words = vmovl_u8(vld1_u8(from));
            Pair(
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(words))),
                vcvtq_f32_u32(vmovl_u16(vget_high_u16(words))),
            )
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Pair {
        unsafe {
            let words = vmovl_s8(vld1_s8(from));
            Pair(
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))),
                vcvtq_f32_s32(vmovl_s16(vget_high_s16(words))),
            )
        }
    }
    #[inline(always)]
    unsafe fn load_e4m3(self, from: *const u8) -> Pair {
        unsafe {
            let codes = vmovl_u8(vld1_u8(from));
            let sign = vshlq_n_u16::<8>(vandq_u16(codes, vdupq_n_u16(0x80)));
            let rest = vshlq_n_u16::<7>(vandq_u16(codes, vdupq_n_u16(0x7f)));
            let halves = vorrq_u16(sign, rest);
            let numbers = Pair(widen_f16(vget_low_u16(halves)), widen_f16(vget_high_u16(halves)));
            self.mul(numbers, self.splat(E4M3_FACTOR))
        }
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, value: Pair) {
        unsafe {
            let low = vqmovn_s32(vcvtq_s32_f32(value.0));
            let high = vqmovn_s32(vcvtq_s32_f32(value.1));
            vst1_s8(to, vqmovn_s16(vcombine_s16(low, high)));
        }
    }
}

// SAFETY: as above.
unsafe impl<const PRODUCTS: u8> Tile for Neon<PRODUCTS> {
    wide_of_pairs!(Pair);

    #[inline(always)]
    unsafe fn wide_choose(self, numbers: *const f32, words: *const u8, shift: u32) -> Self::Wide {
        unsafe {
            let table = |part: usize| vld1q_u8(numbers.add(part * 4).cast());
            let table = uint8x16x4_t(table(0), table(1), table(2), table(3));
            // The places of a number's four bytes: 4 code, 4 code + 1, ..
            let (four_each, bytes) = (vdupq_n_u32(0x0404_0404), vdupq_n_u32(0x0302_0100));
            let down = vdupq_n_s32(-shift.cast_signed());
            let part = |part: usize| {
                let words = vreinterpretq_u32_u8(vld1q_u8(words.add(part * 16)));
                let codes = vandq_u32(vshlq_u32(words, down), vdupq_n_u32(15));
                let places = vreinterpretq_u8_u32(vmlaq_u32(bytes, codes, four_each));
                vreinterpretq_f32_u8(vqtbl4q_u8(table, places))
            };
            [Pair(part(0), part(1)), Pair(part(2), part(3))]
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(readonly, nostack, preserves_flags));
        }
    }
    #[inline(always)]
    unsafe fn dot_i8<const R: usize>(self, w: *const i8, x: *const i8) -> [Self::Wide; R] {
        let oct = |oct: usize, part: usize| unsafe {
            let at = w.add(oct * 128 + part * 16);
            [vld1q_s8(at), vld1q_s8(at.add(64))]
        };
        unsafe { products::<PRODUCTS, R, 4>(x, oct) }
    }
    #[inline(always)]
    unsafe fn dot_u4<const R: usize>(self, w: *const u8, x: *const i8) -> [Self::Wide; R] {
        let oct = |oct: usize, part: usize| unsafe {
            nibbles(w.add(oct * 64 + part * 16)).map(|codes| vreinterpretq_s8_u8(codes))
        };
        unsafe { products::<PRODUCTS, R, 4>(x, oct) }
    }
    #[inline(always)]
    unsafe fn dot_u5<const R: usize>(self, w: *const u8, x: *const i8) -> [Self::Wide; R] {
        let oct = |oct: usize, part: usize| unsafe {
            let upper = vld1q_u8(w.add(4 * 64 + part * 16));
            let [low, high] = nibbles(w.add(oct * 64 + part * 16));
            [with_upper(low, upper, oct * 2, 16), with_upper(high, upper, oct * 2 + 1, 16)]
                .map(|codes| vreinterpretq_s8_u8(codes))
        };
        unsafe { products::<PRODUCTS, R, 4>(x, oct) }
    }
    #[inline(always)]
    unsafe fn dot_i6<const R: usize>(self, w: *const u8, x: *const i8) -> [Self::Wide; R] {
        let oct = |oct: usize, part: usize| unsafe {
            let upper = vld1q_u8(w.add(2 * 64 + part * 16));
            let [low, high] = nibbles(w.add(oct * 64 + part * 16));
            [with_upper(low, upper, oct * 4, 0x30), with_upper(high, upper, oct * 4 + 2, 0x30)]
                .map(|codes| vsubq_s8(vreinterpretq_s8_u8(codes), vdupq_n_s8(32)))
        };
        unsafe { products::<PRODUCTS, R, 2>(x, oct) }
    }
    #[inline(always)]
    unsafe fn dot_e2m1<const R: usize>(self, w: *const u8, x: *const i8) -> [Self::Wide; R] {
        let numbers = unsafe { vld1q_s8(E2M1_DOUBLED.as_ptr()) };
        let oct = |oct: usize, part: usize| unsafe {
            nibbles(w.add(oct * 64 + part * 16)).map(|codes| vqtbl1q_s8(numbers, codes))
        };
        unsafe { products::<PRODUCTS, R, 2>(x, oct) }
    }
}

/// Low and high nibbles.
///
/// # Safety
/// 16 bytes; NEON.
#[inline(always)]
unsafe fn nibbles(from: *const u8) -> [uint8x16_t; 2] {
    unsafe {
        let bytes = vld1q_u8(from);
        [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)]
    }
}

/// Low nibbles with the bits from `first` on of `upper` above them, as many as `mask` says.
///
/// # Safety
/// NEON.
#[inline(always)]
unsafe fn with_upper(low: uint8x16_t, upper: uint8x16_t, first: usize, mask: u8) -> uint8x16_t {
    // A shift by less than nothing is one to the right.
    let shift = 4 - i8::try_from(first).expect("at most seven");
    unsafe { vorrq_u8(low, vandq_u8(vshlq_u8(upper, vdupq_n_s8(shift)), vdupq_n_u8(mask))) }
}

/// The sums of `R` rows of codes, 32 bytes apart, with sixteen rows of weights over `OCTS` times eight inputs.
/// `weights(oct, part)` are inputs 0..4 and 4..8 of an oct for rows `4 part..4 part + 4`.
///
/// # Safety
/// The processor has what `PRODUCTS` names.
#[inline(always)]
unsafe fn products<const PRODUCTS: u8, const R: usize, const OCTS: usize>(
    x: *const i8,
    weights: impl Fn(usize, usize) -> [int8x16_t; 2],
) -> [[Pair; 2]; R] {
    let sums = unsafe {
        match PRODUCTS {
            PLAIN => multiply_block::<R, OCTS>(x, weights),
            MATRIX if R.is_multiple_of(2) => matrix_block::<R, OCTS>(x, weights),
            _ => dot_block::<R, OCTS>(x, weights),
        }
    };
    sums.map(|[a, b, c, d]| unsafe {
        [Pair(vcvtq_f32_s32(a), vcvtq_f32_s32(b)), Pair(vcvtq_f32_s32(c), vcvtq_f32_s32(d))]
    })
}

/// # Safety
/// NEON.
#[inline(always)]
unsafe fn widen_f16(halves: uint16x4_t) -> float32x4_t {
    unsafe { vcvt_f32_f16(vreinterpret_f16_u16(halves)) }
}

/// # Safety
/// NEON.
#[inline(always)]
unsafe fn narrow_f16(values: float32x4_t) -> uint16x4_t {
    unsafe { vreinterpret_u16_f16(vcvt_f16_f32(values)) }
}
