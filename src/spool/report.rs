//! What a running daemon tells about itself: `status --json` prints it, programs may read it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Changes when a field changes its meaning or goes.
pub const REPORT_VERSION: u32 = 2;

/// A daemon at one moment. Times are seconds since 1970, sizes bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub version: u32,
    pub state: State,
    pub pid: u32,
    /// When the daemon was ready.
    pub started: f64,
    pub written: f64,
    pub engine: EngineReport,
    pub queue: QueueReport,
    pub speed: Speed,
    /// Until the requests that are known of are answered, by the speed so far.
    pub eta_seconds: Option<f64>,
    pub totals: Totals,
    /// Adapters of requests under way, by name.
    pub adapters: Vec<AdapterReport>,
    /// Adapter files that are mapped, used or not.
    pub n_adapters_mapped: usize,
    pub memory: MemoryReport,
    /// Why the disk is left alone for a while.
    pub trouble: Option<String>,
    /// The latest errors, oldest first.
    pub errors: Vec<ErrorReport>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Running,
    Idle,
    Stopping,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EngineReport {
    pub directory: PathBuf,
    pub precision: String,
    /// Requests that run at once.
    pub max_batch_size: usize,
    pub max_lora_rank: usize,
    /// `cpu` or `cuda`.
    #[serde(default)]
    pub device: String,
    /// The instruction set of its kernels, or which GPU it is.
    #[serde(default)]
    pub kernels: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueueReport {
    /// Files in new/ that are known of, those that are not whole included.
    pub n_waiting: usize,
    /// Of them, files that are not whole yet.
    pub n_partial: usize,
    /// Jobs that were taken, in work/.
    pub n_open: usize,
    /// Requests that run.
    pub n_running: usize,
    /// Requests of the jobs whose files were read.
    pub n_requests: usize,
    /// Of them, those that have their answer.
    pub n_answered: usize,
    /// The first jobs, the highest priority first, then in the order they were taken.
    pub jobs: Vec<JobReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    pub id: String,
    pub name: String,
    /// User id of the file's owner.
    pub owner: u32,
    pub priority: i32,
    pub stage: JobStage,
    pub n_requests: usize,
    pub n_answered: usize,
    /// Of the answered ones, those with an error.
    pub n_failed: usize,
    /// Prepared, running, or waiting for their answer to be written.
    pub n_under_way: usize,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStage {
    /// Taken; its file is not read yet.
    Waiting,
    /// Its requests are answered.
    Answering,
    /// What ran when the daemon ended without warning is tried alone.
    Suspected,
    /// Its answer is brought out.
    Publishing,
}

/// Per second, over the last seconds of work.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Speed {
    pub prompt: f64,
    pub generated: f64,
    pub requests: f64,
}

/// Counts since the spool was made; a restart goes on with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    pub files_answered: u64,
    pub files_rejected: u64,
    pub requests_answered: u64,
    pub requests_failed: u64,
    pub prompt_tokens: u64,
    pub generated_tokens: u64,
    /// Tokens of prompts that needed no reading, for another request had begun with them.
    #[serde(default)]
    pub cached_tokens: u64,
    pub errors: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterReport {
    pub name: String,
    pub n_requests: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemoryReport {
    /// Pages of files: weights, adapters. The system takes them back when it needs them.
    pub file_backed: u64,
    /// Pages of this process alone, keys and values among them.
    pub anonymous: u64,
    pub swap: u64,
    /// Keys and values of requests under way.
    pub kv_in_use: u64,
    /// Keys and values that are kept for requests to come.
    #[serde(default)]
    pub kv_cached: u64,
    /// Keys and values: taken from the system.
    pub kv_committed: u64,
    pub kv_capacity: u64,
    /// Of the GPU, if one computes; on a Jetson this is the machine's memory too.
    #[serde(default)]
    pub gpu: Option<GpuMemoryReport>,
}

/// What a GPU's memory is taken for, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GpuMemoryReport {
    pub weights: u64,
    pub adapters: u64,
    pub keys_and_values: u64,
    /// Activations, tables and logits of steps.
    pub steps: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorReport {
    pub time: f64,
    /// The job's name, and its request, where it is about one.
    pub job: Option<String>,
    pub request: Option<usize>,
    pub message: String,
}
