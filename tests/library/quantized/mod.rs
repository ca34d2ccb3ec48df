//! Quantized checkpoints: engines that hold them as they are give the logits that transformers and PEFT give
//! with the same weights dequantized, are not larger than the checkpoint, and damage is named.

mod damage;
mod engines;
mod notes;
mod numbers;
mod packed;
pub mod support;
