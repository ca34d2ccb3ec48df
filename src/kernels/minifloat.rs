//! Floats of eight bits, as [`crate::numbers::small_floats`] defines them, the way vectors convert them.
//!
//! A bit pattern of E4M3 that is moved to f16's place of the exponent is an f16 that differs by a power of two; f16
//! has room for its small numbers too.

use half::f16;

/// What f16's bits of an E4M3 code are multiplied by: the biases of the exponents are 15 and 7.
pub const E4M3_FACTOR: f32 = 256.0;

/// Bits of an f16 that is the number divided by [`E4M3_FACTOR`]. 0x7f and 0xff, which are no numbers, give 480.
#[inline(always)]
pub fn e4m3_bits(code: u8) -> u16 {
    let code = u16::from(code);
    (code & 0x80) << 8 | (code & 0x7f) << 7
}

/// The number of an E4M3 code.
#[inline(always)]
pub fn e4m3(code: u8) -> f32 {
    f16::from_bits(e4m3_bits(code)).to_f32() * E4M3_FACTOR
}

/// `2^(code - 127)`; 255, which is no number, gives infinity.
#[inline(always)]
pub fn e8m0(code: u8) -> f32 {
    // The smallest is below f32's normal numbers.
    const SMALLEST: u32 = 1 << 22;
    f32::from_bits((u32::from(code) << 23).max(SMALLEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tile::E2M1_DOUBLED;
    use crate::numbers::small_floats;

    #[test]
    fn codes_are_their_definitions() {
        for code in 0..=255 {
            if code & 0x7f != 0x7f {
                assert_eq!(e4m3(code), small_floats::e4m3(code), "{code}");
            }
            let doubled = f32::from(E2M1_DOUBLED[usize::from(code & 15)]);
            assert_eq!(doubled, 2.0 * small_floats::e2m1(code), "{code}");
            if code != 255 {
                assert_eq!(e8m0(code), small_floats::e8m0(code), "{code}");
            }
        }
    }
}
