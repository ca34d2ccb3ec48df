//! What a run cost: the workflow's profile file (`--dumpProfile --profileOutputFile`).
//!
//! Prompts and answers share steps here, so a step's time is divided by the rows that each had in it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::infer::StepCounts;

/// Times of the steps of a run.
#[derive(Default)]
pub struct Profile {
    prefill: Stage,
    generation: Stage,
    n_prompts: usize,
    n_cached_tokens: usize,
}

#[derive(Default)]
struct Stage {
    n_tokens: usize,
    /// One per step that had rows of this stage, in milliseconds.
    times_ms: Vec<f64>,
}

impl Profile {
    /// Takes one step.
    pub fn add(&mut self, counts: StepCounts, time: Duration) {
        let n_rows = counts.n_rows();
        self.n_cached_tokens += counts.n_cached_tokens;
        if n_rows == 0 {
            return;
        }
        let ms_per_row = time.as_secs_f64() * 1e3 / n_rows as f64;
        // What is computed again is read like a prompt.
        self.prefill.add(counts.n_prompt_tokens + counts.n_recomputed_tokens, ms_per_row);
        self.generation.add(counts.n_generating, ms_per_row);
        self.n_prompts += counts.n_prompts_read;
    }

    /// Prompt tokens read, answer tokens generated after the first of each answer, and the time of both.
    pub fn totals(&self) -> (usize, usize, Duration) {
        let ms = self.prefill.total_ms() + self.generation.total_ms();
        (self.prefill.n_tokens, self.generation.n_tokens, Duration::from_secs_f64(ms / 1e3))
    }

    /// The file's content; keys as the workflow's runtime writes them.
    pub fn to_json(&self, peak_memory_bytes: u64) -> Value {
        let mut stages = Vec::new();
        let mut profile = json!({
            "peak_unified_memory_bytes": peak_memory_bytes,
            "peak_unified_memory_mb": peak_memory_bytes as f64 / f64::from(1 << 20),
        });
        if self.n_prompts > 0 {
            let mut prefill = self.prefill.summary(self.n_prompts);
            prefill["reused_tokens"] = json!(self.n_cached_tokens);
            prefill["computed_tokens"] = json!(self.prefill.n_tokens);
            prefill["average_time_per_run_ms"] = json!(self.prefill.total_ms() / self.n_prompts as f64);
            profile["prefill"] = prefill;
            stages.push(self.prefill.stage("llm_prefill"));
        }
        if self.generation.n_tokens > 0 {
            let mut generation = self.generation.summary(self.n_prompts);
            generation["generated_tokens"] = json!(self.generation.n_tokens);
            profile["generation"] = generation;
            stages.push(self.generation.stage("llm_generation"));
        }
        profile["stages"] = json!(stages);
        profile
    }
}

impl Stage {
    fn add(&mut self, n_tokens: usize, ms_per_row: f64) {
        if n_tokens > 0 {
            self.n_tokens += n_tokens;
            self.times_ms.push(n_tokens as f64 * ms_per_row);
        }
    }

    fn total_ms(&self) -> f64 {
        self.times_ms.iter().sum()
    }

    fn summary(&self, n_runs: usize) -> Value {
        let (n_tokens, total_ms) = (self.n_tokens as f64, self.total_ms());
        json!({
            "total_runs": n_runs,
            "average_tokens_per_run": n_tokens / n_runs as f64,
            "tokens_per_second": n_tokens / total_ms * 1e3,
            "average_time_per_token_ms": total_ms / n_tokens,
        })
    }

    fn stage(&self, stage_id: &str) -> Value {
        let n = self.times_ms.len();
        let mut sorted = self.times_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let mean = self.total_ms() / n as f64;
        let variance = sorted.iter().map(|ms| (ms - mean).powi(2)).sum::<f64>() / n as f64;
        let percentile = |percent: usize| sorted[(n * percent / 100).min(n - 1)];
        json!({
            "stage_id": stage_id,
            "total_runs": n,
            "total_gpu_time_ms": self.total_ms(),
            "average_time_per_run_ms": mean,
            "gpu_time_stats": {
                "count": n,
                "min_ms": sorted[0],
                "max_ms": sorted[n - 1],
                "mean_ms": mean,
                "median_ms": sorted[n / 2],
                "p95_ms": percentile(95),
                "p99_ms": percentile(99),
                "stddev_ms": variance.sqrt(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixed_step_is_divided_by_rows() {
        let mut profile = Profile::default();
        let counts = StepCounts {
            n_prompt_tokens: 5,
            n_recomputed_tokens: 1,
            n_cached_tokens: 32,
            n_prompts_read: 1,
            n_generating: 2,
            n_preempted: 0,
        };
        profile.add(counts, Duration::from_millis(80));
        let json = profile.to_json(1 << 20);
        assert_eq!(json["prefill"]["average_time_per_run_ms"], 60.0);
        assert_eq!(
            (&json["prefill"]["reused_tokens"], &json["prefill"]["computed_tokens"]),
            (&json!(32), &json!(6))
        );
        assert_eq!(json["generation"]["tokens_per_second"], 100.0);
        assert_eq!(json["stages"][1]["gpu_time_stats"]["median_ms"], 20.0);
        assert_eq!(json["peak_unified_memory_mb"], 1.0);
    }

    #[test]
    fn an_empty_run_has_no_stages() {
        let json = Profile::default().to_json(0);
        assert!(json.get("prefill").is_none() && json.get("generation").is_none());
        assert_eq!(json["stages"], json!([]));
    }
}
