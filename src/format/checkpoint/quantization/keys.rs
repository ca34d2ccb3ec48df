//! What the readers of quantized checkpoints' configurations share.

use serde_json::Value;

use super::algorithm::Bits;
use super::modules::{Names, Rule};
use crate::format::json::{Object, shown};
use crate::format::{FormatError, error};

const ALGORITHMS: &str = "ModelOpt's FP8, FP8_PER_CHANNEL_PER_TOKEN, W4A16_AWQ, NVFP4, W4A16_NVFP4, NVFP4_AWQ, \
                          MXFP8, W8A8_SQ_PER_CHANNEL, MIXED_PRECISION; quant_method awq (version gemm, 4 bits), \
                          gptq (4 and 8 bits), auto-round (packed as GPTQ or AWQ), fp8, compressed-tensors \
                          (pack-quantized, int-quantized, float-quantized, nvfp4-pack-quantized), bitsandbytes (nf4)";
/// Longest list of modules that is read.
const MAX_PATTERNS: usize = 10_000;

pub(super) fn unsupported(what: &'static str, found: impl ToString) -> FormatError {
    error::unsupported(what, found, ALGORITHMS)
}

/// 4 or 8, under the first of the keys that is there.
pub(super) fn bits(config: Object, keys: &[&str]) -> Result<Bits, FormatError> {
    let key = keys.iter().find(|key| config.get(key).is_some()).unwrap_or(&keys[0]);
    match config.size(key)? {
        4 => Ok(Bits::Four),
        8 => Ok(Bits::Eight),
        bits => Err(unsupported("number of bits", bits)),
    }
}

/// A whole number of stored blocks.
pub(super) fn group_size(config: Object, key: &str, default: Option<usize>) -> Result<usize, FormatError> {
    let found = match config.optional_size(key)?.or(default) {
        Some(group) => group,
        None => config.size(key)?,
    };
    if found == 0 || !found.is_multiple_of(32) || found > 1 << 20 {
        return Err(config.wrong(key, "a multiple of 32"));
    }
    Ok(found)
}

/// The same, or none for -1: a row is one group.
pub(super) fn group_or_row(config: Object) -> Result<Option<usize>, FormatError> {
    match config.get("group_size").and_then(Value::as_i64) {
        Some(-1) => Ok(None),
        _ => group_size(config, "group_size", None).map(Some),
    }
}

pub(super) fn texts(config: Object, key: &str) -> Result<Vec<String>, FormatError> {
    let Some(value) = config.get(key) else { return Ok(Vec::new()) };
    let list = value.as_array().filter(|list| list.len() <= MAX_PATTERNS);
    let texts = list.and_then(|list| list.iter().map(|item| item.as_str().map(str::to_owned)).collect());
    texts.ok_or_else(|| config.wrong(key, format!("a list of names, found {}", shown(value))))
}

/// Modules with such names are not quantized.
pub(super) fn left_out(names: Vec<String>, kind: fn(String) -> Names) -> Vec<Rule> {
    names.into_iter().map(|name| Rule { names: kind(name), algorithm: None }).collect()
}
