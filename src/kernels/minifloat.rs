//! Floats of eight and four bits: E4M3 and E2M1 with a sign (OCP 8-bit floating point, OCP microscaling
//! formats), and E8M0, a power of two.
//!
//! The first two are bit patterns of f16 moved to its place of the exponent: f16 has room for both, its small
//! numbers included, and differs by a power of two. So vectors convert with the instructions for f16.

use half::f16;

/// What f16's bits of an E4M3 code are multiplied by: the biases of the exponents are 15 and 7.
pub const E4M3_FACTOR: f32 = 256.0;
/// What f16's bits of an E2M1 code are multiplied by: the biases of the exponents are 15 and 1.
pub const E2M1_FACTOR: f32 = 16384.0;

/// Bits of an f16 that is the number divided by [`E4M3_FACTOR`]. 0x7f and 0xff, which are no numbers, give 480.
#[inline(always)]
pub fn e4m3_bits(code: u8) -> u16 {
    let code = u16::from(code);
    (code & 0x80) << 8 | (code & 0x7f) << 7
}

/// Bits of an f16 that is the number divided by [`E2M1_FACTOR`]; only the low four bits of the code count.
#[inline(always)]
pub fn e2m1_bits(code: u8) -> u16 {
    let code = u16::from(code);
    (code & 8) << 12 | (code & 7) << 9
}

/// The number of an E4M3 code.
#[inline(always)]
pub fn e4m3(code: u8) -> f32 {
    f16::from_bits(e4m3_bits(code)).to_f32() * E4M3_FACTOR
}

/// Whether an E4M3 code is no number.
pub fn is_nan_e4m3(code: u8) -> bool {
    code & 0x7f == 0x7f
}

/// The number of an E2M1 code.
pub fn e2m1(code: u8) -> f32 {
    f16::from_bits(e2m1_bits(code)).to_f32() * E2M1_FACTOR
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

    /// By the definition: sign, exponent, fraction.
    fn defined(code: u8, n_fraction: i32, bias: i32, n_bits: i32) -> f32 {
        let sign = if code >> (n_bits - 1) == 1 { -1.0 } else { 1.0 };
        let magnitude = i32::from(code) & ((1 << (n_bits - 1)) - 1);
        let (exponent, fraction) = (magnitude >> n_fraction, magnitude & ((1 << n_fraction) - 1));
        let fraction = fraction as f32 / (1 << n_fraction) as f32;
        let power = |e: i32| 2.0f32.powi(e - bias);
        sign * if exponent == 0 { fraction * power(1) } else { (1.0 + fraction) * power(exponent) }
    }

    #[test]
    fn codes_are_their_definitions() {
        for code in 0..=255 {
            assert_eq!(e4m3(code), defined(code, 3, 7, 8), "{code}");
            assert_eq!(e2m1(code & 15), defined(code & 15, 1, 1, 4), "{code}");
            let power = 2.0f64.powi(i32::from(code) - 127) as f32;
            assert_eq!(e8m0(code), if code == 255 { f32::INFINITY } else { power }, "{code}");
        }
        assert_eq!((e4m3(0x7e), e4m3(0x01), e2m1(7), e2m1(9)), (448.0, 0.001_953_125, 6.0, -0.5));
    }
}
