//! Weights of a block as bytes: quads of four inputs, each a register with four codes of each of sixteen rows. How they
//! lie is in [`crate::numbers::tiles`].

use std::arch::x86_64::*;

use crate::kernels::tile::E2M1_DOUBLED;

/// Bytes of a register.
const PLANE: usize = 64;

/// Codes of -127..=127 over 32 inputs.
///
/// # Safety
/// 512 bytes; the processor has AVX-512 F.
#[inline(always)]
pub unsafe fn bytes(w: *const i8) -> [__m512i; 8] {
    unsafe {
        let mut quads = [_mm512_setzero_si512(); 8];
        for (quad, codes) in quads.iter_mut().enumerate() {
            *codes = _mm512_loadu_si512(w.add(quad * PLANE).cast());
        }
        quads
    }
}

/// Codes of 0..=15 over 32 inputs.
///
/// # Safety
/// 256 bytes; the processor has AVX-512 F and BW.
#[inline(always)]
pub unsafe fn fours(w: *const u8) -> [__m512i; 8] {
    unsafe {
        let mut quads = [_mm512_setzero_si512(); 8];
        for (oct, codes) in quads.as_chunks_mut().0.iter_mut().enumerate() {
            *codes = nibbles(w.add(oct * PLANE));
        }
        quads
    }
}

/// Codes of 0..=31 over 32 inputs.
///
/// # Safety
/// 320 bytes; the processor has AVX-512 F and BW.
#[inline(always)]
pub unsafe fn fives(w: *const u8) -> [__m512i; 8] {
    unsafe {
        let fifth = _mm512_set1_epi8(16);
        let mut quads = fours(w);
        let bits = _mm512_loadu_si512(w.add(4 * PLANE).cast());
        for (half, quads) in quads.chunks_exact_mut(4).enumerate() {
            // The bits of this half's quads come to the fifth place one after the other.
            let mut bits = if half == 0 { _mm512_slli_epi16::<4>(bits) } else { bits };
            for codes in quads {
                *codes = _mm512_or_si512(*codes, _mm512_and_si512(bits, fifth));
                bits = _mm512_srli_epi16::<1>(bits);
            }
        }
        quads
    }
}

/// Codes of 0..=63 less 32 over 16 inputs.
///
/// # Safety
/// 192 bytes; the processor has AVX-512 F and BW.
#[inline(always)]
pub unsafe fn sixes(w: *const u8) -> [__m512i; 4] {
    unsafe {
        let (mask, middle) = (_mm512_set1_epi8(0x30), _mm512_set1_epi8(32));
        let upper = _mm512_loadu_si512(w.add(2 * PLANE).cast());
        let mut quads = [_mm512_setzero_si512(); 4];
        for (oct, quads) in quads.as_chunks_mut().0.iter_mut().enumerate() {
            // The bits of this oct's quads come to their place one after the other.
            let mut upper = if oct == 0 { _mm512_slli_epi16::<4>(upper) } else { upper };
            *quads = nibbles(w.add(oct * PLANE));
            for codes in quads {
                let code = _mm512_or_si512(*codes, _mm512_and_si512(upper, mask));
                *codes = _mm512_sub_epi8(code, middle);
                upper = _mm512_srli_epi16::<2>(upper);
            }
        }
        quads
    }
}

/// Codes of E2M1 over 16 inputs, as twice their numbers.
///
/// # Safety
/// 128 bytes; the processor has AVX-512 F and BW.
#[inline(always)]
pub unsafe fn e2m1(w: *const u8) -> [__m512i; 4] {
    unsafe {
        let numbers = _mm512_broadcast_i32x4(_mm_loadu_si128(E2M1_DOUBLED.as_ptr().cast()));
        let mut quads = [_mm512_setzero_si512(); 4];
        for (oct, quads) in quads.as_chunks_mut().0.iter_mut().enumerate() {
            *quads = nibbles(w.add(oct * PLANE));
            for codes in quads {
                *codes = _mm512_shuffle_epi8(numbers, *codes);
            }
        }
        quads
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
