//! Sixteen lanes in one 512-bit register, and sums of four products of bytes: AVX-512 with VNNI (Ice Lake and later,
//! Zen 4 and later). Vectors of eight are those of AVX2.

use std::arch::x86_64::*;

use half::f16;

use super::inner::simd_of_inner;
use super::{Avx2, codes};
use crate::kernels::minifloat::E4M3_FACTOR;
use crate::kernels::simd::{LANES, Simd};
use crate::kernels::tile::{BLOCK, MAX_QUERIES, Tile};

/// Proof that the processor has AVX-512 F, BW, VL and VNNI, and what [`Avx2`] proves.
#[derive(Clone, Copy)]
pub struct Avx512(Avx2);

impl Avx512 {
    pub fn new() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        Avx2::new().filter(|_| has_all).map(Self)
    }

    /// # Safety
    /// [`Avx512::new`] has returned a value on this processor.
    #[inline(always)]
    pub unsafe fn assume() -> Self {
        // SAFETY: the caller's promise is more than what this one asks for.
        Self(unsafe { Avx2::assume() })
    }
}

// SAFETY: AVX2 keeps the promises.
unsafe impl Simd for Avx512 {
    simd_of_inner!();
}

// SAFETY: a value exists only where the features were detected, which is what each intrinsic needs; the loads and
// stores touch exactly the elements that the trait names.
unsafe impl Tile for Avx512 {
    type Wide = __m512;

    const QUERIES: usize = MAX_QUERIES;

    #[inline(always)]
    fn wide_splat(self, value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    fn wide_add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn wide_mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn wide_mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn wide_load(self, from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn wide_store(self, to: *mut f32, value: __m512) {
        unsafe { _mm512_storeu_ps(to, value) }
    }
    #[inline(always)]
    unsafe fn wide_load_f16(self, from: *const f16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn wide_load_u8(self, from: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn wide_load_i8(self, from: *const i8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn wide_load_e4m3(self, from: *const u8) -> __m512 {
        unsafe {
            let codes = _mm256_cvtepu8_epi16(_mm_loadu_si128(from.cast()));
            let sign = _mm256_slli_epi16::<8>(_mm256_and_si256(codes, _mm256_set1_epi16(0x80)));
            let rest = _mm256_slli_epi16::<7>(_mm256_and_si256(codes, _mm256_set1_epi16(0x7f)));
            _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(sign, rest)), _mm512_set1_ps(E4M3_FACTOR))
        }
    }
    #[inline(always)]
    unsafe fn wide_choose(self, numbers: *const f32, words: *const u8, shift: u32) -> __m512 {
        unsafe {
            let codes =
                _mm512_srl_epi32(_mm512_loadu_si512(words.cast()), _mm_cvtsi32_si128(shift.cast_signed()));
            // Only the four lowest bits of an index count.
            _mm512_permutexvar_ps(codes, self.wide_load(numbers))
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        self.0.prefetch(at);
    }
    #[inline(always)]
    unsafe fn dot_i8<const R: usize>(self, w: *const i8, x: *const i8) -> [__m512; R] {
        unsafe {
            let mut sums = Sums::new(x);
            codes::bytes(w, |quad, codes| sums.add_signed(quad, codes));
            sums.to_f32()
        }
    }
    #[inline(always)]
    unsafe fn dot_u4<const R: usize>(self, w: *const u8, x: *const i8) -> [__m512; R] {
        unsafe {
            let mut sums = Sums::new(x);
            codes::fours(w, |quad, codes| sums.add_unsigned(quad, codes));
            sums.to_f32()
        }
    }
    #[inline(always)]
    unsafe fn dot_u5<const R: usize>(self, w: *const u8, x: *const i8) -> [__m512; R] {
        unsafe {
            let mut sums = Sums::new(x);
            codes::fives(w, |quad, codes| sums.add_unsigned(quad, codes));
            sums.to_f32()
        }
    }
    #[inline(always)]
    unsafe fn dot_i6<const R: usize>(self, w: *const u8, x: *const i8) -> [__m512; R] {
        unsafe {
            let mut sums = Sums::new(x);
            codes::sixes(w, |quad, codes| sums.add_signed(quad, codes));
            sums.to_f32()
        }
    }
    #[inline(always)]
    unsafe fn dot_e2m1<const R: usize>(self, w: *const u8, x: *const i8) -> [__m512; R] {
        unsafe {
            let mut sums = Sums::new(x);
            codes::e2m1(w, |quad, codes| sums.add_signed(quad, codes));
            sums.to_f32()
        }
    }
}

/// Sums over quads of four inputs; row r of the activations begins at `x + 32 r`.
struct Sums<const R: usize> {
    sums: [__m512i; R],
    x: *const i8,
}

impl<const R: usize> Sums<R> {
    /// # Safety
    /// `x` has the quads that are added; the processor is as [`Avx512::new`] proves.
    #[inline(always)]
    unsafe fn new(x: *const i8) -> Self {
        Self { sums: [unsafe { _mm512_setzero_si512() }; R], x }
    }

    /// Codes without a sign.
    #[inline(always)]
    fn add_unsigned(&mut self, quad: usize, codes: __m512i) {
        for (r, sum) in self.sums.iter_mut().enumerate() {
            // SAFETY: what `new` was promised.
            *sum = unsafe { _mm512_dpbusd_epi32(*sum, codes, broadcast(self.x.add(r * BLOCK + quad * 4))) };
        }
    }

    /// Codes of -127..=127.
    #[inline(always)]
    fn add_signed(&mut self, quad: usize, codes: __m512i) {
        // SAFETY: what `new` was promised.
        unsafe {
            let codes = Signed::new(codes);
            for (r, sum) in self.sums.iter_mut().enumerate() {
                *sum = codes.dot(*sum, broadcast(self.x.add(r * BLOCK + quad * 4)));
            }
        }
    }

    #[inline(always)]
    fn to_f32(&self) -> [__m512; R] {
        self.sums.map(|sum| unsafe { _mm512_cvtepi32_ps(sum) })
    }
}

/// Codes of -127..=127: one factor of the products must have no sign.
#[derive(Clone, Copy)]
struct Signed {
    sizes: __m512i,
    is_negative: __mmask64,
}

impl Signed {
    /// # Safety
    /// The processor has AVX-512 F and BW.
    #[inline(always)]
    unsafe fn new(codes: __m512i) -> Self {
        unsafe { Self { sizes: _mm512_abs_epi8(codes), is_negative: _mm512_movepi8_mask(codes) } }
    }

    /// `sum` and four products in each lane.
    ///
    /// # Safety
    /// As [`Avx512::new`] proves.
    #[inline(always)]
    unsafe fn dot(self, sum: __m512i, x: __m512i) -> __m512i {
        unsafe {
            let x = _mm512_mask_sub_epi8(x, self.is_negative, _mm512_setzero_si512(), x);
            _mm512_dpbusd_epi32(sum, self.sizes, x)
        }
    }
}

/// Four bytes in all lanes.
///
/// # Safety
/// 4 bytes; the processor has AVX-512 F.
#[inline(always)]
unsafe fn broadcast(from: *const i8) -> __m512i {
    unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
}
