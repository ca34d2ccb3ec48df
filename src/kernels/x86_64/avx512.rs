//! Sixteen lanes in one 512-bit register, and sums of four products of bytes: AVX-512 with VNNI (Ice Lake and later,
//! Zen 4 and later). Vectors of eight are those of AVX2.

use std::arch::x86_64::*;

use half::f16;

use super::Avx2;
use crate::kernels::minifloat::E4M3_FACTOR;
use crate::kernels::simd::{LANES, Simd};
use crate::kernels::tile::{E2M1_DOUBLED, MAX_QUERIES, Tile};

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

/// [`Simd`]'s functions as those of AVX2.
macro_rules! as_avx2 {
    (safe { $($name:ident($($value:ident: $kind:ty),*) -> $result:ty;)* }
     by_pointer { $($of:ident($($at:ident: $at_kind:ty),*) $(-> $found:ty)?;)* }) => {
        $(
            #[inline(always)]
            fn $name(self, $($value: $kind),*) -> $result {
                self.0.$name($($value),*)
            }
        )*
        $(
            #[inline(always)]
            unsafe fn $of(self, $($at: $at_kind),*) $(-> $found)? {
                // SAFETY: the caller's promise.
                unsafe { self.0.$of($($at),*) }
            }
        )*
    };
}

// SAFETY: AVX2 keeps the promises.
unsafe impl Simd for Avx512 {
    type F32 = __m256;

    as_avx2! {
        safe {
            splat(value: f32) -> __m256;
            add(a: __m256, b: __m256) -> __m256;
            sub(a: __m256, b: __m256) -> __m256;
            mul(a: __m256, b: __m256) -> __m256;
            div(a: __m256, b: __m256) -> __m256;
            max(a: __m256, b: __m256) -> __m256;
            min(a: __m256, b: __m256) -> __m256;
            mul_add(a: __m256, b: __m256, c: __m256) -> __m256;
            round(a: __m256) -> __m256;
            exp2_integral(a: __m256) -> __m256;
            to_array(a: __m256) -> [f32; LANES];
            sum(a: __m256) -> f32;
        }
        by_pointer {
            load(from: *const f32) -> __m256;
            store(to: *mut f32, value: __m256);
            load_f16(from: *const f16) -> __m256;
            store_f16(to: *mut f16, value: __m256);
            load_u8(from: *const u8) -> __m256;
            load_i8(from: *const i8) -> __m256;
            load_e4m3(from: *const u8) -> __m256;
            store_i8(to: *mut i8, value: __m256);
        }
    }
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
            let mut sums = [_mm512_setzero_si512(); R];
            for quad in 0..8 {
                let codes = Signed::new(_mm512_loadu_si512(w.add(quad * 64).cast()));
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = codes.dot(*sum, broadcast(x.add(r * 32 + quad * 4)));
                }
            }
            to_f32(&sums)
        }
    }
    #[inline(always)]
    unsafe fn dot_u4<const R: usize>(self, w: *const u8, x: *const i8) -> [__m512; R] {
        unsafe {
            let mut sums = [_mm512_setzero_si512(); R];
            for oct in 0..4 {
                for (quad, codes) in nibbles(w.add(oct * 64)).into_iter().enumerate() {
                    for (r, sum) in sums.iter_mut().enumerate() {
                        let x = broadcast(x.add(r * 32 + oct * 8 + quad * 4));
                        *sum = _mm512_dpbusd_epi32(*sum, codes, x);
                    }
                }
            }
            to_f32(&sums)
        }
    }
    #[inline(always)]
    unsafe fn dot_u5<const R: usize>(self, w: *const u8, x: *const i8) -> [__m512; R] {
        unsafe {
            let fifth = _mm512_set1_epi8(16);
            let upper = _mm512_loadu_si512(w.add(4 * 64).cast());
            let mut sums = [_mm512_setzero_si512(); R];
            for half in 0..2 {
                // The bits of this half's quads come to the fifth place one after the other.
                let mut upper = if half == 0 { _mm512_slli_epi16::<4>(upper) } else { upper };
                for oct in half * 2..half * 2 + 2 {
                    for (quad, low) in nibbles(w.add(oct * 64)).into_iter().enumerate() {
                        let codes = _mm512_or_si512(low, _mm512_and_si512(upper, fifth));
                        upper = _mm512_srli_epi16::<1>(upper);
                        for (r, sum) in sums.iter_mut().enumerate() {
                            let x = broadcast(x.add(r * 32 + oct * 8 + quad * 4));
                            *sum = _mm512_dpbusd_epi32(*sum, codes, x);
                        }
                    }
                }
            }
            to_f32(&sums)
        }
    }
    #[inline(always)]
    unsafe fn dot_i6<const R: usize>(self, w: *const u8, x: *const i8) -> [__m512; R] {
        unsafe {
            let (mask, middle) = (_mm512_set1_epi8(0x30), _mm512_set1_epi8(32));
            let upper = _mm512_loadu_si512(w.add(2 * 64).cast());
            let mut sums = [_mm512_setzero_si512(); R];
            for oct in 0..2 {
                // The bits of this oct's quads come to their place one after the other.
                let mut upper = if oct == 0 { _mm512_slli_epi16::<4>(upper) } else { upper };
                for (quad, low) in nibbles(w.add(oct * 64)).into_iter().enumerate() {
                    let code = _mm512_or_si512(low, _mm512_and_si512(upper, mask));
                    upper = _mm512_srli_epi16::<2>(upper);
                    let codes = Signed::new(_mm512_sub_epi8(code, middle));
                    for (r, sum) in sums.iter_mut().enumerate() {
                        *sum = codes.dot(*sum, broadcast(x.add(r * 32 + oct * 8 + quad * 4)));
                    }
                }
            }
            to_f32(&sums)
        }
    }
    #[inline(always)]
    unsafe fn dot_e2m1<const R: usize>(self, w: *const u8, x: *const i8) -> [__m512; R] {
        unsafe {
            let numbers = _mm512_broadcast_i32x4(_mm_loadu_si128(E2M1_DOUBLED.as_ptr().cast()));
            let mut sums = [_mm512_setzero_si512(); R];
            for oct in 0..2 {
                for (quad, codes) in nibbles(w.add(oct * 64)).into_iter().enumerate() {
                    let codes = Signed::new(_mm512_shuffle_epi8(numbers, codes));
                    for (r, sum) in sums.iter_mut().enumerate() {
                        *sum = codes.dot(*sum, broadcast(x.add(r * 32 + oct * 8 + quad * 4)));
                    }
                }
            }
            to_f32(&sums)
        }
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

/// The low nibbles of 64 bytes, and the high ones.
///
/// # Safety
/// 64 bytes; the processor has AVX-512 F and BW.
#[inline(always)]
unsafe fn nibbles(from: *const u8) -> [__m512i; 2] {
    unsafe {
        let (codes, mask) = (_mm512_loadu_si512(from.cast()), _mm512_set1_epi8(15));
        [_mm512_and_si512(codes, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(codes), mask)]
    }
}

/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn to_f32<const R: usize>(sums: &[__m512i; R]) -> [__m512; R] {
    unsafe {
        let mut found = [_mm512_setzero_ps(); R];
        for (found, sum) in found.iter_mut().zip(sums) {
            *found = _mm512_cvtepi32_ps(*sum);
        }
        found
    }
}
