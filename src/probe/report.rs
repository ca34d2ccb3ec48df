//! What `bench` measured, for people and for programs.

use std::fmt;

use serde_json::{Map, Value, json};

use super::case::{BenchMode, Case};
use super::sampling::SamplingReport;
use crate::count::Count;

/// What was measured.
#[derive(Debug, Clone)]
pub struct BenchReport {
    /// Whether the cases are the usual ones, and not one that was asked for.
    pub(super) is_sweep: bool,
    pub(super) n_threads: usize,
    pub(super) kernels: String,
    /// From nothing to an engine and adapters that can compute.
    pub(super) load_ms: f64,
    pub(super) cases: Vec<CaseReport>,
    pub(super) sampling: [SamplingReport; 3],
    /// Bytes per second, if measured.
    pub(super) read_bandwidth: Option<f64>,
}

/// The times of a case.
#[derive(Debug, Clone)]
pub struct CaseReport {
    case: Case,
    /// The one that is not counted below: pages of weights come in, memory is taken.
    first_step_ms: f64,
    /// Milliseconds of a step: smallest, median, largest.
    step_ms: [f64; 3],
    mean_ms: f64,
    tokens_per_step: usize,
    /// Weights, adapters and cache that a step reads.
    bytes_per_step: usize,
}

impl CaseReport {
    /// From the times of all steps, the first one of which is not counted.
    pub fn new(case: Case, times_ms: &[f64], tokens_per_step: usize, bytes_per_step: usize) -> Self {
        let mut counted = times_ms[1..].to_vec();
        counted.sort_by(f64::total_cmp);
        let n = counted.len();
        Self {
            case,
            first_step_ms: times_ms[0],
            step_ms: [counted[0], counted[n / 2], counted[n - 1]],
            mean_ms: counted.iter().sum::<f64>() / n as f64,
            tokens_per_step,
            bytes_per_step,
        }
    }

    /// Tokens per second of the median step.
    fn tokens_per_second(&self) -> f64 {
        self.tokens_per_step as f64 / self.step_ms[1] * 1e3
    }

    fn gb_per_second(&self) -> f64 {
        self.bytes_per_step as f64 / self.step_ms[1] / 1e6
    }

    fn mode_name(&self) -> &'static str {
        match self.case.mode {
            BenchMode::Prefill => "prefill",
            BenchMode::Decode => "decode",
        }
    }

    fn to_json(&self, read_bandwidth: Option<f64>) -> Map<String, Value> {
        let [min, median, max] = self.step_ms;
        let mut object = Map::new();
        let mut set = |name: &str, value: Value| object.insert(name.to_owned(), value);
        set("mode", json!(self.mode_name()));
        set("batch_size", json!(self.case.batch_size));
        set("length", json!(self.case.len));
        set("adapters", json!(self.case.n_loras));
        set("first_step_ms", json!(self.first_step_ms));
        set("step_ms", json!({ "min": min, "median": median, "max": max, "mean": self.mean_ms }));
        set("tokens_per_second", json!(self.tokens_per_second()));
        set("bytes_per_step", json!(self.bytes_per_step));
        set("gb_per_second", json!(self.gb_per_second()));
        if let Some(rate) = read_bandwidth {
            set("bandwidth_share", json!(self.gb_per_second() * 1e9 / rate));
        }
        object
    }
}

impl BenchReport {
    /// The report for programs: a case beside what is common to all, or all cases in a list.
    pub fn to_json(&self) -> Value {
        let mut object = match self.cases.as_slice() {
            [case] if !self.is_sweep => case.to_json(self.read_bandwidth),
            cases => {
                let cases: Vec<_> = cases.iter().map(|case| case.to_json(self.read_bandwidth)).collect();
                Map::from_iter([("cases".to_owned(), json!(cases))])
            }
        };
        let sampling: Map<String, Value> =
            self.sampling.iter().map(|way| (way.name.to_owned(), json!(way.us_per_row))).collect();
        let mut set = |name: &str, value: Value| object.insert(name.to_owned(), value);
        set("threads", json!(self.n_threads));
        set("kernels", json!(self.kernels));
        set("load_ms", json!(self.load_ms));
        set("sampling_us_per_row", json!(sampling));
        if let Some(rate) = self.read_bandwidth {
            set("read_bandwidth_gb_per_second", json!(rate / 1e9));
        }
        Value::Object(object)
    }

    fn write_case(&self, f: &mut fmt::Formatter<'_>, case: &CaseReport) -> fmt::Result {
        let [min, median, max] = case.step_ms;
        let gb = case.gb_per_second();
        let (mode, batch_size) = (case.mode_name(), case.case.batch_size);
        let threads = Count(self.n_threads, "thread");
        writeln!(f, "{mode}, batch {batch_size}, {threads}, {} kernels", self.kernels)?;
        writeln!(f, "  load        {:.1} ms, first step {:.3} ms", self.load_ms, case.first_step_ms)?;
        writeln!(f, "  step        {median:.3} ms (median; {min:.3} to {max:.3}, mean {:.3})", case.mean_ms)?;
        writeln!(f, "  speed       {:.1} tokens/s", case.tokens_per_second())?;
        writeln!(f, "  moved       {:.1} MB per step, {gb:.2} GB/s", case.bytes_per_step as f64 / 1e6)?;
        if let Some(rate) = self.read_bandwidth {
            let (share, rate) = (gb * 1e11 / rate, rate / 1e9);
            writeln!(f, "  bandwidth   {share:.0}% of the {rate:.1} GB/s that this machine reads")?;
        }
        Ok(())
    }

    fn write_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = Count(self.n_threads, "thread");
        write!(f, "{threads}, {} kernels, loaded in {:.1} ms", self.kernels, self.load_ms)?;
        match self.read_bandwidth {
            Some(rate) => writeln!(f, ", this machine reads {:.1} GB/s", rate / 1e9)?,
            None => writeln!(f)?,
        }
        let (step, gb) = ("ms/step", "GB/s");
        writeln!(f, "           batch  tokens  adapters  {step:>10}  tokens/s   {gb:>5}  of the rate")?;
        for case in &self.cases {
            let Case { batch_size, len, n_loras, .. } = case.case;
            let (mode, median) = (case.mode_name(), case.step_ms[1]);
            let (speed, gb) = (case.tokens_per_second(), case.gb_per_second());
            write!(f, "  {mode:<8} {batch_size:>5}  {len:>6}  {n_loras:>8}  {median:>10.3}  {speed:>8.1}")?;
            match self.read_bandwidth {
                // A prompt is bound by arithmetic.
                Some(rate) if case.case.mode == BenchMode::Decode => {
                    writeln!(f, "   {gb:>5.1}  {:>10.0}%", gb * 1e11 / rate)?;
                }
                _ => writeln!(f, "   {gb:>5.1}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cases.as_slice() {
            [case] if !self.is_sweep => self.write_case(f, case)?,
            _ => self.write_table(f)?,
        }
        let [greedy, defaults, all] = self.sampling.map(|way| way.us_per_row);
        write!(
            f,
            "  sampling    {greedy:.0} us a row greedy, {defaults:.0} with the defaults, {all:.0} with top_k 0"
        )
    }
}
