//! The library against references made by others, and against itself. One program, for linking takes longer than most tests.

#[path = "../support/mod.rs"]
mod support;

mod architecture;
mod bench;
mod combined;
mod cuda;
mod demo;
mod families;
mod gguf;
mod gpu_decoder;
mod invariance;
mod jinja;
mod kernels;
mod merge;
mod not_finite;
mod onnx;
mod openai_lines;
mod parity;
mod products;
mod quantize_llm;
mod quantized;
mod same_bits;
mod special_tokens;
mod spool_files;
mod spool_wire;
mod template_places;
mod text;
mod token_table;
mod tools;
mod ways_out;
