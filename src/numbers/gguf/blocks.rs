//! Plain numbers, and blocks of 32 with one scale: `w = d * q`, or `w = d * q + m`.
//!
//! Codes of four bits lie as halves of a byte, the first 16 of a block in the low ones. Codes of five have their
//! highest bits in a word of their own. Source: `dequantize_row_q*` of ggml; `gguf.quants` of the Python package.

use half::{bf16, f16};

const HALF: usize = 16;

/// The signed codes of a block whose numbers are `d * code`.
pub type Codes = [i8; 2 * HALF];

pub(super) fn f32(bytes: &[u8], out: &mut [f32]) {
    for (value, four) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*four);
    }
}

pub(super) fn f16(bytes: &[u8], out: &mut [f32]) {
    for (value, two) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = f16::from_le_bytes(*two).to_f32();
    }
}

pub(super) fn bf16(bytes: &[u8], out: &mut [f32]) {
    for (value, two) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = bf16::from_le_bytes(*two).to_f32();
    }
}

/// `d`, 32 signed bytes.
pub(super) fn q8_0(block: &[u8], out: &mut [f32]) {
    scaled(half_at(block, 0), &q8_0_codes(block), out);
}

pub(super) fn q8_0_codes(block: &[u8]) -> Codes {
    std::array::from_fn(|at| block[2 + at].cast_signed())
}

/// `d`, 16 bytes; codes count from -8.
pub(super) fn q4_0(block: &[u8], out: &mut [f32]) {
    scaled(half_at(block, 0), &q4_0_codes(block), out);
}

pub(super) fn q4_0_codes(block: &[u8]) -> Codes {
    std::array::from_fn(|at| nibble(&block[2..], at).cast_signed() - 8)
}

/// `d`, `m`, 16 bytes.
pub(super) fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (at, value) in out.iter_mut().enumerate() {
        *value = d * f32::from(nibble(&block[4..], at)) + m;
    }
}

/// `d`, 32 highest bits, 16 bytes; codes count from -16.
pub(super) fn q5_0(block: &[u8], out: &mut [f32]) {
    scaled(half_at(block, 0), &q5_0_codes(block), out);
}

pub(super) fn q5_0_codes(block: &[u8]) -> Codes {
    std::array::from_fn(|at| five_bits(&block[2..], at).cast_signed() - 16)
}

/// `d`, `m`, 32 highest bits, 16 bytes.
pub(super) fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (at, value) in out.iter_mut().enumerate() {
        *value = d * f32::from(five_bits(&block[4..], at)) + m;
    }
}

/// The f16 at a byte of a block.
pub(super) fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn scaled(d: f32, codes: &Codes, out: &mut [f32]) {
    for (value, code) in out.iter_mut().zip(codes) {
        *value = d * f32::from(*code);
    }
}

/// The four bits of an element.
pub(super) fn nibble(codes: &[u8], at: usize) -> u8 {
    if at < HALF { codes[at] & 15 } else { codes[at - HALF] >> 4 }
}

/// The five bits of an element: four bytes of highest bits, then 16 of the others.
pub(super) fn five_bits(codes: &[u8], at: usize) -> u8 {
    (codes[at / 8] >> (at % 8) & 1) << 4 | nibble(&codes[4..], at)
}
