//! Rotary position embedding: angles of the rows of a step (Su et al. 2021, arXiv 2104.09864).

use crate::format::architecture::{Rope, RopeScaling};

/// Inverse frequencies, `[head_dim / 2]`, f32 as transformers keeps them.
pub struct Rotation {
    inverse_frequencies: Vec<f32>,
}

impl Rotation {
    pub fn new(rope: &Rope, head_dim: usize) -> Self {
        let inverse_frequencies = (0..head_dim / 2)
            .map(|i| scaled(1.0 / rope.theta.powf(2.0 * i as f64 / head_dim as f64), &rope.scaling) as f32)
            .collect();
        Self { inverse_frequencies }
    }

    /// Cosines and sines of the given positions, each `[n_positions, head_dim / 2]`.
    pub fn angles(&self, positions: impl Iterator<Item = usize>) -> (Vec<f32>, Vec<f32>) {
        let mut cos = Vec::new();
        let mut sin = Vec::new();
        for position in positions {
            for &inverse_frequency in &self.inverse_frequencies {
                // The angle is rounded to f32 first, as in the reference implementation.
                let angle = f64::from(position as f32 * inverse_frequency);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        (cos, sin)
    }
}

fn scaled(inverse_frequency: f64, scaling: &RopeScaling) -> f64 {
    match *scaling {
        RopeScaling::None => inverse_frequency,
        RopeScaling::Linear { factor } => inverse_frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
            let original = original_max_positions as f64;
            let wavelength = 2.0 * std::f64::consts::PI / inverse_frequency;
            if wavelength > original / low_freq_factor {
                inverse_frequency / factor
            } else if wavelength < original / high_freq_factor {
                inverse_frequency
            } else {
                let kept = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - kept) * inverse_frequency / factor + kept * inverse_frequency
            }
        }
    }
}
