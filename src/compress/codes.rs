//! One row of f32 to the codes and scales of each method.

use super::int4::{Search, code_of, scale_of};
use super::method::Method;
use super::packed_row::PackedRow;
use crate::numbers::code_i8;
use crate::numbers::feedback::Feedback;
use crate::numbers::small_floats::{E2M1_MAX, E4M3_MAX, to_e2m1, to_e4m3, to_e8m0};
use crate::numbers::small_floats::{e4m3, e8m0};

/// E4M3 of `w / scale`.
pub fn code_e4m3(row: &[f32], scale: f32) -> PackedRow {
    PackedRow { codes: row.iter().map(|w| to_e4m3(w / scale)).collect(), scales: Vec::new() }
}

/// The largest magnitude of the row becomes 127.
pub fn code_int8(row: &[f32]) -> PackedRow {
    let scale = nonzero(largest(row) / 127.0);
    let code = |w: &f32| (w / scale).round_ties_even().clamp(-127.0, 127.0);
    let codes = row.iter().map(|w| code_i8(code(w)).cast_unsigned()).collect();
    PackedRow { codes, scales: scale.to_le_bytes().to_vec() }
}

/// One nibble in each byte, two's complement. `feedback` holds one for each group, or none at all.
pub fn code_int4(
    row: &[f32],
    group: usize,
    importance: &[f32],
    search: Search,
    feedback: &[Option<Feedback>],
) -> PackedRow {
    let mut packed = PackedRow::default();
    for (group_idx, (values, importance)) in row.chunks(group).zip(importance.chunks(group)).enumerate() {
        let scale = scale_of(values, importance, search);
        let codes = match feedback.get(group_idx).and_then(Option::as_ref) {
            Some(feedback) => feedback.codes(values, |_, w| {
                let code = code_of(w, scale);
                (code, code * scale)
            }),
            None => values.iter().map(|w| code_of(*w, scale)).collect(),
        };
        packed.codes.extend(codes.iter().map(|code| code_i8(*code).cast_unsigned() & 15));
        packed.scales.extend(scale.to_le_bytes());
    }
    packed
}

/// Two E2M1 in each byte, the even column low; a block's largest magnitude becomes 6.
pub fn code_nvfp4(row: &[f32], matrix_scale: f32) -> PackedRow {
    let block = Method::Nvfp4.block().unwrap_or(row.len());
    let mut packed = PackedRow::default();
    for values in row.chunks(block) {
        let wanted = largest(values) / (E2M1_MAX * matrix_scale);
        // A scale of 0 would lose the block; the smallest above it is code 1.
        let code = if wanted > 0.0 { to_e4m3(wanted).max(1) } else { to_e4m3(1.0) };
        let scale = e4m3(code) * matrix_scale;
        let nibbles = values.as_chunks::<2>().0.iter();
        packed.codes.extend(nibbles.map(|[even, odd]| to_e2m1(even / scale) | to_e2m1(odd / scale) << 4));
        packed.scales.push(code);
    }
    packed
}

/// The smallest power of two with which a block's largest magnitude is at most 448.
pub fn code_mxfp8(row: &[f32]) -> PackedRow {
    let block = Method::Mxfp8.block().unwrap_or(row.len());
    let mut packed = PackedRow::default();
    for values in row.chunks(block) {
        let code = to_e8m0(largest(values) / E4M3_MAX);
        let scale = e8m0(code);
        packed.codes.extend(values.iter().map(|w| to_e4m3(w / scale)));
        packed.scales.push(code);
    }
    packed
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, w| most.max(w.abs()))
}

fn nonzero(scale: f32) -> f32 {
    if scale > 0.0 { scale } else { 1.0 }
}
