//! Why a file or one of its requests is not run, in words for the person who sent it.

use serde::{Serialize, Serializer};

/// The stable word of a fault; programs may branch on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultCode {
    /// The file is not JSON, has no `requests`, or a top-level field is wrong.
    BadFile,
    /// The file is over a limit of size or number, or a request needs more memory than the daemon has.
    TooLarge,
    /// What was dropped is not a regular file that may be read.
    NotAFile,
    /// A field of the request is missing or wrong.
    BadRequest,
    /// Images, audio and video.
    UnsupportedContent,
    /// `lora_name`, or a name in `loras`, names no adapter.
    UnknownAdapter,
    /// The adapter does not fit the engine, or makes no finite numbers with it.
    AdapterMismatch,
    /// The adapter's file was written into while the request used it; the request may be sent again.
    AdapterChanged,
    /// The adapter's path lies outside the allowed roots, or its file cannot be read.
    AdapterRefused,
    /// The prompt is longer than the limit or than the engine takes.
    PromptTooLong,
    /// Rendering or tokenizing the prompt takes more time or memory than one request may.
    PromptTooCostly,
    /// The answer cannot be what `guided_decoding` or `response_format` wants: the guide does not compile, or no token
    /// of the vocabulary fits any more.
    Guide,
    /// The request ended the daemon several times while it ran alone, or its file did while it was read.
    GaveUp,
    /// A person or a limit of time ended the request.
    Cancelled,
    /// A defect of this program.
    Internal,
}

/// A refusal: the stable word, and a sentence that says place, wanted, found and limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub code: FaultCode,
    pub message: String,
}

impl FaultCode {
    /// The word in the answer file.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadFile => "bad-file",
            Self::TooLarge => "too-large",
            Self::NotAFile => "not-a-file",
            Self::BadRequest => "bad-request",
            Self::UnsupportedContent => "unsupported-content",
            Self::UnknownAdapter => "unknown-adapter",
            Self::AdapterMismatch => "adapter-mismatch",
            Self::AdapterChanged => "adapter-changed",
            Self::AdapterRefused => "adapter-refused",
            Self::PromptTooLong => "prompt-too-long",
            Self::PromptTooCostly => "prompt-too-costly",
            Self::Guide => "guide",
            Self::GaveUp => "gave-up",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

impl Serialize for FaultCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Fault {
    /// A fault of any code.
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A field that is missing or wrong. [`Fault::of_file`] turns it into a fault of the whole file.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(FaultCode::BadRequest, message)
    }

    /// The same fault found at the top level, where it concerns the whole file.
    pub(super) fn of_file(self) -> Self {
        match self.code {
            FaultCode::BadRequest => Self { code: FaultCode::BadFile, ..self },
            _ => self,
        }
    }
}
