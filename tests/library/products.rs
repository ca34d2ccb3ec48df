//! Products of activations and weights: every table equals scalar bit for bit, and a naive sum within rounding, for
//! every kind of storage. Tiles are woven here once more, by the formula of the format.

use crate::support::panels::{Panels, matmul};
use crate::support::random::Random;
use crate::support::tables;
use half::f16;
use jetspool::kernels::Kernels;
use jetspool::kernels::activations::code_groups;
use jetspool::kernels::lora::{ExpandTask, PART_INPUTS, ShrinkTask};
use jetspool::kernels::matrix::{GroupScales, Matrix, Partner, Values, row_stride};

/// `[n, width]` to `[tiles][unit][16][size]`, filled up with zeros.
pub fn woven<E: Copy + Default>(rows: &[E], width: usize, size: usize) -> Vec<E> {
    let n_rows = rows.len() / width;
    let mut tiles = vec![E::default(); n_rows.next_multiple_of(16) * width];
    for (i, element) in rows.iter().enumerate() {
        let (row, k) = (i / width, i % width);
        tiles[row / 16 * 16 * width + (k / size * 16 + row % 16) * size + k % size] = *element;
    }
    tiles
}

/// Codes of four bits: of eight inputs the first four low.
fn woven_nibbles(codes: &[u8], width: usize) -> Vec<u8> {
    let pairs: Vec<u8> =
        codes.chunks_exact(8).flat_map(|oct| (0..4).map(|i| oct[i] | oct[i + 4] << 4)).collect();
    woven(&pairs, width / 2, 4)
}

/// An eight-bit float by its definition: sign, four bits of exponent, three of fraction.
fn e4m3(code: u8) -> f64 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f64::from(code & 7) / 8.0);
    let magnitude = match exponent {
        0 => fraction / 64.0,
        _ => (1.0 + fraction) * 2f64.powi(exponent - 7),
    };
    if code < 128 { magnitude } else { -magnitude }
}

/// A matrix of one kind, in tiles, with its weights.
#[derive(Default)]
struct Stored {
    name: &'static str,
    f32: Vec<f32>,
    f16: Vec<f16>,
    i8: Vec<i8>,
    u8: Vec<u8>,
    row_scale: Vec<f32>,
    group_scale: Vec<f16>,
    wide_scale: Vec<f32>,
    zero: Vec<u8>,
    wide_zero: Vec<f32>,
    byte_scale: Vec<u8>,
    levels: Vec<f32>,
    group: usize,
    /// `[n_rows, stride]`
    weights: Vec<f64>,
    n_rows: usize,
    stride: usize,
}

const KINDS: [&str; 15] = [
    "f32",
    "f16",
    "i8",
    "i8 groups",
    "i8 zeros",
    "i4",
    "i4 wide",
    "i4 zeros",
    "i4 both",
    "affine",
    "fp8",
    "fp8 groups",
    "mxfp8",
    "nvfp4",
    "levels",
];

impl Stored {
    fn all(numbers: &mut Random, n_rows: usize, width: usize) -> Vec<Stored> {
        KINDS.into_iter().map(|name| Stored::new(name, numbers, n_rows, width)).collect()
    }

    fn new(name: &'static str, numbers: &mut Random, n_rows: usize, width: usize) -> Stored {
        let stride = row_stride(width);
        let n = n_rows * stride;
        let group = [128, 64, 32].into_iter().find(|&group| stride.is_multiple_of(group)).unwrap();
        let mut stored = Stored { name, group, n_rows, stride, ..Stored::default() };
        let values: Vec<f32> =
            (0..n).map(|i| if i % stride < width { numbers.float() } else { 0.0 }).collect();
        let codes: Vec<u8> = (0..n).map(|_| numbers.byte_below(256)).collect();
        let floats: Vec<u8> = codes.iter().map(|&c| if c & 127 == 127 { 0x31 } else { c }).collect();
        let nibbles: Vec<u8> = codes.iter().map(|code| code & 15).collect();
        let rows = numbers.floats(n_rows);
        let groups = numbers.floats(n / group);
        let zeros: Vec<u8> = (0..n / group).map(|_| numbers.byte_below(17)).collect();
        // Of signed codes: -128..=128.
        let signed_zeros: Vec<f32> = (0..n / group).map(|_| numbers.below(257) as f32 - 128.0).collect();
        let of_16: Vec<u8> = (0..n / 16).map(|i| floats[i * 16]).collect();
        let exponents: Vec<u8> = (0..n / 32).map(|_| 110 + numbers.byte_below(20)).collect();
        // Scale and minimum of each block of 32, factor and factor of the minimum of each row.
        let lines: Vec<u8> = (0..n / 16).map(|_| numbers.byte_below(256)).collect();
        let factors = numbers.floats(n_rows * 2);
        stored.levels = numbers.floats(16);
        stored.row_scale = if name == "affine" { woven(&factors, 2, 1) } else { woven(&rows, 1, 1) };
        let row_scale = |i: usize| f64::from(rows[i / stride]);
        stored.weights = (0..n)
            .map(|i| match name {
                "f32" => f64::from(values[i]),
                "f16" => f16::from_f32(values[i]).to_f64(),
                "i8" => f64::from(codes[i].cast_signed().max(-127)) * row_scale(i),
                "i8 groups" => f64::from(codes[i].cast_signed()) * f64::from(groups[i / group]),
                "i8 zeros" => {
                    let code = f64::from(codes[i].cast_signed());
                    (code - f64::from(signed_zeros[i / group])) * f64::from(groups[i / group])
                }
                "fp8 groups" => e4m3(floats[i]) * f64::from(groups[i / group]),
                "levels" => f64::from(stored.levels[usize::from(nibbles[i])]) * f64::from(groups[i / group]),
                "affine" => {
                    let [scale, minimum] = [0, 1].map(|j| f64::from(lines[i / 32 * 2 + j]));
                    let [factor, of_minimum] = [0, 1].map(|j| f64::from(factors[i / stride * 2 + j]));
                    factor * (scale * f64::from(nibbles[i]) - of_minimum * minimum)
                }
                "fp8" => e4m3(floats[i]) * row_scale(i),
                "mxfp8" => e4m3(floats[i]) * 2f64.powi(i32::from(exponents[i / 32]) - 127),
                "nvfp4" => {
                    let e2m1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(nibbles[i] & 7)];
                    let sign = if nibbles[i] < 8 { 1.0 } else { -1.0 };
                    sign * e2m1 * e4m3(of_16[i / 16]) * row_scale(i)
                }
                _ => {
                    let is_wide = matches!(name, "i4 wide" | "i4 both");
                    let scale = groups[i / group];
                    let scale = if is_wide { f64::from(scale) } else { f16::from_f32(scale).to_f64() };
                    let has_zeros = matches!(name, "i4 zeros" | "i4 both");
                    let zero = if has_zeros { f64::from(zeros[i / group]) } else { 8.0 };
                    (f64::from(nibbles[i]) - zero) * scale
                }
            })
            .collect();
        match name {
            "f32" => stored.f32 = woven(&values, stride, 1),
            "f16" => {
                let halves: Vec<f16> = values.iter().map(|&x| f16::from_f32(x)).collect();
                stored.f16 = woven(&halves, stride, 1);
            }
            "i8" => {
                let codes: Vec<i8> = codes.iter().map(|code| code.cast_signed().max(-127)).collect();
                stored.i8 = woven(&codes, stride, 4);
            }
            "i8 groups" | "i8 zeros" => {
                let codes: Vec<i8> = codes.iter().map(|code| code.cast_signed()).collect();
                stored.i8 = woven(&codes, stride, 4);
                stored.wide_scale = woven(&groups, stride / group, 1);
                stored.wide_zero = woven(&signed_zeros, stride / group, 1);
            }
            "fp8 groups" => {
                (stored.u8, stored.wide_scale) =
                    (woven(&floats, stride, 1), woven(&groups, stride / group, 1));
            }
            "affine" => {
                (stored.u8, stored.byte_scale) =
                    (woven_nibbles(&nibbles, stride), woven(&lines, stride / 16, 1));
            }
            "fp8" => stored.u8 = woven(&floats, stride, 1),
            "mxfp8" => {
                (stored.u8, stored.byte_scale) =
                    (woven(&floats, stride, 1), woven(&exponents, stride / 32, 1));
            }
            "nvfp4" => {
                (stored.u8, stored.byte_scale) =
                    (woven_nibbles(&nibbles, stride), woven(&of_16, stride / 16, 1));
            }
            _ => {
                stored.u8 = woven_nibbles(&nibbles, stride);
                let halves: Vec<f16> = groups.iter().map(|&x| f16::from_f32(x)).collect();
                stored.group_scale = woven(&halves, stride / group, 1);
                stored.wide_scale = woven(&groups, stride / group, 1);
                stored.zero = woven(&zeros, stride / group, 1);
            }
        }
        stored
    }

    fn matrix(&self) -> Matrix<'_> {
        let group = self.group;
        let narrow = GroupScales::F16(&self.group_scale);
        let wide = GroupScales::F32(&self.wide_scale);
        let zero = Some(&self.zero[..]);
        let q = &self.u8[..];
        let values = match self.name {
            "f32" => Values::F32(&self.f32),
            "f16" => Values::F16(&self.f16),
            "i8" => Values::I8 { q: &self.i8, scale: &self.row_scale },
            "i8 groups" => Values::I8Groups { q: &self.i8, scale: &self.wide_scale, zero: None, group },
            "i8 zeros" => {
                let zero = Some(&self.wide_zero[..]);
                Values::I8Groups { q: &self.i8, scale: &self.wide_scale, zero, group }
            }
            "i4" => Values::I4 { q, scale: narrow, zero: None, group },
            "i4 wide" => Values::I4 { q, scale: wide, zero: None, group },
            "i4 zeros" => Values::I4 { q, scale: narrow, zero, group },
            "i4 both" => Values::I4 { q, scale: wide, zero, group },
            "affine" => Values::Affine { q, scale: &self.byte_scale, factor: &self.row_scale },
            "fp8" => Values::Fp8 { q, scale: &self.row_scale },
            "fp8 groups" => Values::Fp8Groups { q, scale: &self.wide_scale, group },
            "levels" => Values::Levels { q, levels: &self.levels, scale: &self.wide_scale, group },
            "mxfp8" => Values::Mxfp8 { q, scale: &self.byte_scale },
            _ => Values::Nvfp4 { q, scale: &self.byte_scale, row_scale: &self.row_scale },
        };
        Matrix::new(values, self.n_rows, self.stride).unwrap()
    }
}

/// Rows of `width` values, zero up to the stride; of very different sizes, some blocks of zeros.
pub fn padded_rows(numbers: &mut Random, n_rows: usize, width: usize) -> Vec<f32> {
    let stride = row_stride(width);
    let mut rows = vec![0.0; n_rows * stride];
    for row in rows.chunks_exact_mut(stride) {
        for block in row[..width].chunks_mut(32) {
            let size = [1.0, 1e-3, 100.0, 0.0, 1e-36][numbers.below(5)];
            block.iter_mut().for_each(|x| *x = numbers.float() * size);
        }
    }
    rows
}

/// What a row becomes before it meets the matrix: the rule of kernels/activations.rs in f64.
pub fn rounded(x: &[f32], partner: Partner) -> Vec<f64> {
    let block = |block: &[f32]| -> Vec<f64> {
        let largest = block.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        if partner == Partner::F32 || largest < 1e-30 {
            return block.iter().map(|x| if partner == Partner::F32 { f64::from(*x) } else { 0.0 }).collect();
        }
        let inverse = 127.0 / largest;
        let scale = f64::from(largest / 127.0);
        block.iter().map(|x| f64::from((x * inverse).round_ties_even()) * scale).collect()
    };
    x.chunks_exact(32).flat_map(block).collect()
}

#[test]
fn products_equal_scalar_and_a_naive_sum() {
    let mut numbers = Random(1);
    let scalar = Kernels::scalar();
    for n_rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 18, 35] {
        for (n_outputs, width) in
            [(1, 1), (2, 31), (16, 32), (15, 33), (17, 72), (32, 100), (33, 128), (50, 257)]
        {
            let x = padded_rows(&mut numbers, n_rows, width);
            let bias = numbers.floats(n_outputs);
            for (i, stored) in Stored::all(&mut numbers, n_outputs, width).iter().enumerate() {
                let place = format!("{} rows {n_rows} [{n_outputs}, {width}]", stored.name);
                let bias = (i % 2 == 0).then_some(&bias[..]);
                let wanted = matmul(&scalar, &x, stored.matrix(), bias);
                for kernels in tables() {
                    let found = matmul(&kernels, &x, stored.matrix(), bias);
                    assert_eq!(found, wanted, "{place} {}", kernels.name);
                }
                let x = rounded(&x, stored.matrix().partner());
                for (i, &found) in wanted.iter().enumerate() {
                    let (row, column) = (i / n_outputs, i % n_outputs);
                    let products = x[row * stored.stride..][..stored.stride]
                        .iter()
                        .zip(&stored.weights[column * stored.stride..][..stored.stride])
                        .map(|(&x, w)| x * w);
                    let (sum, size) = products.fold((0.0, 0.0), |(s, a), p: f64| (s + p, a + p.abs()));
                    let sum = sum + bias.map_or(0.0, |bias| f64::from(bias[column]));
                    assert!(
                        (f64::from(found) - sum).abs() <= 1e-6 * (size + 1.0),
                        "{place} at {i}: {found}, wanted {sum}"
                    );
                }
            }
        }
    }
}

/// Groups of every size, alone and behind others; with several pieces of the inputs, and more groups than wait at once.
#[test]
fn rows_in_groups_of_every_size_equal_scalar() {
    let mut numbers = Random(9);
    let scalar = Kernels::scalar();
    for (n_rows, width) in (1..=40).map(|n_rows| (n_rows, 90)).chain([(20, 1200), (83, 540)]) {
        let x = padded_rows(&mut numbers, n_rows, width);
        for stored in Stored::all(&mut numbers, 18, width) {
            let wanted = matmul(&scalar, &x, stored.matrix(), None);
            for kernels in tables() {
                let found = matmul(&kernels, &x, stored.matrix(), None);
                assert_eq!(found, wanted, "{} rows {n_rows} width {width} {}", stored.name, kernels.name);
            }
        }
    }
}

#[test]
fn codes_of_activations_are_as_near_as_they_can_be() {
    let mut numbers = Random(8);
    for n_rows in [1, 2, 3, 4, 6, 21] {
        let stride = 96;
        let x = padded_rows(&mut numbers, n_rows, stride);
        for kernels in tables() {
            let panels = Panels::new(&kernels, &x, stride);
            for rows in code_groups(0..n_rows, kernels.code_rows) {
                for (row, block) in rows.clone().flat_map(|row| (0..3).map(move |block| (row, block))) {
                    let place = rows.start * 3 + block * rows.len() + row - rows.start;
                    let codes = &panels.codes[place * 32..][..32];
                    let values = &x[row * stride + block * 32..][..32];
                    let largest = values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                    let scale = panels.scale[place];
                    assert!(
                        largest < 1e-30 && scale == 0.0 || (scale - largest / 127.0).abs() <= scale * 1e-6
                    );
                    for (code, value) in codes.iter().zip(values) {
                        let error = (f32::from(*code) * scale - value).abs();
                        assert!(error <= 0.501 * scale.max(2e-32), "{} {code} {value}", kernels.name);
                    }
                    let sum: i32 = codes.iter().map(|code| i32::from(*code)).sum();
                    assert_eq!(panels.sum[place], sum as f32);
                    assert!(scale == 0.0 || codes.iter().any(|code| code.unsigned_abs() == 127));
                }
            }
        }
    }
}

/// The largest sums that codes can give do not overflow anywhere.
#[test]
fn extreme_codes_are_summed_exactly() {
    let stride = 64;
    for (weight, activation) in [(127_i8, 1.0), (-127, 1.0), (127, -1.0)] {
        let q = vec![weight; 16 * stride];
        let scale = vec![1.0; 16];
        let x = vec![activation; stride];
        let eight = Matrix::new(Values::I8 { q: &q, scale: &scale }, 16, stride).unwrap();
        let nibbles = vec![0xff; 16 * stride / 2];
        let groups = vec![1.0; 16 * 2];
        let values = Values::I4 { q: &nibbles, scale: GroupScales::F32(&groups), zero: None, group: 32 };
        let four = Matrix::new(values, 16, stride).unwrap();
        let numbers = vec![0x77; 16 * stride / 2];
        let (ones, rows) = (vec![0x38; 16 * 4], vec![1.0; 16]);
        let values = Values::Nvfp4 { q: &numbers, scale: &ones, row_scale: &rows };
        let floats = Matrix::new(values, 16, stride).unwrap();
        for kernels in tables() {
            for (matrix, weight) in [(eight, f64::from(weight)), (four, 7.0), (floats, 6.0)] {
                let wanted = f64::from(activation) * weight * stride as f64;
                for y in matmul(&kernels, &x, matrix, None) {
                    assert!(
                        (f64::from(y) - wanted).abs() <= wanted.abs() * 1e-6,
                        "{} {y} {wanted}",
                        kernels.name
                    );
                }
            }
        }
    }
}

#[test]
fn a_row_of_a_product_does_not_depend_on_the_other_rows() {
    let best = tables()[0];
    let mut numbers = Random(2);
    let (n_rows, n_outputs, width) = (23, 21, 200);
    let x = padded_rows(&mut numbers, n_rows, width);
    for stored in Stored::all(&mut numbers, n_outputs, width) {
        let together = matmul(&best, &x, stored.matrix(), None);
        for row in 0..n_rows {
            let alone = matmul(&best, &x[row * stored.stride..][..stored.stride], stored.matrix(), None);
            assert_eq!(together[row * n_outputs..][..n_outputs], alone, "{} row {row}", stored.name);
        }
    }
}

#[test]
fn tiles_of_a_matrix_are_a_matrix_of_their_rows() {
    let best = tables()[0];
    let mut numbers = Random(7);
    let (n_outputs, width) = (48, 100);
    let x = padded_rows(&mut numbers, 6, width);
    for stored in Stored::all(&mut numbers, n_outputs, width) {
        let whole = matmul(&best, &x, stored.matrix(), None);
        for (tiles, n_rows) in [(0..3, 48), (1..2, 16), (1..3, 20)] {
            let rows = tiles.start * 16..tiles.start * 16 + n_rows;
            let part = matmul(&best, &x, stored.matrix().part(tiles, n_rows), None);
            for (part, whole) in part.chunks_exact(n_rows).zip(whole.chunks_exact(n_outputs)) {
                assert_eq!(part, &whole[rows.clone()], "{} {rows:?}", stored.name);
            }
        }
    }
}

#[test]
fn rows_that_are_read_are_the_weights() {
    let mut numbers = Random(3);
    for stored in Stored::all(&mut numbers, 21, 70) {
        for row in 0..21 {
            let mut out = vec![f32::NAN; stored.stride];
            stored.matrix().read_row(row, &mut out);
            for (found, wanted) in out.iter().zip(&stored.weights[row * stored.stride..]) {
                let error = (f64::from(*found) - wanted).abs();
                // Codes times scales, of which minima are taken off.
                let size = if stored.name == "affine" { 15.0 * 255.0 } else { 1.0 };
                assert!(error <= 1e-6 * (size + wanted.abs()), "{} {found} {wanted}", stored.name);
            }
        }
    }
}

#[test]
fn lora_equals_scalar_and_a_naive_product() {
    let mut numbers = Random(4);
    let halves = |numbers: &mut Random, n: usize| -> Vec<f16> {
        numbers.floats(n).into_iter().map(f16::from_f32).collect()
    };
    for (n_rows, rank) in [(1, 1), (2, 2), (3, 7), (4, 8), (1, 9), (2, 16), (3, 33), (4, 48), (1, 64)] {
        for (n_inputs, n_outputs) in [(1, 1), (3, 9), (72, 100), (64, 17), (PART_INPUTS + 7, 64)] {
            let (x_stride, y_stride) = (n_inputs + 3, n_outputs + 5);
            let x = numbers.floats(n_rows * x_stride);
            let (a, b) = (halves(&mut numbers, n_inputs * rank), halves(&mut numbers, rank * n_outputs));
            let start = numbers.floats(n_rows * y_stride);
            let run = |kernels: &Kernels| {
                let (mut h, mut y) = (vec![0.0; n_rows * rank], start.clone());
                for first in (0..n_inputs).step_by(PART_INPUTS) {
                    let mut part = vec![f32::NAN; n_rows * rank];
                    let inputs = first..n_inputs.min(first + PART_INPUTS);
                    let mut task = ShrinkTask { x: &x, x_stride, n_rows, a: &a, rank, inputs, h: &mut part };
                    unsafe { (kernels.lora_shrink)(&mut task) };
                    h.iter_mut().zip(&part).for_each(|(sum, part)| *sum += part);
                }
                let middle = n_outputs / 2;
                for columns in [0..middle, middle..n_outputs] {
                    let y = unsafe { y.as_mut_ptr().add(columns.start) };
                    let task = ExpandTask { h: &h, n_rows, b: &b, rank, columns, y, y_stride };
                    unsafe { (kernels.lora_expand)(&task) };
                }
                y
            };
            let wanted = run(&Kernels::scalar());
            for kernels in tables() {
                assert_eq!(run(&kernels), wanted, "{} {n_rows} rank {rank}", kernels.name);
            }
            for row in 0..n_rows {
                let h: Vec<f64> = (0..rank)
                    .map(|r| {
                        (0..n_inputs)
                            .map(|k| f64::from(x[row * x_stride + k]) * a[k * rank + r].to_f64())
                            .sum()
                    })
                    .collect();
                for n in 0..y_stride {
                    let update: f64 = (0..rank)
                        .filter(|_| n < n_outputs)
                        .map(|r| h[r] * b[r * n_outputs + n].to_f64())
                        .sum();
                    let wanted_y = f64::from(start[row * y_stride + n]) + update;
                    let found = f64::from(wanted[row * y_stride + n]);
                    assert!((found - wanted_y).abs() < 2e-4, "rank {rank} at {n}: {found} {wanted_y}");
                }
            }
        }
    }
}
