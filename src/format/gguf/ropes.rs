//! How a GGUF file says that rotary frequencies are stretched: keys, or a tensor of factors, one for each frequency.
//!
//! Llama 3's rule comes as its factors; LongRoPE as two tensors. Source: llama.cpp's converter and its `llama-model`.

use serde_json::{Value, json};

use super::cursor::damaged;
use super::file::GgufFile;
use super::metadata::missing;
use crate::format::FormatError;
use crate::format::error::unsupported;
use crate::numbers::architecture::{Architecture, LongRopeTable, RopeScaling};
use crate::numbers::gguf::BlockKind;

/// More than half of any head.
const MAX_FACTORS: usize = 1 << 11;
pub(super) const LLAMA3_FACTORS: &str = "rope_freqs.weight";
pub(super) const LONG_FACTORS: &str = "rope_factors_long.weight";
pub(super) const SHORT_FACTORS: &str = "rope_factors_short.weight";

/// What config.json would have as `rope_scaling`. `prefix` is the architecture's.
pub(super) fn rope_scaling(file: &GgufFile, all: &[u8], prefix: &str) -> Result<Value, FormatError> {
    let key = |name: &str| format!("{prefix}.rope.scaling.{name}");
    let metadata = &file.metadata;
    let tables = (factors(file, all, SHORT_FACTORS)?, factors(file, all, LONG_FACTORS)?);
    if let (Some(short), Some(long)) = tables {
        let mut scaling = json!({"rope_type": "longrope", "short_factor": short, "long_factor": long});
        if let Some(factor) = metadata.number(&key("attn_factor"))? {
            scaling["attention_factor"] = factor.into();
        }
        return Ok(scaling);
    }
    let kind = metadata.text(&key("type"))?;
    match kind.unwrap_or("none") {
        "none" => Ok(Value::Null),
        "linear" => Ok(json!({"rope_type": "linear", "factor": metadata.number(&key("factor"))?})),
        "yarn" => yarn(file, &key),
        other => {
            let supported = "none, linear, yarn, and longrope with its factors";
            Err(unsupported("rope.scaling.type", other, supported))
        }
    }
}

/// What the converter found in the checkpoint's configuration; `key` gives the name of one of its keys.
fn yarn(file: &GgufFile, key: &dyn Fn(&str) -> String) -> Result<Value, FormatError> {
    let number = |name: &str| file.metadata.number(&key(name));
    let factor = number("factor")?.ok_or_else(|| missing(&key("factor")))?;
    if let Some(found) = number("yarn_ext_factor")?.filter(|found| *found != 1.0) {
        return Err(unsupported("rope.scaling.yarn_ext_factor", found, "1"));
    }
    let original = file.metadata.size(&key("original_context_length"))?;
    let mut scaling = json!({
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
        "beta_fast": number("yarn_beta_fast")?,
        "beta_slow": number("yarn_beta_slow")?,
        "attention_factor": number("yarn_attn_factor")?,
    });
    // llama.cpp multiplies what follows from the factor by it.
    if let (Some(more), None) = (number("attn_factor")?, number("yarn_attn_factor")?) {
        scaling["attention_factor"] = (more * (0.1 * factor.max(1.0).ln() + 1.0)).into();
    }
    Ok(scaling)
}

/// The factors of Llama 3, where the file has them: the same for texts of all lengths.
pub(super) fn llama3_factors(
    file: &GgufFile,
    all: &[u8],
    architecture: &Architecture,
) -> Result<Option<RopeScaling>, FormatError> {
    let Some(factors) = factors(file, all, LLAMA3_FACTORS)? else { return Ok(None) };
    if architecture.rope.scaling != RopeScaling::None {
        return Err(unsupported("rope.scaling.type", "one with rope_freqs beside it", "one of them"));
    }
    let wanted = architecture.rotary_dim() / 2;
    if factors.len() != wanted {
        let (name, wanted, found) = (LLAMA3_FACTORS.to_owned(), vec![wanted], vec![factors.len()]);
        return Err(FormatError::Shape { name, wanted, found });
    }
    let table = LongRopeTable { factors, attention_factor: 1.0 };
    let (short, original_max_positions) = (table.clone(), architecture.max_positions);
    Ok(Some(RopeScaling::LongRope { short, long: table, original_max_positions }))
}

fn factors(file: &GgufFile, all: &[u8], name: &str) -> Result<Option<Vec<f64>>, FormatError> {
    let Some(tensor) = file.tensor(name) else { return Ok(None) };
    let &[n_factors] = &tensor.shape[..] else {
        return Err(damaged(format!("tensor {name} has {} dimensions, wanted 1", tensor.shape.len())));
    };
    if tensor.kind != BlockKind::F32 || n_factors > MAX_FACTORS {
        let found = format!("{n_factors} {}", tensor.kind.name());
        return Err(damaged(format!("tensor {name} holds {found}, wanted up to {MAX_FACTORS} F32")));
    }
    let mut factors = vec![0.0; n_factors];
    tensor.kind.decode(&all[tensor.bytes.clone()], &mut factors);
    match factors.iter().find(|factor| !(factor.is_finite() && **factor > 0.0)) {
        Some(found) => Err(damaged(format!("tensor {name} holds {found}, wanted numbers above 0"))),
        None => Ok(Some(factors.into_iter().map(f64::from).collect())),
    }
}
