//! Rows of f32 to int4 in blocks of 32 with a scale and a minimum each: `w = f * (sc * q - r * mn)`, codes `q` in
//! 0..=15, bytes `sc` and `mn` per block, factors `f` and `r` per row.
//!
//! Scale and minimum are searched for the least squared error: starts that stretch the block's range differently are
//! refined by least squares with their codes fixed (as llama.cpp's `make_qkx2_quants` does for its K kinds, without
//! its weights, which lose here). Then the best are rounded to bytes, the minimum once more for the rounded scale.
//!
//! Where a text has shown what the inputs are like, codes make up for what the codes before them lost. Scales and minima
//! stay those of all weights alike: weighing errors by the squares of their inputs loses here too.
//!
//! Sums run in a fixed order, so equal rows give equal bytes on every machine and with any number of threads.

use super::feedback::Feedback;
use super::int8::nearest;
use super::kind::AFFINE_GROUP;
use super::rounding::code_u8;

/// Running sums, so that the compiler may use vectors; they are added in a fixed order at the end.
const N_SUMS: usize = 8;
/// Largest code.
const LARGEST: f32 = 15.0;
/// Starts of the search: 14 to 16 codes for the range.
const N_STARTS: u8 = 21;
/// Refinements of the best start.
const N_ROUNDS: usize = 2;

type Block = [f32; AFFINE_GROUP];

/// A quantized row.
pub struct AffineRow {
    /// `[n]`, a code per byte.
    pub codes: Vec<u8>,
    /// `[n / 32][2]`: scale and minimum.
    pub scales: Vec<u8>,
    /// `f` and `r`.
    pub factors: [f32; 2],
}

/// A scale and what is taken off: `w = scale * q - minimum`.
#[derive(Clone, Copy)]
struct Line {
    scale: f32,
    minimum: f32,
}

/// How rounding errors spread over a matrix's inputs, as a text has shown.
#[derive(Debug, Clone)]
pub struct Spread {
    /// Inputs of a block: a multiple of 32.
    pub block: usize,
    /// Of each block; none where its inputs were never other than zero.
    pub feedback: Vec<Option<Feedback>>,
}

/// Quantizes a row of whole blocks.
pub fn affine_row(row: &[f32], spread: Option<&Spread>) -> AffineRow {
    let blocks = row.as_chunks::<AFFINE_GROUP>().0;
    let lines: Vec<Line> = blocks.iter().map(best_line).collect();
    let largest = |value: fn(&Line) -> f32| lines.iter().map(value).fold(0.0_f32, f32::max) / 255.0;
    let (factor, minimum) = (largest(|line| line.scale), largest(|line| line.minimum));
    let ratio = if factor > 0.0 { minimum / factor } else { 0.0 };
    if !(factor.is_normal() && ratio.is_finite()) {
        let scales = vec![0; blocks.len() * 2];
        return AffineRow { codes: vec![0; row.len()], scales, factors: [0.0; 2] };
    }
    let mut scales = Vec::with_capacity(2 * blocks.len());
    let mut rounded = Vec::with_capacity(blocks.len());
    for (block, line) in blocks.iter().zip(&lines) {
        let scale_code = nearest((line.scale / factor).clamp(1.0, 255.0));
        let scale = scale_code * factor;
        // The mean of what this scale's codes leave.
        let codes = codes(block, Line { scale, minimum: line.minimum });
        let rest = sum(|i| scale * codes[i] - block[i]) / AFFINE_GROUP as f32;
        let step = factor * ratio;
        let min_code = if step > 0.0 { nearest((rest.max(0.0) / step).clamp(0.0, 255.0)) } else { 0.0 };
        scales.extend([scale_code, min_code].map(code_u8));
        rounded.push(Line { scale, minimum: min_code * step });
    }
    let codes = codes_of_row(row, &rounded, spread);
    AffineRow { codes: codes.into_iter().map(code_u8).collect(), scales, factors: [factor, ratio] }
}

/// The codes of a row whose blocks have these lines.
fn codes_of_row(row: &[f32], lines: &[Line], spread: Option<&Spread>) -> Vec<f32> {
    let Some(spread) = spread else {
        let blocks = row.as_chunks().0.iter().zip(lines);
        return blocks.flat_map(|(block, line)| codes(block, *line)).collect();
    };
    let nearest = |i: usize, value: f32| {
        let line = lines[i / AFFINE_GROUP];
        let code = nearest(((value + line.minimum) / line.scale).clamp(0.0, LARGEST));
        (code, line.scale * code - line.minimum)
    };
    let mut found = Vec::with_capacity(row.len());
    for (block_idx, values) in row.chunks(spread.block).enumerate() {
        let first = block_idx * spread.block;
        match spread.feedback.get(block_idx) {
            Some(Some(feedback)) => found.extend(feedback.codes(values, |i, w| nearest(first + i, w))),
            _ => found.extend(values.iter().enumerate().map(|(i, w)| nearest(first + i, *w).0)),
        }
    }
    found
}

/// The best line of a block, before its numbers are rounded.
fn best_line(block: &Block) -> Line {
    let lowest = block.iter().fold(0.0_f32, |least, w| least.min(*w));
    let highest = block.iter().fold(f32::NEG_INFINITY, |most, w| most.max(*w));
    let range = highest.max(0.0) - lowest;
    let plain = Line { scale: range / LARGEST, minimum: -lowest };
    if !(LARGEST / range).is_finite() {
        return Line { scale: 0.0, minimum: 0.0 };
    }
    let mut best = (error(block, plain), plain);
    let mut consider = |line: Line| {
        let error = error(block, line);
        if error < best.0 {
            best = (error, line);
        }
        best.1
    };
    for start in 0..N_STARTS {
        let scale = range / (LARGEST - 1.0 + 0.1 * f32::from(start));
        consider(fitted(block, &codes(block, Line { scale, minimum: -lowest })).unwrap_or(plain));
    }
    for _ in 0..N_ROUNDS {
        let current = consider(plain);
        if let Some(line) = fitted(block, &codes(block, current)) {
            consider(line);
        }
    }
    best.1
}

/// The line of the least squared error for given codes, if they are not all the same.
fn fitted(block: &Block, codes: &Block) -> Option<Line> {
    let n = AFFINE_GROUP as f32;
    let (q, qq) = (sum(|i| codes[i]), sum(|i| codes[i] * codes[i]));
    let (w, wq) = (sum(|i| block[i]), sum(|i| block[i] * codes[i]));
    let determinant = n * qq - q * q;
    if determinant <= 0.0 {
        return None;
    }
    let mut line = Line { scale: (n * wq - w * q) / determinant, minimum: (q * wq - qq * w) / determinant };
    if line.minimum < 0.0 {
        line = Line { scale: wq / qq, minimum: 0.0 };
    }
    (line.scale > 0.0 && line.scale.is_finite()).then_some(line)
}

/// Sum of the squared errors.
fn error(block: &Block, line: Line) -> f32 {
    let codes = codes(block, line);
    sum(|i| {
        let error = line.scale * codes[i] - line.minimum - block[i];
        error * error
    })
}

/// The nearest codes, 0..=15, as floats.
fn codes(block: &Block, line: Line) -> Block {
    let by = 1.0 / line.scale;
    block.map(|w| nearest(((w + line.minimum) * by).clamp(0.0, LARGEST)))
}

fn sum(term: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0.0_f32; N_SUMS];
    for first in (0..AFFINE_GROUP).step_by(N_SUMS) {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum += term(first + i);
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::int8::tests::bell;

    fn values(row: &[f32]) -> Vec<f32> {
        let AffineRow { codes, scales, factors: [factor, ratio] } = affine_row(row, None);
        let pair = |i: usize| (f32::from(scales[i / 32 * 2]), f32::from(scales[i / 32 * 2 + 1]));
        (0..row.len()).map(|i| factor * (pair(i).0 * f32::from(codes[i]) - pair(i).1 * ratio)).collect()
    }

    fn error(row: &[f32], stored: &[f32]) -> f64 {
        row.iter().zip(stored).map(|(w, s)| f64::from(w - s).powi(2)).sum()
    }

    /// Bytes for scales and minima cost almost nothing against floats, and the search gains a fifth.
    #[test]
    fn the_search_beats_plain_rounding() {
        let row = bell(32 * 256, 7);
        let plain: Vec<f32> = row
            .as_chunks::<32>()
            .0
            .iter()
            .flat_map(|block| {
                let lowest = block.iter().fold(0.0_f32, |least, w| least.min(*w));
                let highest = block.iter().fold(0.0_f32, |most, w| most.max(*w));
                let line = Line { scale: (highest - lowest) / 15.0, minimum: -lowest };
                codes(block, line).map(|code| code * line.scale - line.minimum)
            })
            .collect();
        let ratio = error(&row, &values(&row)) / error(&row, &plain);
        assert!(ratio < 0.85, "{ratio}");
        let power: f64 = row.iter().map(|w| f64::from(*w).powi(2)).sum();
        assert!(error(&row, &values(&row)) < 0.006 * power);
    }

    #[test]
    fn what_lies_on_a_line_is_found() {
        let ramp = |scale: f32, first: f32| -> Vec<f32> {
            (0..64).map(|i| ((i * 7 % 16) as f32 + first) * scale).collect()
        };
        for row in [ramp(0.25, -8.0), ramp(1e-3, 0.0), ramp(3.0, -15.0), vec![0.0; 64], vec![1e-44; 32]] {
            let stored = values(&row);
            let largest = row.iter().fold(0.0_f32, |most, w| most.max(w.abs()));
            let worst = row.iter().zip(&stored).fold(0.0_f32, |most, (w, s)| most.max((w - s).abs()));
            assert!(worst <= largest * 5e-3 + 1e-40, "{worst} of {largest}");
        }
        // One sign only: the range still begins at zero.
        let positive: Vec<f32> = (0..32).map(|i| 1.0 + i as f32 / 100.0).collect();
        assert!(error(&positive, &values(&positive)) < 0.1);
    }
}
