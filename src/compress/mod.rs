//! `quantize-llm`: a checkpoint made smaller, and int4 engines that a text was read for. Calibration with the model's own forward pass, the search for
//! scales, the packed numbers, and the checkpoint that holds them. Never a queue or a daemon.

mod awq;
mod checkpoint;
mod codec;
mod codes;
mod config;
mod engine;
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
pub use engine::{CalibrationOptions, build_calibrated};
pub use method::Method;
pub use options::{Cache, QuantizeOptions, Rounding};
pub use packed_row::PackedRow;
pub use quantize::quantize;
pub use report::QuantizeReport;
