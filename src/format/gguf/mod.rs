//! GGUF files (versions 2 and 3, little endian): metadata, tensors in place, and what both say of a decoder.

mod cursor;
mod decoder;
mod file;
mod metadata;
mod names;
mod ropes;
mod vocabulary;

pub use decoder::{GgufDecoder, read_decoder};
pub use file::{GgufFile, GgufTensor};
pub use metadata::{Metadata, Value};
pub use names::{GgufPlace, RowOrder, gguf_module_place, gguf_place};
pub use vocabulary::{GgufVocabulary, read_vocabulary};
