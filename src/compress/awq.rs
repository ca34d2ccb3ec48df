//! Scales of the input channels: searched for the least output error (AWQ, Lin et al. 2023, arXiv
//! 2306.00978) or set by a rule (SmoothQuant, Xiao et al. 2022, arXiv 2211.10438).
//!
//! A channel that carries large activations is made small and its weights large, so that rounding hits
//! the weights that matter less. Matrices that read the same activations share the scales.

use half::f16;

use super::codec::Coder;
use super::int4::Search;
use super::method::Method;
use super::observe::Input;
use super::options::Rounding;
use super::tiles::multiply;
use crate::device::cpu::Rows;
use crate::device::{Cpu, Device};
use crate::numbers::feedback::Feedback;
use crate::numbers::round_to_f32;
use crate::tools::weights::source::RowSource;

/// Scales stay between this and its inverse.
const SMALLEST_SCALE: f32 = 1e-4;
/// How much of the difficulty SmoothQuant moves from the activations to the weights.
const SMOOTHING: f32 = 0.5;
/// Rows of activations that the search multiplies.
const SEARCH_ROWS: usize = 64;

/// A matrix to quantize.
pub struct Member<'a> {
    /// Of the weight.
    pub name: String,
    /// `(out, in)`
    pub shape: (usize, usize),
    pub source: &'a RowSource,
    /// One of a stack, whose matrices take their inputs as they come: no scales for each channel.
    pub is_stacked: bool,
}

/// Chooses how the matrices of a group, which read the same input, are coded.
pub fn choose(cpu: &Cpu, method: Method, rounding: Rounding, members: &[Member<'_>], input: &Input) -> Coder {
    let columns = column_sizes(members);
    let mut coder = Coder::new(method, columns.largest.iter().fold(0.0, |most, w| most.max(*w)));
    let width = columns.largest.len();
    if method.is_int4_awq() {
        coder.importance = vec![1.0; width];
    }
    if method.scales_inputs() {
        coder.pre_quant_scale = Some(vec![1.0; width]);
    }
    if rounding == Rounding::Nearest || input.n_rows == 0 {
        return coder;
    }
    let is_stacked = members.iter().any(|member| member.is_stacked);
    match method {
        Method::Int4Awq { .. } => search(cpu, coder, members, input, &columns),
        Method::Int8Sq if is_stacked => coder,
        Method::Int8Sq => {
            let scales = input.largest.iter().zip(&columns.largest).map(|(x, w)| {
                let scale = w.powf(1.0 - SMOOTHING) / x.powf(SMOOTHING);
                if *x > 0.0 && *w > 0.0 { scale } else { 1.0 }
            });
            coder.pre_quant_scale = Some(scales.map(rounded).collect());
            coder
        }
        Method::Fp8 | Method::Nvfp4 | Method::Mxfp8 => coder,
    }
}

/// Tries scales `mean|x|^alpha / mean|w|^beta`, `beta` 0 or `1 - alpha`.
fn search(cpu: &Cpu, coder: Coder, members: &[Member<'_>], input: &Input, columns: &Columns) -> Coder {
    let (sizes, squares) = (input.mean_abs(), input.mean_squares());
    let x = sample_rows(cpu, input, SEARCH_ROWS);
    let mut best = (f64::INFINITY, coder.clone());
    // Of a stack only the scales of 1, which come first.
    let n_tries = if members.iter().any(|member| member.is_stacked) { 1 } else { usize::MAX };
    for (alpha, beta) in exponents().take(n_tries) {
        let wanted: Vec<f32> = (sizes.iter().zip(&columns.mean))
            .map(|(x, w)| (x.max(1e-8).powf(alpha) / w.max(1e-8).powf(beta)).recip())
            .collect();
        let scales = normalized(&wanted);
        let mut tried = coder.clone();
        tried.importance = squares.iter().zip(&scales).map(|(x, scale)| x * scale * scale).collect();
        tried.pre_quant_scale = Some(scales);
        tried.search = Search::Coarse;
        let error = members.iter().map(|member| errors(cpu, member, &tried, &x).output_error).sum();
        if error < best.0 {
            best = (error, tried);
        }
    }
    Coder { search: Search::Fine, ..best.1 }
}

/// The coder of a matrix that is written: where scales were searched, its weights make up for each other's errors. What
/// says how is as large as the moments of the inputs, so that it is made for one matrix at a time.
pub fn with_feedback(coder: &Coder, input: &Input) -> Coder {
    let mut coder = coder.clone();
    if let (Search::Fine, Some(moments), Some(scales)) =
        (coder.search, input.moments(), &coder.pre_quant_scale)
    {
        let block = coder.method.block().unwrap_or(scales.len());
        let blocks = moments.zip(scales.chunks(block));
        coder.feedback = blocks.map(|(moments, scales)| Feedback::new(moments, scales)).collect();
    }
    coder
}

fn exponents() -> impl Iterator<Item = (f32, f32)> {
    let alphas = || (0..=10_u8).map(|tenth| f32::from(tenth) / 10.0);
    alphas().map(|alpha| (alpha, 0.0)).chain(alphas().map(|alpha| (alpha, 1.0 - alpha)))
}

/// So that the geometric mean of the extremes is 1.
fn normalized(scales: &[f32]) -> Vec<f32> {
    let most = scales.iter().fold(0.0_f32, |most, scale| most.max(*scale));
    let least = scales.iter().fold(f32::INFINITY, |least, scale| least.min(*scale));
    let middle = (most.sqrt() * least.sqrt()).max(f32::MIN_POSITIVE);
    scales.iter().map(|scale| rounded(scale / middle)).collect()
}

/// As the file holds it.
fn rounded(scale: f32) -> f32 {
    f16::from_f32(scale.clamp(SMALLEST_SCALE, SMALLEST_SCALE.recip())).to_f32()
}

/// Of the magnitudes in each column of some matrices of one width.
struct Columns {
    largest: Vec<f32>,
    mean: Vec<f32>,
}

fn column_sizes(members: &[Member<'_>]) -> Columns {
    let width = members.first().map_or(0, |member| member.shape.1);
    let (mut largest, mut sums) = (vec![0.0_f32; width], vec![0.0_f64; width]);
    let mut row = vec![0.0; width];
    let mut n_rows = 0;
    for member in members {
        for row_idx in 0..member.shape.0 {
            member.source.read_row(row_idx, &mut row);
            for (i, w) in row.iter().enumerate() {
                largest[i] = largest[i].max(w.abs());
                sums[i] += f64::from(w.abs());
            }
            n_rows += 1;
        }
    }
    let mean = sums.iter().map(|sum| round_to_f32(sum / f64::from(n_rows.max(1)))).collect();
    Columns { largest, mean }
}

/// Kept rows of an input, `[at most max_rows, in]`.
pub fn sample_rows(cpu: &Cpu, input: &Input, max_rows: usize) -> Rows {
    let sample = input.sample();
    let step = sample.len().div_ceil(max_rows).max(1);
    let kept: Vec<&Vec<f32>> = sample.iter().step_by(step).collect();
    let mut rows = cpu.rows(kept.len(), input.largest.len());
    for (row_idx, values) in kept.iter().enumerate() {
        rows.row_mut(row_idx).copy_from_slice(values);
    }
    rows
}

/// What a coding loses of one matrix.
#[derive(Debug, Clone, Copy, Default)]
pub struct Errors {
    /// Sum of the squares of what the products with the sample differ by.
    pub output_error: f64,
    /// Sum of the products' squares; only where [`errors_and_sizes`] was asked.
    pub output_size: f64,
}

/// The error alone.
fn errors(cpu: &Cpu, member: &Member<'_>, coder: &Coder, x: &Rows) -> Errors {
    let difference = |row_idx: usize, out: &mut [f32]| {
        member.source.read_row(row_idx, out);
        let row = out.to_vec();
        coder.values(&coder.row(&row), out);
        out.iter_mut().zip(&row).for_each(|(stored, w)| *stored -= w);
    };
    Errors { output_error: sum_of_squares(cpu, x, member.shape, &difference), output_size: 0.0 }
}

/// The error and the size that it is compared with.
pub fn errors_and_sizes(cpu: &Cpu, member: &Member<'_>, coder: &Coder, x: &Rows) -> Errors {
    let original = |row_idx: usize, out: &mut [f32]| member.source.read_row(row_idx, out);
    let output_size = sum_of_squares(cpu, x, member.shape, &original);
    Errors { output_size, ..errors(cpu, member, coder, x) }
}

fn sum_of_squares(
    cpu: &Cpu,
    x: &Rows,
    shape: (usize, usize),
    fill: &(dyn Fn(usize, &mut [f32]) + Sync),
) -> f64 {
    let mut sum = 0.0;
    if x.n_rows() > 0 {
        multiply(cpu, x, shape, fill, |_, product| {
            for row_idx in 0..product.n_rows() {
                sum += product.row(row_idx).iter().map(|y| f64::from(*y) * f64::from(*y)).sum::<f64>();
            }
        });
    }
    sum
}
