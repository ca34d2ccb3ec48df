//! What `quantize-llm` is asked for.

use std::path::PathBuf;

use super::method::Method;
use crate::tools::build::Progress;

/// The flags of `quantize-llm`.
#[derive(Debug, Clone)]
pub struct QuantizeOptions {
    pub model_dir: PathBuf,
    pub output_dir: PathBuf,
    pub method: Method,
    /// None leaves the head as it is.
    pub head: Option<Method>,
    /// Scales for a cache of E4M3.
    pub quantizes_cache: Cache,
    /// Text file or a directory of them; none is the text that comes with the program.
    pub calibration_text: Option<PathBuf>,
    /// Text for the perplexity; none takes every fifth sequence of the calibration text.
    pub held_text: Option<PathBuf>,
    /// Sequences that the model reads for calibration, at most.
    pub n_sequences: usize,
    /// Tokens of a sequence, at most.
    pub sequence_len: usize,
    pub rounding: Rounding,
    /// 0 means one per processor. The bytes do not depend on it.
    pub n_threads: usize,
    pub progress: Progress,
}

/// Whether the scales come from the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Scales are searched for what the text shows.
    Calibrated,
    /// The largest magnitude sets each scale: what calibration is compared with.
    Nearest,
}

/// How keys and values are kept by who loads the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    AsIs,
    Fp8,
}
