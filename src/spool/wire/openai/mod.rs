//! Batch files as OpenAI's Batch API and `vllm run-batch` take them: one request a line, one answer a line.

pub mod body;
pub mod calls;
pub mod line;
pub mod lines;
pub mod reading;
pub mod response;
pub mod tools;
