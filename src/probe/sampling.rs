//! What choosing a token of a row of logits costs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::infer::{Sampling, Scores};

/// A way of sampling is tried for so long.
const TRY_FOR: Duration = Duration::from_millis(50);
const MIN_ROUNDS: u64 = 5;

/// A way of sampling and what it takes.
#[derive(Debug, Clone, Copy)]
pub struct SamplingReport {
    pub name: &'static str,
    /// Median of a row, microseconds.
    pub us_per_row: f64,
}

/// Greedy, the defaults of a request, and the defaults with the whole vocabulary.
pub fn time_sampling(logits: &[f32]) -> [SamplingReport; 3] {
    let defaults = Sampling { temperature: 1.0, top_p: 0.8, top_k: 50, seed: 42, logit_bias: Vec::new() };
    let greedy = Sampling { temperature: 0.0, ..defaults.clone() };
    let all = Sampling { top_k: 0, ..defaults.clone() };
    let ways = [("greedy", greedy), ("defaults", defaults), ("top_k_0", all)];
    ways.map(|(name, sampling)| SamplingReport { name, us_per_row: time(logits, &sampling) })
}

/// What the runner does with a row: it must be finite, then a token is chosen.
fn time(logits: &[f32], sampling: &Sampling) -> f64 {
    let begin = Instant::now();
    let mut times_us = Vec::new();
    for index in 0.. {
        if index >= MIN_ROUNDS && begin.elapsed() > TRY_FOR {
            break;
        }
        let row = Instant::now();
        let scores = Scores::new(logits, sampling);
        if black_box(scores.are_finite()) {
            black_box(scores.choose(sampling, index));
        }
        times_us.push(row.elapsed().as_secs_f64() * 1e6);
    }
    times_us.sort_by(f64::total_cmp);
    times_us[times_us.len() / 2]
}
