//! What went into the projections while a text was read: by input channel, and some rows as they were.

use std::collections::BTreeMap;

use super::tiles::for_rows;
use crate::device::cpu::Rows;
use crate::numbers::round_to_f32;

/// The inputs of one group of matrices that read the same activations.
#[derive(Debug, Clone)]
pub struct Input {
    /// Sum of the magnitudes, `[in]`.
    sum_abs: Vec<f64>,
    /// Sum of the squares, `[in]`.
    sum_squares: Vec<f64>,
    /// Largest magnitude, `[in]`.
    pub largest: Vec<f32>,
    pub n_rows: usize,
    /// Sums of the products of two channels of the same block, `[n_blocks, block, block]`; empty where nobody
    /// asked for them.
    moments: Vec<f32>,
    block: Option<usize>,
    /// Every `step`-th row, at most `max_sample` of them.
    sample: Vec<Vec<f32>>,
    max_sample: usize,
    step: usize,
}

impl Input {
    /// `block` divides `width`; none where no moments are wanted. At most `max_sample` rows are kept as they come.
    pub fn new(width: usize, block: Option<usize>, max_sample: usize) -> Self {
        Self {
            moments: vec![0.0; block.map_or(0, |block| width * block)],
            block,
            sum_abs: vec![0.0; width],
            sum_squares: vec![0.0; width],
            largest: vec![0.0; width],
            n_rows: 0,
            sample: Vec::new(),
            max_sample,
            step: 1,
        }
    }

    /// Takes all rows of a step.
    pub fn add_all(&mut self, rows: &Rows, n_threads: usize) {
        (0..rows.n_rows()).for_each(|row_idx| self.add(rows.row(row_idx)));
        let Some(block) = self.block else { return };
        for_rows(n_threads, &mut self.moments, block * block, |block_idx, moments| {
            for row_idx in 0..rows.n_rows() {
                let values = &rows.row(row_idx)[block_idx * block..][..block];
                for (x, sums) in values.iter().zip(moments.chunks_exact_mut(block)) {
                    sums.iter_mut().zip(values).for_each(|(sum, y)| *sum += x * y);
                }
            }
        });
    }

    /// Takes one row.
    fn add(&mut self, row: &[f32]) {
        for (i, &x) in row.iter().enumerate() {
            self.sum_abs[i] += f64::from(x.abs());
            self.sum_squares[i] += f64::from(x) * f64::from(x);
            self.largest[i] = self.largest[i].max(x.abs());
        }
        if self.max_sample > 0 && self.n_rows.is_multiple_of(self.step) {
            if self.sample.len() == self.max_sample {
                // Twice the distance: of the kept rows every other stays.
                let mut is_kept = false;
                self.sample.retain(|_| {
                    is_kept = !is_kept;
                    is_kept
                });
                self.step *= 2;
            }
            if self.n_rows.is_multiple_of(self.step) {
                self.sample.push(row.to_vec());
            }
        }
        self.n_rows += 1;
    }

    /// `[in]`
    pub fn mean_abs(&self) -> Vec<f32> {
        self.mean(&self.sum_abs)
    }

    /// `[in]`
    pub fn mean_squares(&self) -> Vec<f32> {
        self.mean(&self.sum_squares)
    }

    fn mean(&self, sums: &[f64]) -> Vec<f32> {
        sums.iter().map(|sum| round_to_f32(sum / self.n_rows.max(1) as f64)).collect()
    }

    /// Channels of a block.
    pub fn block(&self) -> Option<usize> {
        self.block
    }

    /// Sums of the products inside each block of channels, `[block, block]`; none where they were not wanted.
    pub fn moments(&self) -> Option<impl Iterator<Item = &[f32]>> {
        self.block.map(|block| self.moments.chunks_exact(block * block))
    }

    /// Largest magnitude of all, each channel multiplied by `scales` first.
    pub fn largest_scaled(&self, scales: Option<&[f32]>) -> f32 {
        let by = |i: usize| scales.map_or(1.0, |scales| scales[i]);
        self.largest.iter().enumerate().fold(0.0, |most, (i, x)| most.max(x * by(i)))
    }

    /// The kept rows.
    pub fn sample(&self) -> &[Vec<f32>] {
        &self.sample
    }
}

/// All that was seen.
#[derive(Debug, Default)]
pub struct Observations {
    /// By the name of a matrix's weight: only these are watched, one of each group.
    pub inputs: BTreeMap<String, Input>,
    /// Largest magnitude of the keys and of the values, by layer.
    pub caches: Vec<(f32, f32)>,
}

impl Observations {
    /// Watches the inputs of these matrices by name, and of the caches of so many layers.
    pub fn of(inputs: impl Iterator<Item = (String, Input)>, n_layers: usize) -> Self {
        let inputs = inputs.collect();
        Self { inputs, caches: vec![(0.0, 0.0); n_layers] }
    }
}

/// The matrices that read the same activations have the same name here: q, k and v; gate and up.
pub fn input_of(weight: &str) -> String {
    let module = weight.strip_suffix(".weight").unwrap_or(weight);
    let (parent, last) = module.rsplit_once('.').unwrap_or(("", module));
    let shared = match last {
        "q_proj" | "k_proj" | "v_proj" | "qkv_proj" => "qkv",
        "gate_proj" | "up_proj" | "gate_up_proj" => "gate_up",
        other => other,
    };
    format!("{parent}.{shared}")
}
