//! What `build` asks of a quantized checkpoint beside its rows: which precision, which notes.

use std::collections::BTreeSet;

use crate::format::Tensor;
use crate::format::adapter::listed;
use crate::format::engine::{HEAD, Item};
use crate::numbers::Precision;
use crate::numbers::precision::ROW_ALIGN;
use crate::store::Checkpoint;
use crate::store::checkpoint::packed_names;
use crate::tools::ToolError;
use crate::tools::weights::quantized_source::PARTS;
use crate::tools::weights::source::RowSource;

/// The precision of the engine: a quantized checkpoint stays as it is, or becomes numbers.
///
/// # Errors
/// [`ToolError::Refused`] for another quantization than the checkpoint's, or weights that are not packed.
pub fn resolve_precision(wanted: Precision, checkpoint: &Checkpoint) -> Result<Precision, ToolError> {
    let Some(quantization) = &checkpoint.config.quantization else {
        return Ok(if wanted == Precision::Stored { Precision::F16 } else { wanted });
    };
    let path = checkpoint.directory().to_owned();
    if let Some(name) = checkpoint.names().find(|name| name.contains("_quantizer.")) {
        let what = format!("tensor {name}: the weights are not packed, they only carry what quantizes them");
        let advice =
            "quantize again to a unified checkpoint: quantize-llm of this program or of release 0.10";
        return Err(ToolError::Refused { path, what, advice });
    }
    match wanted {
        Precision::F32 | Precision::F16 | Precision::Stored => Ok(wanted),
        _ if quantization.precision() == Some(wanted) => Ok(Precision::Stored),
        // Its codes meet f32; rounded again they meet codes, which is faster.
        _ if quantization.has_levels() => Ok(wanted),
        Precision::Int8 | Precision::Int4 => {
            let what = format!("the checkpoint is quantized as {}, not as {wanted}", quantization.name());
            let advice = "leave --precision out to keep it so, or give f16 or f32 to dequantize it";
            Err(ToolError::Refused { path, what, advice })
        }
    }
}

/// Whether the head has a quantization of its own, and so cannot be the embedding table.
pub fn has_quantized_head(checkpoint: &Checkpoint) -> bool {
    let is_there = |name: &String| checkpoint.tensor(name).is_some();
    let scales = ["scale", "scale_inv"].map(|part| format!("{HEAD}_{part}"));
    let is_quantized = scales.iter().chain(&packed_names(HEAD)).any(is_there);
    is_quantized && checkpoint.config.quantization.is_some()
}

/// Whether a tensor belongs to a quantized layer that is used, or is a bias of zeros, as GPTQ's tools write
/// them where the model has none.
pub fn is_quantization_part(checkpoint: &Checkpoint, name: &str, used: &BTreeSet<String>) -> bool {
    if checkpoint.config.quantization.is_none() {
        return false;
    }
    // bitsandbytes has its numbers below the weight's own name.
    if let Some((module, _)) = name.split_once(".weight.") {
        return used.contains(&format!("{module}.weight"));
    }
    let Some((module, part)) = name.rsplit_once('.') else { return false };
    // Scales of a cache stand at k and v, also where the checkpoint has those in one matrix.
    if ["k_scale", "v_scale"].contains(&part) {
        return true;
    }
    if !used.contains(&format!("{module}.weight")) {
        return false;
    }
    let is_zero = |tensor: Tensor| tensor.data().iter().all(|byte| *byte == 0);
    PARTS.contains(&part) || (part == "bias" && checkpoint.tensor(name).is_some_and(is_zero))
}

/// What is quantized, and cannot stay so.
pub fn numbers_note(items: &[Item], sources: &[RowSource], precision: Precision) -> Option<String> {
    let becomes_numbers = |source: &RowSource| source.is_quantized() && source.packed().is_none();
    let all = items.iter().zip(sources).filter(|(_, source)| becomes_numbers(source));
    let names: Vec<&str> = all.map(|(item, _)| item.name()).collect();
    (precision == Precision::Stored && !names.is_empty()).then(|| {
        let (count, names) = (names.len(), listed(&names));
        format!(
            "{count} quantized matrices become f16, for no kind of weights fits them (rows are whole groups of \
             {ROW_ALIGN} inputs): {names}"
        )
    })
}

/// What of the checkpoint an engine does not do.
pub fn quantization_notes(checkpoint: &Checkpoint) -> Vec<String> {
    let Some(quantization) = &checkpoint.config.quantization else { return Vec::new() };
    let mut notes = Vec::new();
    let n_scales = checkpoint.names().filter(|name| name.ends_with(".input_scale")).count();
    if n_scales > 0 {
        notes.push(format!(
            "{n_scales} input_scale are not applied: weights are used as quantized, activations have scales of their own"
        ));
    }
    if let Some(activations) = &quantization.activations {
        notes.push(format!(
            "rounding of activations ({activations}) is not applied: weights are used as quantized, activations have \
             scales of their own"
        ));
    }
    if let Some(cache) = &quantization.cache {
        notes.push(format!("kv_cache_quant_algo {cache} is not applied: keys and values are kept as f16"));
    }
    notes
}
