//! The fixtures, and changed copies of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{build_options, limits, reference, tensors};
use jetspool::format::TensorFile;
use jetspool::numbers::Precision;
use jetspool::tools::{BuildOptions, build};
use safetensors::Dtype;
use serde_json::Value;

/// What export-llm makes of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InGraph {
    AsItIs,
    /// Where DequantizeLinear cannot say some of it.
    AsNumbers,
}

/// Every checkpoint of the fixtures.
pub const CASES: [(&str, InGraph); 26] = [
    ("auto_round", InGraph::AsNumbers),
    ("auto_round_awq", InGraph::AsItIs),
    ("auto_round_gptq", InGraph::AsItIs),
    ("awq_g128", InGraph::AsItIs),
    ("awq_g64", InGraph::AsItIs),
    ("ct_float", InGraph::AsNumbers),
    ("ct_mixed", InGraph::AsItIs),
    ("ct_packed", InGraph::AsNumbers),
    ("fp4", InGraph::AsNumbers),
    ("fp8", InGraph::AsItIs),
    ("fp8_blocks", InGraph::AsNumbers),
    ("fp8_scale", InGraph::AsItIs),
    ("fp8_tensor", InGraph::AsItIs),
    ("fused_gptq", InGraph::AsNumbers),
    ("fused_int4_awq", InGraph::AsItIs),
    ("gptq_8bit", InGraph::AsNumbers),
    ("gptq_order", InGraph::AsNumbers),
    ("gptq_row", InGraph::AsItIs),
    ("gptq_symmetric", InGraph::AsItIs),
    ("gptq_v2", InGraph::AsItIs),
    ("int4_awq", InGraph::AsItIs),
    ("int8_sq", InGraph::AsItIs),
    ("mixed", InGraph::AsItIs),
    ("mxfp8", InGraph::AsItIs),
    ("nf4", InGraph::AsNumbers),
    ("nvfp4", InGraph::AsItIs),
];

pub fn names() -> impl Iterator<Item = &'static str> {
    CASES.into_iter().map(|(name, _)| name)
}

pub(super) fn checkpoint(name: &str) -> PathBuf {
    reference("quantized").join(name)
}

pub(super) fn options(model_dir: &Path, engine_dir: &Path, precision: Precision) -> BuildOptions {
    BuildOptions { limits: limits(), ..build_options(model_dir, engine_dir, precision, 0) }
}

pub(super) fn refused(model_dir: &Path, precision: Precision) -> String {
    let scratch = tempfile::tempdir().unwrap();
    match build(&options(model_dir, &scratch.path().join("engine"), precision)) {
        Ok(_) => panic!("{} was built", model_dir.display()),
        Err(error) => {
            assert_eq!(error.exit_code(), 65, "{error}");
            assert!(!scratch.path().join("engine").exists(), "{error} left files");
            error.to_string()
        }
    }
}

/// A tensor of a checkpoint: type, shape, bytes.
pub(super) type Parts = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

pub(super) fn parts(file: &TensorFile) -> Parts {
    let of = |name: &str| {
        let tensor = file.get(name).unwrap();
        (tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec())
    };
    file.names().map(|name| (name.to_owned(), of(name))).collect()
}

pub(super) fn write(parts: &Parts, path: &Path) {
    let views = parts.iter().map(|(name, (dtype, shape, data))| {
        (name.as_str(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A copy of a checkpoint with changed tensors and configuration.
pub(super) fn changed(
    name: &str,
    change: impl FnOnce(&mut Parts),
    config: impl FnOnce(&mut Value),
) -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let source = checkpoint(name);
    let mut tensors = parts(&tensors(&source.join("model.safetensors")));
    change(&mut tensors);
    write(&tensors, &scratch.path().join("model.safetensors"));
    let mut json = crate::support::json(&source.join("config.json"));
    config(&mut json);
    fs::write(scratch.path().join("config.json"), json.to_string()).unwrap();
    if let Ok(bytes) = fs::read(source.join("hf_quant_config.json")) {
        fs::write(scratch.path().join("hf_quant_config.json"), bytes).unwrap();
    }
    scratch
}
