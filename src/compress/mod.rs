//! `quantize-llm`: a checkpoint made smaller. Calibration with the model's own forward pass, the search for
//! scales, the packed numbers, and the checkpoint that holds them. Never an engine, a queue or a daemon.

mod awq;
mod checkpoint;
mod codec;
mod codes;
mod config;
mod feedback;
mod files;
mod int4;
mod method;
mod model;
mod observe;
mod options;
mod packed_row;
mod perplexity;
mod quantize;
mod report;
mod streamed;
mod texts;
mod tiles;

pub use codec::{Coder, Dequantized};
pub use method::Method;
pub use options::{Cache, QuantizeOptions, Rounding};
pub use packed_row::PackedRow;
pub use quantize::quantize;
pub use report::QuantizeReport;
