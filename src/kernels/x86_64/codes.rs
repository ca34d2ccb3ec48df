//! Weights of a block as bytes: quads of four inputs, each a register with four codes of each of sixteen rows. How they
//! lie is in [`crate::numbers::tiles`]. Each quad is given away with its number before the next one is made, so that
//! few registers are taken.

use std::arch::x86_64::*;

use crate::kernels::tile::E2M1_DOUBLED;

/// Bytes of a register.
const PLANE: usize = 64;

/// Codes of -127..=127 over 32 inputs.
///
/// # Safety
/// 512 bytes; the processor has AVX-512 F.
#[inline(always)]
pub unsafe fn bytes(w: *const i8, mut each: impl FnMut(usize, __m512i)) {
    for quad in 0..8 {
        // SAFETY: the caller's promise.
        each(quad, unsafe { _mm512_loadu_si512(w.add(quad * PLANE).cast()) });
    }
}

/// Codes of 0..=15 over 32 inputs.
///
/// # Safety
/// 256 bytes; the processor has AVX-512 F and BW.
#[inline(always)]
pub unsafe fn fours(w: *const u8, mut each: impl FnMut(usize, __m512i)) {
    for oct in 0..4 {
        // SAFETY: the caller's promise.
        for (quad, codes) in unsafe { nibbles(w.add(oct * PLANE)) }.into_iter().enumerate() {
            each(oct * 2 + quad, codes);
        }
    }
}

/// Codes of 0..=31 over 32 inputs.
///
/// # Safety
/// 320 bytes; the processor has AVX-512 F and BW.
#[inline(always)]
pub unsafe fn fives(w: *const u8, mut each: impl FnMut(usize, __m512i)) {
    // SAFETY: the caller's promise.
    unsafe {
        let fifth = _mm512_set1_epi8(16);
        let upper = _mm512_loadu_si512(w.add(4 * PLANE).cast());
        for half in 0..2 {
            // The bits of this half's quads come to the fifth place one after the other.
            let mut upper = if half == 0 { _mm512_slli_epi16::<4>(upper) } else { upper };
            for oct in half * 2..half * 2 + 2 {
                for (quad, low) in nibbles(w.add(oct * PLANE)).into_iter().enumerate() {
                    each(oct * 2 + quad, _mm512_or_si512(low, _mm512_and_si512(upper, fifth)));
                    upper = _mm512_srli_epi16::<1>(upper);
                }
            }
        }
    }
}

/// Codes of 0..=63 less 32 over 16 inputs.
///
/// # Safety
/// 192 bytes; the processor has AVX-512 F and BW.
#[inline(always)]
pub unsafe fn sixes(w: *const u8, mut each: impl FnMut(usize, __m512i)) {
    // SAFETY: the caller's promise.
    unsafe {
        let (mask, middle) = (_mm512_set1_epi8(0x30), _mm512_set1_epi8(32));
        let upper = _mm512_loadu_si512(w.add(2 * PLANE).cast());
        for oct in 0..2 {
            // The bits of this oct's quads come to their place one after the other.
            let mut upper = if oct == 0 { _mm512_slli_epi16::<4>(upper) } else { upper };
            for (quad, low) in nibbles(w.add(oct * PLANE)).into_iter().enumerate() {
                let code = _mm512_or_si512(low, _mm512_and_si512(upper, mask));
                upper = _mm512_srli_epi16::<2>(upper);
                each(oct * 2 + quad, _mm512_sub_epi8(code, middle));
            }
        }
    }
}

/// Codes of E2M1 over 16 inputs, as twice their numbers.
///
/// # Safety
/// 128 bytes; the processor has AVX-512 F and BW.
#[inline(always)]
pub unsafe fn e2m1(w: *const u8, mut each: impl FnMut(usize, __m512i)) {
    // SAFETY: the caller's promise.
    unsafe {
        let numbers = _mm512_broadcast_i32x4(_mm_loadu_si128(E2M1_DOUBLED.as_ptr().cast()));
        for oct in 0..2 {
            for (quad, codes) in nibbles(w.add(oct * PLANE)).into_iter().enumerate() {
                each(oct * 2 + quad, _mm512_shuffle_epi8(numbers, codes));
            }
        }
    }
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
