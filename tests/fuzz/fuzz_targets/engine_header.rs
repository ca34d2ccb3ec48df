//! A safetensors file, and the JSON files beside it.
#![no_main]

use std::sync::Arc;

use jetspool::format::{EngineConfig, PeftConfig, ShardIndex, TensorFile, parse_checkpoint_config};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = TensorFile::parse(Arc::new(bytes.to_vec()));
    let _ = EngineConfig::from_json(bytes);
    let _ = parse_checkpoint_config(bytes);
    let _ = PeftConfig::parse(bytes);
    let _ = ShardIndex::parse(bytes);
});
