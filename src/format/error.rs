//! What can be wrong with a file of ours or of others. The room that owns the path adds it.

use crate::numbers::family::UnknownFamily;
use crate::numbers::precision::UnknownPrecision;

/// The containers of [`FormatError::Damaged`] that have no name of a file.
pub const SAFETENSORS_FILE: &str = "safetensors file";
pub const GGUF_FILE: &str = "GGUF file";
pub const ONNX_DATA: &str = "ONNX data";
pub const ONNX_MODEL: &str = "ONNX model";

/// Why bytes were refused: where, what was wanted, what was found.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FormatError {
    /// The container itself is damaged: truncated, overlapping, not JSON.
    #[error("{what} is damaged: {why}")]
    Damaged { what: &'static str, why: String },
    /// A tensor that must be there is not.
    #[error("tensor {name} is missing")]
    MissingTensor { name: String },
    /// A tensor has the wrong shape.
    #[error("tensor {name} has shape {found:?}, wanted {wanted:?}")]
    Shape { name: String, wanted: Vec<usize>, found: Vec<usize> },
    /// A tensor has a type that its use does not allow.
    #[error("tensor {name} has type {found}, wanted {wanted}")]
    Dtype { name: String, wanted: &'static str, found: String },
    /// NaN or an infinity; `index` counts the elements of the tensor.
    #[error("tensor {name} holds {found} at element {index}, wanted finite numbers")]
    NotFinite { name: String, index: usize, found: f32 },
    /// A configuration key is missing or has a value outside its range.
    #[error("{file}: {key} is {found}, wanted {wanted}")]
    Key { file: &'static str, key: String, wanted: String, found: String },
    /// Valid, but something this program does not do.
    #[error("{what} is not supported: {found}; supported: {supported}")]
    Unsupported { what: &'static str, found: String, supported: String },
    /// The device that is to compute with a tensor cannot take it.
    #[error("the device cannot take a tensor: {0}")]
    Device(String),
    #[error(transparent)]
    Family(#[from] UnknownFamily),
    #[error(transparent)]
    Precision(#[from] UnknownPrecision),
}

/// Something valid that this program does not do.
pub(super) fn unsupported(what: &'static str, found: impl ToString, supported: &str) -> FormatError {
    FormatError::Unsupported { what, found: found.to_string(), supported: supported.to_owned() }
}
