//! Prompts are rendered and tokenized in a process of its own, which may take its time and memory, break or be killed
//! without anybody else noticing: templates, tokenizers and texts come from anybody.

mod frame;
mod limits;
mod messages;
mod process;
mod worker;

pub use limits::{Launch, TextLimits};
pub use process::{Canceller, NotPrepared, TextProcess, TextProcessOptions};
pub use worker::text_worker;
