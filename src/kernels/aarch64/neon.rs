//! Eight lanes in two 128-bit registers: NEON, which every 64-bit Arm processor has.

use std::arch::aarch64::*;

use half::f16;

use crate::kernels::simd::{LANES, Simd};

/// Proof that the processor has NEON.
#[derive(Clone, Copy)]
pub struct Neon(());

impl Neon {
    pub fn new() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
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
unsafe impl Simd for Neon {
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
    unsafe fn load_i8(self, from: *const i8) -> Pair {
        unsafe { widen_i8(vld1_s8(from)) }
    }
    #[inline(always)]
    unsafe fn load_i4_block(self, from: *const u8) -> [Pair; 4] {
        unsafe {
            let bytes = vld1q_u8(from);
            let eight = vdupq_n_s8(8);
            let low = vsubq_s8(vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15))), eight);
            let high = vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8::<4>(bytes)), eight);
            [
                widen_i8(vget_low_s8(low)),
                widen_i8(vget_high_s8(low)),
                widen_i8(vget_low_s8(high)),
                widen_i8(vget_high_s8(high)),
            ]
        }
    }
}

/// # Safety
/// NEON.
#[inline(always)]
unsafe fn widen_i8(bytes: int8x8_t) -> Pair {
    unsafe {
        let words = vmovl_s8(bytes);
        Pair(vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(words))))
    }
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
