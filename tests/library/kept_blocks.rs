//! Blocks of GGUF files as engines keep them: every table equals scalar bit for bit, and a naive sum within rounding; the
//! numbers that are read are exact. Planes are made here once more, bit by bit, by the formula of the format.

use half::f16;
use jetspool::kernels::Kernels;
use jetspool::kernels::matrix::{LineBits, LineScales, Matrix, Values};
use jetspool::numbers::round_to_f32;

use crate::products::{padded_rows, rounded, woven};
use crate::support::panels::matmul;
use crate::support::random::Random;
use crate::support::tables;

/// A row is whole blocks of 256.
const STRIDE: usize = 512;
const KINDS: [&str; 6] = ["q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"];

/// A matrix in tiles, with its weights.
struct Stored {
    name: &'static str,
    q: Vec<u8>,
    halves: Vec<f16>,
    bytes: Vec<u8>,
    signed: Vec<i8>,
    factors: Vec<f16>,
    /// `[n_rows, STRIDE]`, exact.
    weights: Vec<f64>,
    n_rows: usize,
}

fn bits_of(name: &str) -> usize {
    usize::from(name.as_bytes()[1] - b'0')
}

/// Of codes `[n_rows, STRIDE]`: `[tiles][blocks][bits][16][4]` bytes.
fn planes(codes: &[u8], bits: usize) -> Vec<u8> {
    let n_rows = codes.len() / STRIDE;
    let mut bytes = vec![0; n_rows.next_multiple_of(16) * STRIDE / 8 * bits];
    for (i, code) in codes.iter().enumerate() {
        let (row, k) = (i / STRIDE, i % STRIDE);
        let block = (row / 16 * STRIDE + k) / 32;
        let at = |plane: usize| (block * bits + plane) * 64 + row % 16 * 4 + k % 4;
        // Planes of the half's or the block's own, and the input's place in it.
        let (first, inner) = if bits == 6 { (k % 32 / 16 * 3, k % 16) } else { (0, k % 32) };
        bytes[at(first + inner / 8)] |= (code & 15) << (inner / 4 % 2 * 4);
        match bits {
            4 => {}
            5 => bytes[at(4)] |= (code >> 4) << (inner / 4),
            _ => bytes[at(first + 2)] |= (code >> 4) << (inner / 4 * 2),
        }
    }
    bytes
}

impl Stored {
    fn new(name: &'static str, numbers: &mut Random, n_rows: usize) -> Stored {
        let n = n_rows * STRIDE;
        let bits = bits_of(name);
        let codes: Vec<u8> = (0..n).map(|_| numbers.byte_below(1 << bits)).collect();
        let mut halves = |n| -> Vec<f16> { numbers.floats(n).into_iter().map(f16::from_f32).collect() };
        let (pairs, factors) = (halves(n / 16), halves(n / 128));
        let sixes: Vec<u8> = (0..n / 16).map(|_| numbers.byte_below(64)).collect();
        let signed: Vec<i8> = (0..n / 16).map(|_| numbers.byte_below(256).cast_signed()).collect();
        let weight = |i: usize| {
            let code = f64::from(codes[i]);
            let of_block = [0, 1].map(|j| pairs[i / 32 * 2 + j].to_f64());
            match name {
                "q4_1" | "q5_1" => of_block[0] * code + of_block[1],
                "q5_0" => pairs[i / 32].to_f64() * (code - 16.0),
                "q6_k" => factors[i / 256].to_f64() * f64::from(signed[i / 16]) * (code - 32.0),
                _ => {
                    let [scale, offset] =
                        [0, 1].map(|j| f64::from(sixes[i / 32 * 2 + j]) * factors[i / 256 * 2 + j].to_f64());
                    scale * code + offset
                }
            }
        };
        let weights = (0..n).map(weight).collect();
        let mut stored = Stored {
            name,
            q: planes(&codes, bits),
            halves: vec![],
            bytes: vec![],
            signed: vec![],
            factors: vec![],
            weights,
            n_rows,
        };
        match name {
            "q4_1" | "q5_1" => stored.halves = woven(&pairs, STRIDE / 16, 1),
            "q5_0" => stored.halves = woven(&pairs[..n / 32], STRIDE / 32, 1),
            "q6_k" => {
                stored.signed = woven(&signed, STRIDE / 16, 1);
                stored.factors = woven(&factors[..n / 256], STRIDE / 256, 1);
            }
            _ => {
                stored.bytes = woven(&sixes, STRIDE / 16, 1);
                stored.factors = woven(&factors, STRIDE / 128, 1);
            }
        }
        stored
    }

    fn matrix(&self) -> Matrix<'_> {
        let q = &self.q[..];
        let bits = if bits_of(self.name) == 4 { LineBits::Four } else { LineBits::Five };
        let values = match self.name {
            "q4_1" | "q5_1" => Values::Lines { q, bits, scales: LineScales::Pairs(&self.halves) },
            "q5_0" => Values::Lines { q, bits, scales: LineScales::Middle(&self.halves) },
            "q6_k" => Values::Sixes { q, scale: &self.signed, factor: &self.factors },
            _ => {
                let scales = LineScales::Super { scale: &self.bytes, factor: &self.factors };
                Values::Lines { q, bits, scales }
            }
        };
        Matrix::new(values, self.n_rows, STRIDE).unwrap()
    }
}

#[test]
fn products_equal_scalar_and_a_naive_sum() {
    let mut numbers = Random(21);
    for (n_rows, n_outputs) in [(1, 1), (2, 17), (3, 32), (4, 15), (5, 50), (7, 16), (13, 33), (37, 18)] {
        let x = padded_rows(&mut numbers, n_rows, STRIDE);
        let bias = numbers.floats(n_outputs);
        for name in KINDS {
            let stored = Stored::new(name, &mut numbers, n_outputs);
            let wanted = matmul(&Kernels::scalar(), &x, stored.matrix(), Some(&bias));
            for kernels in tables() {
                let found = matmul(&kernels, &x, stored.matrix(), Some(&bias));
                assert_eq!(found, wanted, "{name} {n_rows} rows, {n_outputs} outputs, {}", kernels.name);
            }
            let x = rounded(&x, stored.matrix().partner());
            for (i, &found) in wanted.iter().enumerate() {
                let (row, column) = (i / n_outputs, i % n_outputs);
                let weights = &stored.weights[column * STRIDE..][..STRIDE];
                let products = x[row * STRIDE..][..STRIDE].iter().zip(weights).map(|(&x, w)| x * w);
                let sum: f64 = products.sum::<f64>() + f64::from(bias[column]);
                // What is added up, before offsets take most of it off.
                let largest = stored.weights.iter().fold(0.0_f64, |most, w| most.max(w.abs()));
                let size: f64 = x[row * STRIDE..][..STRIDE].iter().map(|x| x.abs() * largest).sum();
                assert!(
                    (f64::from(found) - sum).abs() <= 1e-6 * (size + 1.0),
                    "{name} at {i}: {found}, wanted {sum}"
                );
            }
        }
    }
}

#[test]
fn rows_that_are_read_are_exact() {
    let mut numbers = Random(22);
    for name in KINDS {
        let stored = Stored::new(name, &mut numbers, 21);
        for row in 0..21 {
            let mut out = vec![f32::NAN; STRIDE];
            stored.matrix().read_row(row, &mut out);
            let wanted = stored.weights[row * STRIDE..][..STRIDE].iter().copied().map(round_to_f32);
            assert!(out.iter().copied().eq(wanted), "{name} row {row}");
        }
    }
}

#[test]
fn tiles_and_rows_do_not_depend_on_others() {
    let (best, mut numbers) = (tables()[0], Random(23));
    let x = padded_rows(&mut numbers, 19, STRIDE);
    for name in KINDS {
        let stored = Stored::new(name, &mut numbers, 48);
        let whole = matmul(&best, &x, stored.matrix(), None);
        for row in 0..19 {
            let alone = matmul(&best, &x[row * STRIDE..][..STRIDE], stored.matrix(), None);
            assert_eq!(whole[row * 48..][..48], alone, "{name} row {row}");
        }
        for (tiles, n_rows) in [(0..3, 48), (1..2, 16), (1..3, 20)] {
            let rows = tiles.start * 16..tiles.start * 16 + n_rows;
            let part = matmul(&best, &x, stored.matrix().part(tiles, n_rows), None);
            for (part, whole) in part.chunks_exact(n_rows).zip(whole.chunks_exact(48)) {
                assert_eq!(part, &whole[rows.clone()], "{name} {rows:?}");
            }
        }
    }
}

/// The largest sums that codes can give do not overflow anywhere, and NaN stays NaN.
#[test]
fn extreme_codes_are_summed_exactly() {
    let (fives, sixes) = (planes(&[31; 16 * STRIDE], 5), [0, 63].map(|code| planes(&[code; 16 * STRIDE], 6)));
    let (halves, ones) = (vec![f16::ONE; STRIDE], vec![1_i8; STRIDE]);
    let middle = LineScales::Middle(&halves[..STRIDE / 2]);
    let five = Values::Lines { q: &fives, bits: LineBits::Five, scales: middle };
    let [low, high] =
        sixes.each_ref().map(|q| Values::Sixes { q, scale: &ones, factor: &halves[..STRIDE / 16] });
    for (values, weight) in [(five, 15.0), (low, -32.0), (high, 31.0)] {
        let matrix = Matrix::new(values, 16, STRIDE).unwrap();
        for kernels in tables() {
            for activation in [1.0, -1.0] {
                let wanted = activation * weight * STRIDE as f32;
                for y in matmul(&kernels, &[activation; STRIDE], matrix, None) {
                    assert!((y - wanted).abs() <= wanted.abs() * 1e-5, "{} {y} {wanted}", kernels.name);
                }
            }
            let mut x = vec![1.0; 2 * STRIDE];
            x[300] = f32::INFINITY;
            let y = matmul(&kernels, &x, matrix, None);
            assert!(y[..16].iter().all(|y| y.is_nan()) && y[16..].iter().all(|y| y.is_finite()));
        }
    }
}
