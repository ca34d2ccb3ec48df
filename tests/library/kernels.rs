//! Every kernel of the processor's table equals scalar bit for bit, and a naive f64 sum within rounding.

use std::ops::Range;

use crate::support::random::Random;
use half::f16;
use jetspool::kernels::Kernels;
use jetspool::kernels::attention::{
    AttendTask, CacheValues, HeadCache, PART, Query, Weight, parts, scratch_len,
};
use jetspool::kernels::merge_delta::LowRankTask;
use jetspool::model::block_ids;
use jetspool::numbers::code_i8;

#[test]
fn low_rank_rows_equal_scalar_and_a_naive_product() {
    let mut numbers = Random(17);
    let kernels = Kernels::detect();
    for (n_rows, rank, n_columns) in
        [(1, 1, 1), (4, 3, 16), (5, 8, 17), (9, 16, 40), (3, 5, 7), (8, 2, 33), (0, 4, 9), (6, 64, 100)]
    {
        let coefficients = numbers.floats(n_rows * rank);
        let panel = numbers.floats(rank * n_columns);
        let product = |kernels: &Kernels| {
            let mut delta = vec![f32::NAN; n_rows * n_columns];
            let mut task = LowRankTask {
                coefficients: &coefficients,
                panel: &panel,
                rank,
                scale: 1.7,
                delta: &mut delta,
            };
            // SAFETY: the table is of this processor.
            unsafe { (kernels.low_rank)(&mut task) };
            delta
        };
        let found = product(&kernels);
        assert_eq!(found, product(&Kernels::scalar()), "{n_rows} {rank} {n_columns}");
        for (at, found) in found.iter().enumerate() {
            let (i, j) = (at / n_columns, at % n_columns);
            let term = |r: usize| f64::from(coefficients[i * rank + r]) * f64::from(panel[r * n_columns + j]);
            let wanted = f64::from(1.7_f32) * (0..rank).map(term).sum::<f64>();
            assert!((f64::from(*found) - wanted).abs() < 1e-5, "{n_rows} {rank} {n_columns} at {at}");
        }
    }
}

/// Keys and values of some positions, stored as the cache stores them.
struct Cached {
    f32: Vec<f32>,
    f16: Vec<f16>,
    i8: Vec<i8>,
    blocks: Vec<u32>,
    head_dim: usize,
}

impl Cached {
    fn head_stride(&self) -> usize {
        self.head_dim.next_multiple_of(16)
    }

    fn new(numbers: &mut Random, head_dim: usize, n_positions: usize) -> Self {
        let n_blocks = n_positions.div_ceil(16) + 1;
        // Blocks out of order, as a real table has them; a last one that no query sees.
        let blocks = block_ids(0..n_blocks).into_iter().rev().collect();
        let mut cached = Cached { f32: Vec::new(), f16: Vec::new(), i8: Vec::new(), blocks, head_dim };
        // What nobody wrote may be anything.
        cached.f32 = vec![f32::NAN; n_blocks * 32 * cached.head_stride()];
        for position in 0..n_positions {
            for part in 0..2 {
                for d in 0..cached.head_stride() {
                    let at = cached.place(position, part, d);
                    cached.f32[at] = if d < head_dim { numbers.float() } else { 0.0 };
                }
            }
        }
        cached.f16 = cached.f32.iter().map(|&x| f16::from_f32(x)).collect();
        cached.i8 = cached.codes(n_positions);
        cached
    }

    /// The numbers in eight bits, with a scale for each key and value. What nobody wrote has a scale of NaN.
    fn codes(&self, n_positions: usize) -> Vec<i8> {
        let (stride, part_len) = (self.head_stride(), self.i8_part_len());
        let mut i8 = vec![-1; self.blocks.len() * 2 * part_len];
        for position in 0..n_positions {
            for part in 0..2 {
                let values: Vec<f32> = (0..stride).map(|d| self.f32[self.place(position, part, d)]).collect();
                let scale = values.iter().fold(0.0_f32, |most, x| most.max(x.abs())) / 127.0;
                let (first, scale_at) = self.i8_part(position, part);
                for (d, x) in values.iter().enumerate() {
                    let at = self.place(position, part, d) % (16 * stride);
                    i8[first + at] = code_i8((x / scale).round());
                }
                i8[scale_at..][..4].copy_from_slice(&scale.to_le_bytes().map(|byte| byte.cast_signed()));
            }
        }
        i8
    }

    /// Sixteen keys, or values, and their scales.
    fn i8_part_len(&self) -> usize {
        16 * (self.head_stride() + 4)
    }

    /// Where the keys or values of a position's block begin, and where its scale is.
    fn i8_part(&self, position: usize, part: usize) -> (usize, usize) {
        let first = (self.blocks[position / 16] as usize * 2 + part) * self.i8_part_len();
        (first, first + 16 * self.head_stride() + position % 16 * 4)
    }

    /// What a stored number stands for.
    fn at(&self, values: CacheValues<'_>, (position, part, d): (usize, usize, usize)) -> f64 {
        let place = self.place(position, part, d);
        match values {
            CacheValues::F32(v) => f64::from(v[place]),
            CacheValues::F16(v) => v[place].to_f64(),
            CacheValues::I8(v) => {
                let (first, scale_at) = self.i8_part(position, part);
                let scale = std::array::from_fn(|i| v[scale_at + i].cast_unsigned());
                f64::from(v[first + place % (16 * self.head_stride())]) * f64::from(f32::from_le_bytes(scale))
            }
        }
    }

    /// Keys `[head_stride][16]`, then values `[16][head_stride]`.
    fn place(&self, position: usize, part: usize, d: usize) -> usize {
        let (block, slot) = (self.blocks[position / 16] as usize, position % 16);
        let stride = self.head_stride();
        (block * 2 + part) * 16 * stride + if part == 0 { d * 16 + slot } else { slot * stride + d }
    }

    fn head<'a>(&'a self, values: CacheValues<'a>) -> HeadCache<'a> {
        let part_len = match values {
            CacheValues::I8(_) => self.i8_part_len(),
            CacheValues::F32(_) | CacheValues::F16(_) => 16 * self.head_stride(),
        };
        HeadCache {
            values,
            blocks: &self.blocks,
            block_stride: 2 * part_len,
            key_offset: 0,
            value_offset: part_len,
            head_stride: self.head_stride(),
        }
    }

    /// The whole results of queries that see `seen`, `[n, head_dim]`, up to `n_together` of them in a task.
    fn attend(
        &self,
        kernels: &Kernels,
        values: CacheValues<'_>,
        q: &[f32],
        seen: &[Range<usize>],
        n_together: usize,
    ) -> Vec<f32> {
        let n = self.head_dim;
        let mut scratch = vec![f32::NAN; scratch_len(n_together, n)];
        let mut results = vec![f32::NAN; seen.len() * n];
        let n_parts = parts(seen[0].clone()).count();
        let mut outs = vec![vec![f32::NAN; n]; seen.len() * n_parts];
        let mut weights = vec![Weight::default(); seen.len() * n_parts];
        for part_idx in 0..n_parts {
            for first in (0..seen.len()).step_by(n_together) {
                let group = first..seen.len().min(first + n_together);
                let queries: Vec<Query> = group
                    .clone()
                    .map(|i| {
                        let part = parts(seen[i].clone()).nth(part_idx).unwrap();
                        let out = outs[i * n_parts + part_idx].as_mut_ptr();
                        Query { q: q[i * n..].as_ptr(), start: part.start, end: part.end, out }
                    })
                    .collect();
                let mut found = vec![Weight::default(); queries.len()];
                let mut task = AttendTask {
                    queries: &queries,
                    head_dim: n,
                    cache: self.head(values),
                    scale: 0.3,
                    scratch: &mut scratch,
                    weights: &mut found,
                };
                unsafe { (kernels.attend)(&mut task) };
                group.zip(found).for_each(|(i, weight)| weights[i * n_parts + part_idx] = weight);
            }
        }
        for i in 0..seen.len() {
            let these = i * n_parts..(i + 1) * n_parts;
            let part_outs: Vec<&[f32]> = outs[these.clone()].iter().map(|out| &out[..]).collect();
            unsafe { (kernels.combine)(&weights[these], &part_outs, results[i * n..].as_mut_ptr()) };
        }
        results
    }
}

#[test]
fn attention_equals_scalar_and_a_naive_softmax() {
    let mut numbers = Random(5);
    for (head_dim, ends) in [
        (2, vec![1..2, 0..1, 0..1]),
        (8, vec![0..7, 0..8, 0..9, 0..10]),
        (12, vec![0..33, 0..33, 0..33, 0..33, 0..33]),
        (16, vec![5..21, 6..22, 7..23, 8..24]),
        (40, vec![0..16, 0..17]),
        (64, vec![30..31, 31..32, 32..33]),
        (128, vec![0..100, 0..101]),
        (16, vec![0..PART - 1, 0..PART]),
        (16, vec![0..PART + 5, 0..PART + 6, 0..PART + 7]),
        (16, vec![PART - 3..2 * PART + 20, PART - 2..2 * PART + 21]),
        (24, (0..11).map(|i| 3 + i..40 + i).collect()),
        (80, (0..8).map(|i| 0..PART + 9 + i / 2).collect()),
    ] {
        let cached = Cached::new(&mut numbers, head_dim, ends.iter().map(|seen| seen.end).max().unwrap());
        let q: Vec<f32> = numbers.floats(ends.len() * head_dim).iter().map(|x| x * 4.0).collect();
        for values in
            [CacheValues::F32(&cached.f32), CacheValues::F16(&cached.f16), CacheValues::I8(&cached.i8)]
        {
            let wanted = cached.attend(&Kernels::scalar(), values, &q, &ends, 1);
            for kernels in Kernels::all() {
                let many = Some(kernels.n_queries).filter(|_| ends.len() >= 8);
                for n_together in (1..=4).chain(many) {
                    let found = cached.attend(&kernels, values, &q, &ends, n_together);
                    assert_eq!(found, wanted, "{} {head_dim} {ends:?} by {n_together}", kernels.name);
                }
            }
            let at = |position: usize, part: usize, d: usize| cached.at(values, (position, part, d));
            for (i, seen) in ends.iter().enumerate() {
                let score =
                    |t| (0..head_dim).map(|d| f64::from(q[i * head_dim + d]) * at(t, 0, d)).sum::<f64>();
                let weights: Vec<f64> = seen.clone().map(|t| (score(t) * f64::from(0.3f32)).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for d in 0..head_dim {
                    let naive: f64 =
                        seen.clone().zip(&weights).map(|(t, w)| w * at(t, 1, d)).sum::<f64>() / sum;
                    let found = f64::from(wanted[i * head_dim + d]);
                    assert!((found - naive).abs() < 1e-5, "{head_dim} {seen:?}: {found} {naive}");
                }
            }
        }
    }
}

#[test]
fn row_operations_equal_scalar_and_their_formulas() {
    let (scalar, best) = (Kernels::scalar(), Kernels::detect());
    let mut numbers = Random(6);
    for n in [1, 7, 8, 9, 72, 100, 128] {
        let (x, weight) = (numbers.floats(n), numbers.floats(n));
        let norm = |kernels: &Kernels| {
            let mut y = vec![f32::NAN; n];
            unsafe { (kernels.rms_norm)(x.as_ptr(), &weight, 1e-5, y.as_mut_ptr()) };
            y
        };
        let y = norm(&best);
        assert_eq!(y, norm(&scalar), "n {n}");
        let mean = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / n as f64;
        for i in 0..n {
            let wanted = f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(weight[i]);
            assert!((f64::from(y[i]) - wanted).abs() < 1e-5, "n {n} at {i}");
        }
        let padded = n.next_multiple_of(32);
        let gate: Vec<f32> = (0..padded).map(|i| if i < n { numbers.float() * 100.0 } else { 0.0 }).collect();
        let up = numbers.floats(padded);
        let gated = |kernels: &Kernels| {
            let mut gate = gate.clone();
            unsafe { (kernels.silu_mul)(&mut gate, &up) };
            gate
        };
        let y = gated(&best);
        assert_eq!(y, gated(&scalar), "n {n}");
        for i in 0..padded {
            let wanted = f64::from(gate[i]) / (1.0 + (-f64::from(gate[i])).exp()) * f64::from(up[i]);
            assert!(
                (f64::from(y[i]) - wanted).abs() <= 1e-6 * wanted.abs().max(1e-2),
                "n {n} at {i}: {} {wanted}",
                y[i]
            );
        }
        let gated = |kernels: &Kernels| {
            let mut gate = gate.clone();
            unsafe { (kernels.gelu_mul)(&mut gate, &up) };
            gate
        };
        let y = gated(&best);
        assert_eq!(y, gated(&scalar), "n {n}");
        for i in 0..padded {
            let x = f64::from(gate[i]);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            let wanted = 0.5 * x * (1.0 + inner.tanh()) * f64::from(up[i]);
            let error = (f64::from(y[i]) - wanted).abs();
            assert!(error <= 1e-6 * wanted.abs().max(1e-1), "gelu n {n} at {i}: {} {wanted}", y[i]);
        }
        let narrowed = |kernels: &Kernels| {
            let mut to = vec![f16::ZERO; n];
            unsafe { (kernels.narrow)(&x, &mut to) };
            to
        };
        assert_eq!(narrowed(&best), narrowed(&scalar));
        assert!(narrowed(&best).iter().zip(&x).all(|(h, &x)| *h == f16::from_f32(x)));
    }
}
