//! Floats of 8 and 4 bits as f32 (Open Compute Project, "OCP Microscaling Formats (MX)" 1.0 and "8-bit
//! Floating Point Specification" 1.0).

/// E4M3: a sign, four bits of exponent with bias 7, three of mantissa; no infinities, 0x7f and 0xff are NaN.
pub fn e4m3(bits: u8) -> f32 {
    let magnitude = bits & 0x7f;
    let (exponent, mantissa) = (i32::from(magnitude >> 3), f32::from(magnitude & 7));
    let value = match (magnitude, exponent) {
        (0x7f, _) => f32::NAN,
        (_, 0) => mantissa * power_of_two(-9),
        _ => (8.0 + mantissa) * power_of_two(exponent - 10),
    };
    if bits & 0x80 == 0 { value } else { -value }
}

/// E2M1, in the low four bits: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
pub fn e2m1(bits: u8) -> f32 {
    const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let magnitude = MAGNITUDES[usize::from(bits & 7)];
    if bits & 8 == 0 { magnitude } else { -magnitude }
}

/// E8M0: a power of two with bias 127; 0xff is NaN.
pub fn e8m0(bits: u8) -> f32 {
    if bits == 0xff { f32::NAN } else { power_of_two(i32::from(bits) - 127) }
}

/// 2 to a power from -127 to 127.
fn power_of_two(power: i32) -> f32 {
    match u32::try_from(power + 127) {
        Ok(0) | Err(_) => f32::from_bits(1 << 22),
        Ok(exponent) => f32::from_bits(exponent << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the tables of the two specifications.
    #[test]
    fn values_are_those_of_the_specifications() {
        let cases: [(u8, f32); 9] = [
            (0x00, 0.0),
            (0x01, 0.001_953_125),
            (0x07, 0.013_671_875),
            (0x08, 0.015_625),
            (0x38, 1.0),
            (0x3c, 1.5),
            (0x7e, 448.0),
            (0xfe, -448.0),
            (0xb8, -1.0),
        ];
        for (bits, value) in cases {
            assert_eq!(e4m3(bits), value, "{bits:#x}");
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        assert_eq!((0..16).map(e2m1).fold(0.0, |sum, value| sum + value), 0.0);
        assert_eq!((e2m1(1), e2m1(7), e2m1(13)), (0.5, 6.0, -3.0));
        assert_eq!((e8m0(127), e8m0(128), e8m0(0)), (1.0, 2.0, f32::from_bits(1 << 22)));
        assert_eq!(e8m0(254), 2.0_f32.powi(127));
        assert!(e8m0(0xff).is_nan());
    }
}
