//! The flags of `ask`.

use std::path::PathBuf;

use crate::numbers::DeviceChoice;

/// The flags of `ask`.
#[derive(Debug, Clone)]
pub struct AskOptions {
    /// None: standard input has it, or a chat begins where that is a terminal.
    pub question: Option<String>,
    /// None: the configuration's engine.
    pub engine_dir: Option<PathBuf>,
    /// None: the default configuration, if there is one.
    pub config: Option<PathBuf>,
    /// A name in the adapters directory, or a path.
    pub lora: Option<PathBuf>,
    pub lora_scale: f32,
    /// What the model is told before the first question.
    pub system: Option<String>,
    pub sampling: AskSampling,
    /// Texts that end an answer and are left out of it.
    pub stop: Vec<String>,
    pub enable_thinking: bool,
    /// 0 means one per processor; none leaves it to the configuration.
    pub threads: Option<usize>,
    pub device: Option<DeviceChoice>,
}

/// What is given in the place of a request's defaults.
#[derive(Debug, Clone, Default)]
pub struct AskSampling {
    pub max_generate_length: Option<usize>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    pub seed: Option<u64>,
}
