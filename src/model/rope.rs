//! Rotary position embedding: angles of the rows of a step (Su et al. 2021, arXiv 2104.09864).

use crate::numbers::architecture::{Rope, RopeScaling, Yarn};
use crate::numbers::round_to_f32;

/// Inverse frequencies, f32 as transformers keeps them.
pub struct Rotation {
    /// `[rotary_dim / 2]`
    inverse_frequencies: Vec<f32>,
    /// Multiplies cosines and sines.
    attention_factor: f32,
}

impl Rotation {
    /// `capacity` is the most positions that a sequence of the engine can have: it chooses the table of LongRoPE and the
    /// theta of dynamic scaling for all positions, so that keys that are in the cache stay right when a sequence grows.
    pub fn new(rope: &Rope, rotary_dim: usize, capacity: usize) -> Self {
        let theta = match rope.scaling {
            RopeScaling::Dynamic { factor, max_positions } => {
                // Not above 1 for a text that the model was made for.
                let stretch =
                    factor * capacity.max(max_positions) as f64 / max_positions as f64 - (factor - 1.0);
                rope.theta * stretch.powf(rotary_dim as f64 / (rotary_dim as f64 - 2.0))
            }
            _ => rope.theta,
        };
        let plain = (0..rotary_dim / 2).map(|i| 1.0 / theta.powf(2.0 * i as f64 / rotary_dim as f64));
        if let RopeScaling::Yarn(yarn) = &rope.scaling {
            let ramp = Ramp::new(yarn, rope.theta, rotary_dim);
            let stretched = plain.enumerate().map(|(i, f)| {
                let divided = ramp.at(i);
                round_to_f32(f / yarn.factor * divided + f * (1.0 - divided))
            });
            return Self {
                inverse_frequencies: stretched.collect(),
                attention_factor: round_to_f32(yarn.attention_factor),
            };
        }
        if let RopeScaling::LongRope { short, long, original_max_positions } = &rope.scaling {
            let table = if capacity <= *original_max_positions { short } else { long };
            return Self {
                inverse_frequencies: plain
                    .zip(&table.factors)
                    .map(|(f, factor)| round_to_f32(f / factor))
                    .collect(),
                attention_factor: round_to_f32(table.attention_factor),
            };
        }
        let inverse_frequencies = plain.map(|frequency| round_to_f32(scaled(frequency, rope))).collect();
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
                cos.push(round_to_f32(angle.cos()) * self.attention_factor);
                sin.push(round_to_f32(angle.sin()) * self.attention_factor);
            }
        }
        (cos, sin)
    }
}

/// From which pair on frequencies are divided, and where the last one is that is not divided whole.
struct Ramp {
    low: f64,
    high: f64,
}

impl Ramp {
    fn new(yarn: &Yarn, theta: f64, rotary_dim: usize) -> Self {
        let dim = rotary_dim as f64;
        // The pair that turns so often in the original context.
        let pair = |turns: f64| {
            let wavelength = yarn.original_max_positions as f64 / (turns * 2.0 * std::f64::consts::PI);
            dim * wavelength.ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (pair(yarn.beta_fast), pair(yarn.beta_slow));
        if yarn.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        // As there, where the ramp has no width.
        let high = if low == high { high + 0.001 } else { high };
        Self { low, high }
    }

    /// The share of a pair's frequency that is divided.
    fn at(&self, pair: usize) -> f64 {
        ((pair as f64 - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

/// A frequency as the scaling stretches it where all share one rule.
fn scaled(inverse_frequency: f64, rope: &Rope) -> f64 {
    match rope.scaling {
        RopeScaling::None
        | RopeScaling::LongRope { .. }
        | RopeScaling::Yarn(_)
        | RopeScaling::Dynamic { .. } => inverse_frequency,
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::format::parse_checkpoint_config;

    /// tests/data/references/ropes.json: the functions of transformers' `modeling_rope_utils`.
    #[test]
    fn frequencies_are_those_of_transformers() {
        let cases = include_str!("../../tests/data/references/ropes.json");
        let cases: Value = serde_json::from_str(cases).unwrap();
        for (name, case) in cases.as_object().unwrap() {
            let config = parse_checkpoint_config(case["config"].to_string().as_bytes()).unwrap();
            let architecture = config.architecture;
            let capacity = usize::try_from(case["capacity"].as_u64().unwrap()).unwrap();
            let found = Rotation::new(&architecture.rope, architecture.rotary_dim(), capacity);
            let wanted = case["frequencies"].as_array().unwrap();
            assert_eq!(found.inverse_frequencies.len(), wanted.len(), "{name}");
            for (found, wanted) in found.inverse_frequencies.iter().zip(wanted) {
                let wanted = wanted.as_f64().unwrap();
                assert!((f64::from(*found) - wanted).abs() <= wanted * 1e-6, "{name}: {found} {wanted}");
            }
            let factor = case["attention_factor"].as_f64().unwrap();
            assert!((f64::from(found.attention_factor) - factor).abs() < 1e-6, "{name}");
        }
    }
}
