//! Every kernel of the processor's table equals scalar bit for bit, and a naive f64 sum within rounding.

#[path = "support/random.rs"]
mod random;

use half::f16;
use jetspool::kernels::Kernels;
use jetspool::kernels::attention::{AttendTask, CacheValues, HeadCache};
use jetspool::kernels::low_rank::LowRankTask;
use jetspool::kernels::matmul::{MatmulTask, scratch_len};
use jetspool::kernels::matrix::{GroupScales, Matrix, Values, row_stride};
use random::Random;

fn halves(numbers: &mut Random, n: usize) -> Vec<f16> {
    numbers.floats(n).into_iter().map(f16::from_f32).collect()
}

/// Rows of `width` values, zero up to the stride.
fn padded_rows(numbers: &mut Random, n_rows: usize, width: usize) -> Vec<f32> {
    let stride = row_stride(width);
    let mut rows = vec![0.0; n_rows * stride];
    for row in rows.chunks_exact_mut(stride) {
        row[..width].iter_mut().for_each(|x| *x = numbers.float());
    }
    rows
}

/// A matrix in each storage type, with the weights as f64.
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
    byte_scale: Vec<u8>,
    group: usize,
    weights: Vec<f64>,
    n_rows: usize,
    stride: usize,
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

/// Codes of E4M3 but NaN.
fn e4m3_codes(numbers: &mut Random, n: usize) -> Vec<u8> {
    (0..n).map(|_| numbers.below(256) as u8).map(|code| if code & 127 == 127 { 0x31 } else { code }).collect()
}

/// Nibbles in blocks of 32: byte j holds element j low and j + 16 high.
fn packed(nibbles: &[u8]) -> Vec<u8> {
    nibbles.chunks_exact(32).flat_map(|block| (0..16).map(|j| block[j] | block[j + 16] << 4)).collect()
}

impl Stored {
    fn all(numbers: &mut Random, n_rows: usize, width: usize) -> Vec<Stored> {
        let stride = row_stride(width);
        let empty = |name| Stored {
            name,
            f32: Vec::new(),
            f16: Vec::new(),
            i8: Vec::new(),
            u8: Vec::new(),
            row_scale: Vec::new(),
            group_scale: Vec::new(),
            wide_scale: Vec::new(),
            zero: Vec::new(),
            byte_scale: Vec::new(),
            group: 32,
            weights: Vec::new(),
            n_rows,
            stride,
        };
        let values = padded_rows(numbers, n_rows, width);
        let mut f32_rows = empty("f32");
        f32_rows.weights = values.iter().map(|&x| f64::from(x)).collect();
        f32_rows.f32 = values.clone();
        let mut f16_rows = empty("f16");
        f16_rows.f16 = values.iter().map(|&x| f16::from_f32(x)).collect();
        f16_rows.weights = f16_rows.f16.iter().map(|x| x.to_f64()).collect();
        let mut i8_rows = empty("i8");
        i8_rows.i8 = values.iter().map(|&x| (x * 127.0) as i8).collect();
        i8_rows.row_scale = numbers.floats(n_rows);
        i8_rows.weights = (0..n_rows * stride)
            .map(|i| f64::from(i8_rows.i8[i]) * f64::from(i8_rows.row_scale[i / stride]))
            .collect();
        let mut all = vec![f32_rows, f16_rows, i8_rows];
        let group = [128, 64, 32].into_iter().find(|&group| stride.is_multiple_of(group)).unwrap();
        let n = n_rows * stride;
        for (name, is_wide, has_zeros) in [
            ("i4", false, false),
            ("i4 wide", true, false),
            ("i4 zeros", false, true),
            ("i4 both", true, true),
        ] {
            let mut rows = empty(name);
            rows.group = group;
            let q: Vec<u8> = values.iter().map(|&x| ((x * 7.9) as i8 + 8) as u8).collect();
            rows.u8 = packed(&q);
            let scales = halves(numbers, n / group);
            let wide = numbers.floats(n / group);
            let zeros: Vec<u8> = (0..n / group).map(|_| numbers.below(17) as u8).collect();
            let scale = |i: usize| if is_wide { f64::from(wide[i]) } else { scales[i].to_f64() };
            let zero = |i: usize| if has_zeros { f64::from(zeros[i]) } else { 8.0 };
            rows.weights = (0..n).map(|i| (f64::from(q[i]) - zero(i / group)) * scale(i / group)).collect();
            (rows.group_scale, rows.wide_scale, rows.zero) = (scales, wide, zeros);
            all.push(rows);
        }
        let mut fp8 = empty("fp8");
        (fp8.u8, fp8.row_scale) = (e4m3_codes(numbers, n), numbers.floats(n_rows));
        fp8.weights = (0..n).map(|i| e4m3(fp8.u8[i]) * f64::from(fp8.row_scale[i / stride])).collect();
        let mut mxfp8 = empty("mxfp8");
        mxfp8.u8 = e4m3_codes(numbers, n);
        mxfp8.byte_scale = (0..n / 32).map(|_| 110 + numbers.below(20) as u8).collect();
        mxfp8.weights = (0..n)
            .map(|i| e4m3(mxfp8.u8[i]) * 2f64.powi(i32::from(mxfp8.byte_scale[i / 32]) - 127))
            .collect();
        let mut nvfp4 = empty("nvfp4");
        let codes: Vec<u8> = (0..n).map(|_| numbers.below(16) as u8).collect();
        (nvfp4.u8, nvfp4.byte_scale) = (packed(&codes), e4m3_codes(numbers, n / 16));
        nvfp4.row_scale = numbers.floats(n_rows);
        let e2m1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        nvfp4.weights = (0..n)
            .map(|i| {
                let sign = if codes[i] < 8 { 1.0 } else { -1.0 };
                let scale = e4m3(nvfp4.byte_scale[i / 16]) * f64::from(nvfp4.row_scale[i / stride]);
                sign * e2m1[usize::from(codes[i] & 7)] * scale
            })
            .collect();
        all.extend([fp8, mxfp8, nvfp4]);
        all
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
            "i4" => Values::I4 { q, scale: narrow, zero: None, group },
            "i4 wide" => Values::I4 { q, scale: wide, zero: None, group },
            "i4 zeros" => Values::I4 { q, scale: narrow, zero, group },
            "i4 both" => Values::I4 { q, scale: wide, zero, group },
            "fp8" => Values::Fp8 { q, scale: &self.row_scale },
            "mxfp8" => Values::Mxfp8 { q, scale: &self.byte_scale },
            _ => Values::Nvfp4 { q, scale: &self.byte_scale, row_scale: &self.row_scale },
        };
        Matrix::new(values, self.n_rows, self.stride).unwrap()
    }
}

fn matmul(kernels: &Kernels, x: &[f32], n_rows: usize, w: Matrix<'_>) -> Vec<f32> {
    let mut y = vec![f32::NAN; n_rows * w.n_rows()];
    let mut scratch = vec![0.0; scratch_len(w.stride())];
    // Two calls, as two threads would make them.
    let middle = w.n_rows() / 2;
    for columns in [0..middle, middle..w.n_rows()] {
        unsafe {
            (kernels.matmul)(&mut MatmulTask {
                x,
                n_rows,
                w,
                columns,
                y: y.as_mut_ptr(),
                y_stride: w.n_rows(),
                scratch: &mut scratch,
            });
        }
    }
    y
}

#[test]
fn matmul_equals_scalar_and_a_naive_sum() {
    let (scalar, best) = (Kernels::scalar(), Kernels::detect());
    let mut numbers = Random(1);
    for n_rows in [1, 2, 3, 4, 5, 7, 8, 9, 65] {
        for (n_outputs, width) in [(1, 1), (2, 31), (3, 32), (5, 33), (9, 72), (13, 100), (17, 128), (6, 257)]
        {
            let x = padded_rows(&mut numbers, n_rows, width);
            for stored in Stored::all(&mut numbers, n_outputs, width) {
                let y = matmul(&best, &x, n_rows, stored.matrix());
                let place = format!("{} rows {n_rows} [{n_outputs}, {width}]", stored.name);
                assert_eq!(y, matmul(&scalar, &x, n_rows, stored.matrix()), "{place}");
                for (i, &found) in y.iter().enumerate() {
                    let (row, column) = (i / n_outputs, i % n_outputs);
                    let products = x[row * stored.stride..][..stored.stride]
                        .iter()
                        .zip(&stored.weights[column * stored.stride..][..stored.stride])
                        .map(|(&x, w)| f64::from(x) * w);
                    let (wanted, size) = products.fold((0.0, 0.0), |(s, a), p: f64| (s + p, a + p.abs()));
                    assert!((f64::from(found) - wanted).abs() <= 1e-6 * (size + 1e-3), "{place} at {i}");
                }
            }
        }
    }
}

#[test]
fn a_row_of_matmul_does_not_depend_on_the_other_rows() {
    let best = Kernels::detect();
    let mut numbers = Random(2);
    let (n_rows, n_outputs, width) = (70, 11, 200);
    let x = padded_rows(&mut numbers, n_rows, width);
    for stored in Stored::all(&mut numbers, n_outputs, width) {
        let together = matmul(&best, &x, n_rows, stored.matrix());
        for row in 0..n_rows {
            let alone = matmul(&best, &x[row * stored.stride..][..stored.stride], 1, stored.matrix());
            assert_eq!(together[row * n_outputs..][..n_outputs], alone, "{} row {row}", stored.name);
        }
    }
}

#[test]
fn a_slice_of_a_matrix_is_a_matrix_of_these_rows() {
    let best = Kernels::detect();
    let mut numbers = Random(7);
    let (n_outputs, width) = (13, 100);
    let x = padded_rows(&mut numbers, 6, width);
    for stored in Stored::all(&mut numbers, n_outputs, width) {
        let whole = matmul(&best, &x, 6, stored.matrix());
        for rows in [0..13, 3..8, 12..13] {
            let part = matmul(&best, &x, 6, stored.matrix().slice(rows.clone()));
            for (part, whole) in part.chunks_exact(rows.len()).zip(whole.chunks_exact(n_outputs)) {
                assert_eq!(part, &whole[rows.clone()], "{} {rows:?}", stored.name);
            }
        }
    }
}

#[test]
fn unpacked_rows_are_the_weights() {
    let mut numbers = Random(3);
    for stored in Stored::all(&mut numbers, 5, 70) {
        for kernels in [Kernels::scalar(), Kernels::detect()] {
            for row in 0..5 {
                let mut out = vec![f32::NAN; stored.stride];
                unsafe { (kernels.unpack_row)(stored.matrix(), row, &mut out) };
                for (found, wanted) in out.iter().zip(&stored.weights[row * stored.stride..]) {
                    assert!(
                        (f64::from(*found) - wanted).abs() <= 1e-6 * (1.0 + wanted.abs()),
                        "{} {}",
                        stored.name,
                        kernels.name
                    );
                }
            }
        }
    }
}

#[test]
fn lora_equals_scalar_and_a_naive_product() {
    let (scalar, best) = (Kernels::scalar(), Kernels::detect());
    let mut numbers = Random(4);
    for rank in [1, 2, 7, 8, 9, 16, 33] {
        for (n_inputs, n_outputs) in [(1, 1), (3, 9), (72, 100), (64, 17), (131, 64)] {
            let x = numbers.floats(n_inputs);
            let (a, b) = (halves(&mut numbers, n_inputs * rank), halves(&mut numbers, rank * n_outputs));
            let start = numbers.floats(n_outputs);
            let run = |kernels: &Kernels| {
                let (mut h, mut y) = (vec![f32::NAN; rank], start.clone());
                let middle = n_outputs / 2;
                unsafe {
                    (kernels.lora_shrink)(&x, &a, 0.75, &mut h);
                    (kernels.lora_expand)(&h, &b, 0..middle, y.as_mut_ptr());
                    (kernels.lora_expand)(&h, &b, middle..n_outputs, y.as_mut_ptr().add(middle));
                }
                y
            };
            let y = run(&best);
            assert_eq!(y, run(&scalar), "rank {rank} [{n_inputs}, {n_outputs}]");
            for (n, &found) in y.iter().enumerate() {
                let mut wanted = f64::from(start[n]);
                for r in 0..rank {
                    let h: f64 = (0..n_inputs).map(|k| f64::from(x[k]) * a[k * rank + r].to_f64()).sum();
                    wanted += 0.75 * h * b[r * n_outputs + n].to_f64();
                }
                assert!((f64::from(found) - wanted).abs() < 1e-4, "rank {rank} at {n}: {found} {wanted}");
            }
        }
    }
}

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

#[test]
fn attention_equals_scalar_and_a_naive_softmax() {
    let (scalar, best) = (Kernels::scalar(), Kernels::detect());
    let mut numbers = Random(5);
    for head_dim in [2, 8, 12, 16, 40, 64, 128] {
        for (start, end) in [(0, 1), (0, 7), (0, 8), (0, 33), (5, 21), (30, 31)] {
            let (n_heads, block_len, n_blocks) = (3, 4, 12);
            let head_stride = usize::next_multiple_of(head_dim, 8);
            let block_stride = 2 * block_len * head_stride;
            let mut cache = vec![0.0f32; n_blocks * block_stride];
            for position in cache.chunks_exact_mut(head_stride) {
                position[..head_dim].iter_mut().for_each(|x| *x = numbers.float());
            }
            let cache_f16: Vec<f16> = cache.iter().map(|&x| f16::from_f32(x)).collect();
            let q: Vec<f32> = numbers.floats(n_heads * head_dim).iter().map(|x| x * 4.0).collect();
            // Blocks out of order, as a real table has them.
            let blocks: Vec<u32> = (0..n_blocks as u32).map(|b| (b * 5 + 3) % n_blocks as u32).collect();
            for values in [CacheValues::F32(&cache), CacheValues::F16(&cache_f16)] {
                let run = |kernels: &Kernels| {
                    let mut out = vec![f32::NAN; n_heads * head_dim];
                    let mut scores = vec![f32::NAN; usize::next_multiple_of(end - start, 8)];
                    unsafe {
                        (kernels.attend)(&mut AttendTask {
                            q: &q,
                            n_heads,
                            head_dim,
                            cache: HeadCache {
                                values,
                                blocks: &blocks,
                                block_len,
                                block_stride,
                                key_offset: 0,
                                value_offset: block_len * head_stride,
                                head_stride,
                            },
                            start,
                            end,
                            scale: 0.3,
                            scores: &mut scores,
                            out: &mut out,
                        });
                    }
                    out
                };
                let out = run(&best);
                assert_eq!(out, run(&scalar), "head_dim {head_dim} {start}..{end}");
                let at = |position: usize, part: usize, d: usize| {
                    let block = blocks[position / block_len] as usize;
                    let i =
                        block * block_stride + (part * block_len + position % block_len) * head_stride + d;
                    match values {
                        CacheValues::F32(v) => f64::from(v[i]),
                        CacheValues::F16(v) => v[i].to_f64(),
                    }
                };
                for head in 0..n_heads {
                    let score = |t| {
                        (0..head_dim).map(|d| f64::from(q[head * head_dim + d]) * at(t, 0, d)).sum::<f64>()
                    };
                    let weights: Vec<f64> =
                        (start..end).map(|t| (score(t) * f64::from(0.3f32)).exp()).collect();
                    let sum: f64 = weights.iter().sum();
                    for d in 0..head_dim {
                        let wanted: f64 =
                            (start..end).zip(&weights).map(|(t, w)| w * at(t, 1, d)).sum::<f64>() / sum;
                        let found = f64::from(out[head * head_dim + d]);
                        assert!(
                            (found - wanted).abs() < 1e-5,
                            "head_dim {head_dim} {start}..{end}: {found} {wanted}"
                        );
                    }
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
