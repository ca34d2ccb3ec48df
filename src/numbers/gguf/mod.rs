//! The kinds of weights in GGUF files, and how their blocks become f32: the bits that ggml's own code gives.

mod blocks;
mod kind;
mod parts;
mod super_blocks;

pub use blocks::Codes;
pub use kind::BlockKind;
pub use parts::RowParts;
