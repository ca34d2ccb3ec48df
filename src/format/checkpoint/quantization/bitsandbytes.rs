//! `quantization_config` of bitsandbytes, as transformers writes it.

use super::algorithm::Algorithm;
use super::keys::{left_out, texts, unsupported};
use super::modules::{Names, Quantization};
use crate::format::FormatError;
use crate::format::json::Object;
use crate::numbers::Levels;

pub(super) fn bitsandbytes(config: Object) -> Result<Quantization, FormatError> {
    let is_set = |key: &str| Ok::<bool, FormatError>(config.optional_flag(key)?.unwrap_or(false));
    if is_set("load_in_8bit")? || is_set("_load_in_8bit")? {
        return Err(unsupported("bitsandbytes", "load_in_8bit (LLM.int8)"));
    }
    if !is_set("load_in_4bit")? && !is_set("_load_in_4bit")? {
        return Err(unsupported("bitsandbytes", "neither 4 nor 8 bits"));
    }
    let kind = config.optional_text("bnb_4bit_quant_type")?.unwrap_or("fp4");
    let levels = Levels::from_name(kind);
    let levels = levels.ok_or_else(|| unsupported("bitsandbytes bnb_4bit_quant_type", kind))?;
    let skipped = left_out(texts(config, "llm_int8_skip_modules")?, Names::Part);
    Ok(Quantization::of(Some(Algorithm::Levels(levels)), skipped))
}
