//! Narrower numbers, where that is what is meant.

/// The nearest f32, as PyTorch and safetensors keep it; an infinity beyond f32's range.
#[expect(clippy::cast_possible_truncation, reason = "rounding is what it is for")]
#[inline]
pub const fn round_to_f32(number: f64) -> f32 {
    number as f32
}

/// The code of a whole number in -128..=127.
#[expect(clippy::cast_possible_truncation, reason = "whoever calls has rounded and clamped it")]
#[inline]
pub fn code_i8(whole: f32) -> i8 {
    whole as i8
}

/// The code of a whole number in 0..=255.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as above")]
#[inline]
pub fn code_u8(whole: f32) -> u8 {
    whole as u8
}
