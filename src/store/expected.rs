//! What a path was to lead to.

use std::path::Path;

use super::adapter_files::{PEFT_CONFIG_FILE, PEFT_WEIGHTS_FILE, PROCESSED_WEIGHTS_FILE};
use super::directory::{DirectoryKind, ONNX_FILES};
use super::weight_files::WeightFiles;

/// Kinds of paths that people give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Engine,
    Checkpoint,
    PeftAdapter,
    ProcessedAdapter,
    Onnx,
    Gguf,
    /// Any of them.
    Model,
    Requests,
}

impl Expected {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Engine => "an engine directory, as jetspool build writes it",
            Self::Checkpoint => {
                "a checkpoint: a directory with config.json and model.safetensors or its shards"
            }
            Self::PeftAdapter => {
                "an adapter as PEFT saves it: a directory with adapter_config.json and adapter_model.safetensors"
            }
            Self::ProcessedAdapter => "an adapter as jetspool process-lora writes it",
            Self::Onnx => "an ONNX directory, as export-llm writes it",
            Self::Gguf => "a GGUF file",
            Self::Requests => "a request file",
            Self::Model => "an engine, a checkpoint, an adapter or a GGUF file",
        }
    }

    pub(super) fn words_of_file(self) -> &'static str {
        match self {
            Self::Engine => "a file of the engine",
            Self::Checkpoint => "a file of the checkpoint",
            Self::PeftAdapter | Self::ProcessedAdapter => "a file of the adapter",
            Self::Onnx => "model.onnx or a file that it needs",
            Self::Gguf | Self::Model | Self::Requests => "a file",
        }
    }

    /// Whether the path leads to one, whole or not: then its own error says more.
    pub(super) fn is_at(self, path: &Path) -> bool {
        let kind = || DirectoryKind::of(path);
        match self {
            Self::Engine => kind() == DirectoryKind::Engine,
            Self::Checkpoint => WeightFiles::is_at(path) && kind() != DirectoryKind::TensorRtEngine,
            Self::PeftAdapter => {
                [PEFT_CONFIG_FILE, PEFT_WEIGHTS_FILE].iter().any(|name| path.join(name).is_file())
            }
            Self::ProcessedAdapter => path.is_file() || path.join(PROCESSED_WEIGHTS_FILE).is_file(),
            Self::Onnx => ONNX_FILES.iter().any(|name| path.join(name).is_file()),
            Self::Gguf | Self::Model | Self::Requests => path.is_file(),
        }
    }
}
