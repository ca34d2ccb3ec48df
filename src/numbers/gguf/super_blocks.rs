//! Blocks of 256 whose parts have scales in few bits: `w = (d * scale) * q - (dmin * minimum)`, and Q6_K without
//! minima.
//!
//! Source: `dequantize_row_q*_K` of ggml; `gguf.quants` of the Python package.

use super::blocks::half_at;

/// Elements of a part of Q4_K and Q5_K; of Q6_K it is half of that.
const PART: usize = 32;

/// `d`, `dmin`, 12 bytes of scales and minima, 128 bytes: each 32 bytes hold two parts, the first in the low halves.
pub(super) fn q4_k(block: &[u8], out: &mut [f32]) {
    with_minima(block, out, q4_k_code);
}

pub(super) fn q4_k_code(block: &[u8], at: usize) -> u8 {
    nibble(&block[16..], at)
}

/// As Q4_K, with the codes' highest bits in 32 bytes before them: bit `part` of byte `at`.
pub(super) fn q5_k(block: &[u8], out: &mut [f32]) {
    with_minima(block, out, q5_k_code);
}

pub(super) fn q5_k_code(block: &[u8], at: usize) -> u8 {
    nibble(&block[48..], at) | (block[16 + at % PART] >> (at / PART) & 1) << 4
}

/// 128 bytes of low halves, 64 of the two highest bits, 16 signed scales, `d`; codes count from -32.
pub(super) fn q6_k(block: &[u8], out: &mut [f32]) {
    let (scales, d) = (&block[192..], half_at(block, 208));
    for (at, value) in out.iter_mut().enumerate() {
        let scale = d * f32::from(scales[at / 16].cast_signed());
        *value = scale * (f32::from(q6_k_code(block, at)) - 32.0);
    }
}

pub(super) fn q6_k_code(block: &[u8], at: usize) -> u8 {
    let (low, high) = block.split_at(128);
    let (half, inner) = (at / 128, at % 128);
    let code = low[half * 64 + inner % 64] >> (inner / 64 * 4) & 15;
    let top = high[half * 32 + inner % 32] >> (inner / 32 * 2) & 3;
    top << 4 | code
}

fn with_minima(block: &[u8], out: &mut [f32], code: fn(&[u8], usize) -> u8) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (part, values) in out.chunks_exact_mut(PART).enumerate() {
        let (scale, minimum) = scale_and_minimum(&block[4..16], part);
        let (scale, minimum) = (d * f32::from(scale), dmin * f32::from(minimum));
        for (at, value) in values.iter_mut().enumerate() {
            *value = scale * f32::from(code(block, part * PART + at)) - minimum;
        }
    }
}

/// Six bits each. Those of the first four parts are the low bits of bytes 0 to 7; those of the others have four bits
/// in bytes 8 to 11 and two at the top of bytes 0 to 7.
pub(super) fn scale_and_minimum(packed: &[u8], part: usize) -> (u8, u8) {
    if part < 4 {
        return (packed[part] & 63, packed[part + 4] & 63);
    }
    let (low, scale_top, minimum_top) = (packed[part + 4], packed[part - 4], packed[part]);
    (low & 15 | scale_top >> 2 & 48, low >> 4 | minimum_top >> 2 & 48)
}

fn nibble(codes: &[u8], at: usize) -> u8 {
    let part = at / PART;
    codes[part / 2 * PART + at % PART] >> (part % 2 * 4) & 15
}
