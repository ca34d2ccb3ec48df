//! Floats of 8 and 4 bits as f32 and back (Open Compute Project, "OCP Microscaling Formats (MX)" 1.0 and "8-bit
//! Floating Point Specification" 1.0).

use super::rounding::code_u8;

/// E4M3: a sign, four bits of exponent with bias 7, three of mantissa; no infinities, 0x7f and 0xff are NaN.
///
/// ```
/// use jetspool::numbers::small_floats::{e4m3, to_e4m3};
///
/// assert_eq!(e4m3(0x7e), 448.0);
/// assert_eq!(e4m3(to_e4m3(0.3)), 0.3125);
/// ```
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

/// Largest finite E4M3.
pub const E4M3_MAX: f32 = 448.0;
/// Largest E2M1.
pub const E2M1_MAX: f32 = 6.0;

/// Nearest E4M3, ties to even; what is too large becomes the largest finite one.
pub fn to_e4m3(value: f32) -> u8 {
    const SMALLEST_NORMAL: f32 = 0.015625;
    const DROPPED_BITS: u32 = 20;
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let size = value.abs().min(E4M3_MAX);
    let code = if size < SMALLEST_NORMAL {
        // 8 of these steps are the smallest normal, whose code is 8.
        small_whole(size * 512.0)
    } else {
        let bits = size.to_bits();
        let is_odd = (bits >> DROPPED_BITS) & 1;
        let rounded = (bits + (1 << (DROPPED_BITS - 1)) - 1 + is_odd) >> DROPPED_BITS;
        // The exponent's bias is 7 instead of 127.
        rounded.saturating_sub(120 << 3).min(0x7e).to_le_bytes()[0]
    };
    sign | code
}

/// Nearest E2M1, ties to the even code; what is too large becomes 6. Bit 3 is the sign.
pub fn to_e2m1(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 8 } else { 0 };
    let code = match value.abs() {
        size if size <= 0.25 => 0,
        size if size < 0.75 => 1,
        size if size <= 1.25 => 2,
        size if size < 1.75 => 3,
        size if size <= 2.5 => 4,
        size if size < 3.5 => 5,
        size if size <= 5.0 => 6,
        _ => 7,
    };
    sign | code
}

/// The smallest power of two that is at least `value`, as an E8M0; 0 gives the smallest one.
pub fn to_e8m0(value: f32) -> u8 {
    let bits = value.abs().to_bits();
    // What lies above a power of two needs the next one. Values below the smallest normal give 2^-126 or 2^-127.
    let above = u32::from(bits & 0x7f_ffff != 0);
    ((bits >> 23) + above).min(254).to_le_bytes()[0]
}

/// A whole number of at most 255.
fn small_whole(value: f32) -> u8 {
    code_u8(value.round_ties_even().clamp(0.0, 255.0))
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

    /// The nearest of all codes by looking at each; of two equally near ones the even code.
    fn nearest(value: f32, codes: std::ops::Range<u8>, decode: fn(u8) -> f32) -> u8 {
        let mut best = codes.start;
        for code in codes {
            let (near, found) = ((decode(best) - value).abs(), (decode(code) - value).abs());
            if found < near || (found == near && code % 2 == 0) {
                best = code;
            }
        }
        best
    }

    #[test]
    fn every_value_goes_to_its_nearest_code() {
        for step in 0..20_000_u16 {
            // Powers and halves are hit exactly, so ties occur.
            for value in [f32::from(step) / 1024.0, f32::from(step) / 37.0] {
                let wanted = nearest(value.min(448.0), 0..0x7f, e4m3);
                assert_eq!(e4m3(to_e4m3(value)), e4m3(wanted), "{value}");
                assert_eq!(e4m3(to_e4m3(-value)), -e4m3(wanted), "-{value}");
                assert_eq!(to_e2m1(value), nearest(value.min(6.0), 0..8, e2m1), "{value}");
            }
        }
        assert_eq!((to_e4m3(1.0), to_e4m3(448.0), to_e4m3(-1e9)), (0x38, 0x7e, 0xfe));
        assert_eq!((e4m3(1), e4m3(8)), (0.001_953_125, 0.015_625));
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
    }

    #[test]
    fn powers_of_two_round_up() {
        for (value, code) in [(1.0, 127), (1.01, 128), (0.5, 126), (0.0, 0), (2.0, 128), (f32::MAX, 254)] {
            assert_eq!(to_e8m0(value), code, "{value}");
        }
        assert_eq!(e8m0(130), 8.0);
    }
}
