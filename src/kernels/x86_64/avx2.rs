//! Eight lanes in one 256-bit register: AVX2, FMA and F16C (Haswell and later, Zen and later).

use std::arch::x86_64::*;

use half::f16;

use crate::kernels::simd::{LANES, Simd};

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    pub fn new() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has_all.then_some(Self(()))
    }

    /// # Safety
    /// [`Avx2::new`] has returned a value on this processor.
    #[inline(always)]
    pub unsafe fn assume() -> Self {
        Self(())
    }
}

// SAFETY: a value exists only where the features were detected, which is what each intrinsic needs;
// the loads and stores touch exactly the elements that the trait names.
unsafe impl Simd for Avx2 {
    type F32 = __m256;

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn exp2_integral(self, a: __m256) -> __m256 {
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        }
    }
    #[inline(always)]
    fn to_array(self, a: __m256) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), a) };
        lanes
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        unsafe {
            let pairs = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let fours = _mm_add_ps(pairs, _mm_movehl_ps(pairs, pairs));
            _mm_cvtss_f32(_mm_add_ss(fours, _mm_shuffle_ps::<1>(fours, fours)))
        }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: __m256) {
        unsafe { _mm256_storeu_ps(to, value) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16, value: __m256) {
        unsafe { _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value)) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> __m256 {
        unsafe { widen(_mm_loadl_epi64(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i4_block(self, from: *const u8) -> [__m256; 4] {
        unsafe {
            let bytes = _mm_loadu_si128(from.cast());
            let mask = _mm_set1_epi8(15);
            let eight = _mm_set1_epi8(8);
            let low = _mm_sub_epi8(_mm_and_si128(bytes, mask), eight);
            let high = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16::<4>(bytes), mask), eight);
            [widen(low), widen(_mm_srli_si128::<8>(low)), widen(high), widen(_mm_srli_si128::<8>(high))]
        }
    }
}

/// The low 8 signed bytes as f32.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn widen(bytes: __m128i) -> __m256 {
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)) }
}
