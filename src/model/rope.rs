//! Rotary position embedding: angles of the rows of a step (Su et al. 2021, arXiv 2104.09864).

use crate::numbers::architecture::{Rope, RopeScaling};

/// Inverse frequencies, f32 as transformers keeps them.
pub struct Rotation {
    /// `[rotary_dim / 2]`
    inverse_frequencies: Vec<f32>,
    /// Multiplies cosines and sines.
    attention_factor: f32,
}

impl Rotation {
    /// `capacity` is the most positions that a sequence of the engine can have: it chooses the table of LongRoPE
    /// for all positions, so that keys that are in the cache stay right when a sequence grows.
    pub fn new(rope: &Rope, rotary_dim: usize, capacity: usize) -> Self {
        let plain = (0..rotary_dim / 2).map(|i| 1.0 / rope.theta.powf(2.0 * i as f64 / rotary_dim as f64));
        if let RopeScaling::LongRope { short, long, original_max_positions } = &rope.scaling {
            let table = if capacity <= *original_max_positions { short } else { long };
            return Self {
                inverse_frequencies: plain
                    .zip(&table.factors)
                    .map(|(f, factor)| (f / factor) as f32)
                    .collect(),
                attention_factor: table.attention_factor as f32,
            };
        }
        let inverse_frequencies = plain.map(|frequency| scaled(frequency, rope) as f32).collect();
        Self { inverse_frequencies, attention_factor: 1.0 }
    }

    /// Cosines and sines of the given positions, each `[n_positions, rotary_dim / 2]`.
    pub fn angles(&self, positions: impl Iterator<Item = usize>) -> (Vec<f32>, Vec<f32>) {
        let mut cos = Vec::new();
        let mut sin = Vec::new();
        for position in positions {
            for &inverse_frequency in &self.inverse_frequencies {
                // The angle is rounded to f32 first, as in the reference implementation.
                let angle = f64::from(position as f32 * inverse_frequency);
                cos.push(angle.cos() as f32 * self.attention_factor);
                sin.push(angle.sin() as f32 * self.attention_factor);
            }
        }
        (cos, sin)
    }
}

/// A frequency as the scaling stretches it where all share one rule.
fn scaled(inverse_frequency: f64, rope: &Rope) -> f64 {
    match rope.scaling {
        RopeScaling::None | RopeScaling::LongRope { .. } => inverse_frequency,
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
