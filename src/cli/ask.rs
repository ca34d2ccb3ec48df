//! `ask`: a first question.

use std::path::PathBuf;

use clap::Args;

use super::numbers::{count, device_choice, number};
use crate::answer::{AskOptions, AskSampling};
use crate::config::MAX_THREADS;
use crate::numbers::{DeviceChoice, round_to_f32};

const HELP: &str = "\
The answer is written to standard output as it comes, and nothing else is. Without a question it is read from standard \
input, whole; where that is a terminal, a chat begins, and each question is asked with all that was said before. Flags \
that are left out have the defaults of a request file: the same question gives the same answer, until --seed changes. \
A chat that becomes longer than the engine takes forgets its oldest questions and says so. --debug tells how fast it was.

Ctrl-C ends an answer, not the chat; a single question ends with 130 then. /reset forgets what was said, /exit or \
Ctrl-D leaves, /help lists the rest.

Examples:
  jetspool ask \"What is aspirin?\" --engineDir engine
  jetspool ask \"Translate to French: Hello world\" --lora french \\
    --temperature 0
  jetspool ask --engineDir engine --lora processed/medical \\
    --system \"Answer in one sentence.\"
  git diff | jetspool ask --system \"Summarize this.\" \\
    --maxGenerateLength 200 >summary.txt";

/// Ask one question, or chat.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct AskArgs {
    /// The question; without it standard input has it, or a chat begins.
    #[arg(value_name = "QUESTION")]
    question: Option<String>,
    /// Engine directory; without it the engine of the configuration.
    #[arg(long = "engineDir", value_name = "DIR")]
    engine_dir: Option<PathBuf>,
    /// The configuration that names engine and adapters, where it is not /etc/jetspool/jetspool.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// An adapter: its name in the adapters directory of the configuration, or the path of what process-lora wrote.
    #[arg(long, value_name = "NAME|PATH")]
    lora: Option<PathBuf>,
    /// Factor on the adapter; 1 is as it was trained.
    #[arg(long = "loraScale", value_name = "X", default_value = "1", requires = "lora", allow_hyphen_values = true,
        value_parser = number(|x| x.abs() <= f64::from(f32::MAX), "a finite number"))]
    lora_scale: f32,
    /// What the model is told before the first question.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Tokens that an answer may have; 256 without it.
    #[arg(long = "maxGenerateLength", value_name = "N", value_parser = count(1, 1 << 26))]
    max_generate_length: Option<usize>,
    /// 0 takes the likeliest token each time; 1 without it.
    #[arg(long, value_name = "T", allow_hyphen_values = true,
        value_parser = number(|x| (0.0..=f64::from(f32::MAX)).contains(&x), "a number of at least 0"))]
    temperature: Option<f32>,
    /// Draw from the likeliest tokens that together have this probability; 0.8 without it.
    #[arg(long = "topP", value_name = "P", allow_hyphen_values = true,
        value_parser = number(|x| round_to_f32(x) > 0.0 && x <= 1.0, "a number above 0 and at most 1"))]
    top_p: Option<f32>,
    /// Draw from so many likeliest tokens, 0 from all; 50 without it.
    #[arg(long = "topK", value_name = "K", value_parser = count(0, i32::MAX as usize))]
    top_k: Option<usize>,
    /// Seed of the random numbers; 42 without it.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End the answer before this text; may be given more than once.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Let the model think first, if its chat template has a way to ask for it.
    #[arg(long = "enableThinking")]
    enable_thinking: bool,
    /// Where to compute: auto takes a GPU that the engine has kernels for, or else the processor.
    #[arg(long, value_name = "DEVICE", value_parser = device_choice())]
    device: Option<DeviceChoice>,
    /// Threads that compute; 0 is one per processor.
    #[arg(long, value_name = "N", value_parser = count(0, MAX_THREADS))]
    threads: Option<usize>,
}

impl AskArgs {
    /// The flags as the answering room takes them.
    pub fn options(&self) -> AskOptions {
        AskOptions {
            question: self.question.clone(),
            engine_dir: self.engine_dir.clone(),
            config: self.config.clone(),
            lora: self.lora.clone(),
            lora_scale: self.lora_scale,
            system: self.system.clone(),
            sampling: AskSampling {
                max_generate_length: self.max_generate_length,
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k.and_then(|top_k| u32::try_from(top_k).ok()),
                seed: self.seed,
            },
            stop: self.stop.clone(),
            enable_thinking: self.enable_thinking,
            threads: self.threads,
            device: self.device,
        }
    }
}
