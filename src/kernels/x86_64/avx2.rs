//! Eight lanes in one 256-bit register: AVX2, FMA and F16C (Haswell and later, Zen and later).

use std::arch::x86_64::*;

use half::f16;

use crate::kernels::minifloat::E4M3_FACTOR;
use crate::kernels::simd::{LANES, Simd};
use crate::kernels::tile::{E2M1_DOUBLED, Tile, wide_of_pairs};

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
    unsafe fn load_u8(self, from: *const u8) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_e4m3(self, from: *const u8) -> __m256 {
        unsafe {
            let codes = _mm_cvtepu8_epi16(_mm_loadl_epi64(from.cast()));
            let sign = _mm_slli_epi16::<8>(_mm_and_si128(codes, _mm_set1_epi16(0x80)));
            let rest = _mm_slli_epi16::<7>(_mm_and_si128(codes, _mm_set1_epi16(0x7f)));
            let numbers = _mm256_cvtph_ps(_mm_or_si128(sign, rest));
            _mm256_mul_ps(numbers, _mm256_set1_ps(E4M3_FACTOR))
        }
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, value: __m256) {
        unsafe {
            let whole = _mm256_cvtps_epi32(value);
            let (low, high) = (_mm256_castsi256_si128(whole), _mm256_extracti128_si256::<1>(whole));
            let halves = _mm_packs_epi32(low, high);
            _mm_storel_epi64(to.cast(), _mm_packs_epi16(halves, halves));
        }
    }
}

// SAFETY: as above.
unsafe impl Tile for Avx2 {
    wide_of_pairs!(__m256);

    #[inline(always)]
    unsafe fn wide_choose(self, numbers: *const f32, words: *const u8, shift: u32) -> Self::Wide {
        unsafe {
            let (low, high) = (self.load(numbers), self.load(numbers.add(8)));
            let down = _mm_cvtsi32_si128(shift.cast_signed());
            // A code's upper bit comes to the sign, by which a blend chooses.
            let up = _mm_cvtsi32_si128(28 - shift.cast_signed());
            load_pair(words).map(|words| {
                let codes = _mm256_srl_epi32(words, down);
                let halves = [low, high].map(|half| _mm256_permutevar8x32_ps(half, codes));
                _mm256_blendv_ps(halves[0], halves[1], _mm256_castsi256_ps(_mm256_sll_epi32(words, up)))
            })
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn dot_i8<const R: usize>(self, w: *const i8, x: *const i8) -> [Self::Wide; R] {
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut sums = [[_mm256_setzero_si256(); 2]; R];
            for quad in 0..8 {
                let codes = load_pair(w.add(quad * 64).cast());
                let sizes = [_mm256_abs_epi8(codes[0]), _mm256_abs_epi8(codes[1])];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = broadcast(x.add(r * 32 + quad * 4));
                    for (half, sum) in sums.iter_mut().enumerate() {
                        let x = _mm256_sign_epi8(x, codes[half]);
                        // Two products of 127 * 127 fit into 16 bits.
                        let pairs = _mm256_maddubs_epi16(sizes[half], x);
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
                    }
                }
            }
            let mut found = [self.wide_splat(0.0); R];
            for (found, sums) in found.iter_mut().zip(&sums) {
                *found = [_mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])];
            }
            found
        }
    }
    #[inline(always)]
    unsafe fn dot_u4<const R: usize>(self, w: *const u8, x: *const i8) -> [Self::Wide; R] {
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); 2]; R];
            for oct in 0..4 {
                // Four inputs after the other four: so the weights of only four need registers.
                for (quad, codes) in nibbles(load_pair(w.add(oct * 64))).into_iter().enumerate() {
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = broadcast(x.add(r * 32 + oct * 8 + quad * 4));
                        for (half, sum) in sums.iter_mut().enumerate() {
                            // Sixteen products of 15 * 127 fit into 16 bits.
                            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(codes[half], x));
                        }
                    }
                }
            }
            pairs_to_f32(&sums)
        }
    }
    #[inline(always)]
    unsafe fn dot_u5<const R: usize>(self, w: *const u8, x: *const i8) -> [Self::Wide; R] {
        unsafe {
            let (fifth, ones) = (_mm256_set1_epi8(16), _mm256_set1_epi16(1));
            let upper = load_pair(w.add(4 * 64));
            let mut wide = [[_mm256_setzero_si256(); 2]; R];
            for half in 0..2 {
                // The bits of this half's quads come to the fifth place one after the other.
                let mut upper = if half == 0 { up_by_four(upper) } else { upper };
                let mut sums = [[_mm256_setzero_si256(); 2]; R];
                for oct in half * 2..half * 2 + 2 {
                    for (quad, low) in nibbles(load_pair(w.add(oct * 64))).into_iter().enumerate() {
                        let codes = [
                            _mm256_or_si256(low[0], _mm256_and_si256(upper[0], fifth)),
                            _mm256_or_si256(low[1], _mm256_and_si256(upper[1], fifth)),
                        ];
                        upper = [_mm256_srli_epi16::<1>(upper[0]), _mm256_srli_epi16::<1>(upper[1])];
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let x = broadcast(x.add(r * 32 + oct * 8 + quad * 4));
                            for (half, sum) in sums.iter_mut().enumerate() {
                                // Eight products of 31 * 127 fit into 16 bits.
                                *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(codes[half], x));
                            }
                        }
                    }
                }
                for (wide, sums) in wide.iter_mut().zip(sums) {
                    wide[0] = _mm256_add_epi32(wide[0], _mm256_madd_epi16(sums[0], ones));
                    wide[1] = _mm256_add_epi32(wide[1], _mm256_madd_epi16(sums[1], ones));
                }
            }
            let mut found = [[_mm256_setzero_ps(); 2]; R];
            for (found, wide) in found.iter_mut().zip(wide) {
                *found = [_mm256_cvtepi32_ps(wide[0]), _mm256_cvtepi32_ps(wide[1])];
            }
            found
        }
    }
    #[inline(always)]
    unsafe fn dot_i6<const R: usize>(self, w: *const u8, x: *const i8) -> [Self::Wide; R] {
        unsafe {
            let (mask, middle) = (_mm256_set1_epi8(0x30), _mm256_set1_epi8(32));
            let upper = load_pair(w.add(2 * 64));
            let mut sums = [[_mm256_setzero_si256(); 2]; R];
            for oct in 0..2 {
                // The bits of this oct's quads come to their place one after the other.
                let mut upper = if oct == 0 { up_by_four(upper) } else { upper };
                for (quad, low) in nibbles(load_pair(w.add(oct * 64))).into_iter().enumerate() {
                    let mut codes = [_mm256_setzero_si256(); 2];
                    for (half, codes) in codes.iter_mut().enumerate() {
                        let code = _mm256_or_si256(low[half], _mm256_and_si256(upper[half], mask));
                        *codes = _mm256_sub_epi8(code, middle);
                    }
                    upper = [_mm256_srli_epi16::<2>(upper[0]), _mm256_srli_epi16::<2>(upper[1])];
                    let sizes = [_mm256_abs_epi8(codes[0]), _mm256_abs_epi8(codes[1])];
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = broadcast(x.add(r * 32 + oct * 8 + quad * 4));
                        for (half, sum) in sums.iter_mut().enumerate() {
                            let x = _mm256_sign_epi8(x, codes[half]);
                            // Eight products of 32 * 127 fit into 16 bits.
                            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(sizes[half], x));
                        }
                    }
                }
            }
            pairs_to_f32(&sums)
        }
    }
    #[inline(always)]
    unsafe fn dot_e2m1<const R: usize>(self, w: *const u8, x: *const i8) -> [Self::Wide; R] {
        unsafe {
            let numbers = _mm256_broadcastsi128_si256(_mm_loadu_si128(E2M1_DOUBLED.as_ptr().cast()));
            let mut sums = [[_mm256_setzero_si256(); 2]; R];
            for oct in 0..2 {
                for (quad, codes) in nibbles(load_pair(w.add(oct * 64))).into_iter().enumerate() {
                    let numbers =
                        [_mm256_shuffle_epi8(numbers, codes[0]), _mm256_shuffle_epi8(numbers, codes[1])];
                    let sizes = [_mm256_abs_epi8(numbers[0]), _mm256_abs_epi8(numbers[1])];
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = broadcast(x.add(r * 32 + oct * 8 + quad * 4));
                        for (half, sum) in sums.iter_mut().enumerate() {
                            let x = _mm256_sign_epi8(x, numbers[half]);
                            // Eight products of 12 * 127 fit into 16 bits.
                            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(sizes[half], x));
                        }
                    }
                }
            }
            pairs_to_f32(&sums)
        }
    }
}

/// Four bytes in all lanes.
///
/// # Safety
/// 4 bytes; the processor has AVX2.
#[inline(always)]
unsafe fn broadcast(from: *const i8) -> __m256i {
    unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
}

/// 64 bytes.
///
/// # Safety
/// They are there; the processor has AVX2.
#[inline(always)]
unsafe fn load_pair(from: *const u8) -> [__m256i; 2] {
    unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] }
}

/// The low nibbles of each byte, and the high ones.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn nibbles(codes: [__m256i; 2]) -> [[__m256i; 2]; 2] {
    unsafe {
        let mask = _mm256_set1_epi8(15);
        let high = [_mm256_srli_epi16::<4>(codes[0]), _mm256_srli_epi16::<4>(codes[1])];
        [
            [_mm256_and_si256(codes[0], mask), _mm256_and_si256(codes[1], mask)],
            [_mm256_and_si256(high[0], mask), _mm256_and_si256(high[1], mask)],
        ]
    }
}

/// The low nibbles of each byte as the high ones; what becomes of the low ones is nobody's.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn up_by_four(bits: [__m256i; 2]) -> [__m256i; 2] {
    unsafe { [_mm256_slli_epi16::<4>(bits[0]), _mm256_slli_epi16::<4>(bits[1])] }
}

/// Sums of neighbouring 16-bit lanes.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn pairs_to_f32<const R: usize>(sums: &[[__m256i; 2]; R]) -> [[__m256; 2]; R] {
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut found = [[_mm256_setzero_ps(); 2]; R];
        for (found, sums) in found.iter_mut().zip(sums) {
            let wide = [_mm256_madd_epi16(sums[0], ones), _mm256_madd_epi16(sums[1], ones)];
            *found = [_mm256_cvtepi32_ps(wide[0]), _mm256_cvtepi32_ps(wide[1])];
        }
        found
    }
}
