//! The library against references made by others, and against itself. One program, for linking takes longer than most tests.

#[path = "../support/mod.rs"]
mod support;

#[cfg(target_arch = "x86_64")]
mod amx;
mod architecture;
mod kept_blocks;
mod kernels;
mod not_finite;
mod parity;
mod products;
mod same_bits;

// The same on every processor, or not to be emulated: scripts/check leaves them out where it emulates one.
#[cfg(not(emulated))]
mod bench;
#[cfg(not(emulated))]
mod combined;
#[cfg(not(emulated))]
mod cuda;
#[cfg(not(emulated))]
mod demo;
#[cfg(not(emulated))]
mod families;
#[cfg(not(emulated))]
mod gguf;
#[cfg(not(emulated))]
mod gpu_decoder;
#[cfg(not(emulated))]
mod gpu_sampling;
#[cfg(not(emulated))]
mod invariance;
#[cfg(not(emulated))]
mod jinja;
#[cfg(not(emulated))]
mod merge;
#[cfg(not(emulated))]
mod onnx;
#[cfg(not(emulated))]
mod openai_lines;
#[cfg(not(emulated))]
mod quantize_llm;
#[cfg(not(emulated))]
mod quantized;
#[cfg(not(emulated))]
mod special_tokens;
#[cfg(not(emulated))]
mod spool_files;
#[cfg(not(emulated))]
mod spool_wire;
#[cfg(not(emulated))]
mod static_way;
#[cfg(not(emulated))]
mod template_places;
#[cfg(not(emulated))]
mod text;
#[cfg(not(emulated))]
mod token_table;
#[cfg(not(emulated))]
mod tools;
#[cfg(not(emulated))]
mod ways_out;
