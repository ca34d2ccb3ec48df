//! An ONNX graph, and the configuration beside it.
#![no_main]

use jetspool::format::onnx::OnnxConfig;
use jetspool::format::onnx::model::Model;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = Model::parse(bytes);
    let _ = OnnxConfig::from_json(bytes);
});
