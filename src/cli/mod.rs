//! The words of each command, and what is said when it ends. Opens no file itself.

mod args;
mod ask;
mod bench;
#[cfg(feature = "fleet")]
mod bridge;
mod build;
mod doctor;
mod export_llm;
#[cfg(feature = "fleet")]
mod fleet;
mod insert_lora;
mod inspect;
mod list;
mod logging;
mod logits;
mod merge_lora;
mod numbers;
mod operate;
mod parse;
mod process_lora;
mod quantize_llm;
mod run;
mod serve;
mod show;
mod spelling;
mod spool;
mod stop;
mod table;
mod tune;
mod workflow;

pub use args::{Command, Invocation};
pub use doctor::reading;
pub use logging::start_logging;
pub use parse::{documented_command, parse, program_commands};
pub use show::{
    show, show_bench, show_build, show_export, show_insert, show_merge, show_process, show_quantize,
};
pub use stop::Stop;
