//! Checkpoints whose codes lie in words of 32 bits: AutoAWQ and GPTQ.

use super::algorithm::{Algorithm, Bits, Gptq};
use super::keys::{bits, group_or_row, group_size, left_out, texts, unsupported};
use super::modules::{Names, Quantization};
use crate::format::FormatError;
use crate::format::json::Object;

pub(super) fn awq(config: Object) -> Result<Quantization, FormatError> {
    if bits(config, &["bits", "w_bit"])? != Bits::Four {
        return Err(unsupported("number of bits of AWQ", 8));
    }
    let version = config.optional_text("version")?.unwrap_or("gemm");
    if !version.eq_ignore_ascii_case("gemm") {
        return Err(unsupported("AWQ version", version));
    }
    if let Some(device) = config.optional_text("device")?
        && device != "autoawq"
    {
        return Err(unsupported("AWQ device", device));
    }
    let key = if config.get("q_group_size").is_some() { "q_group_size" } else { "group_size" };
    let default = Some(Algorithm::Awq { group: group_size(config, key, Some(128))? });
    Ok(Quantization::of(default, left_out(texts(config, "modules_to_not_convert")?, Names::Part)))
}

pub(super) fn gptq(config: Object) -> Result<Quantization, FormatError> {
    let bits = bits(config, &["bits"])?;
    let zero_offset = match config.optional_text("checkpoint_format")?.unwrap_or("gptq") {
        "gptq" => 1,
        "gptq_v2" => 0,
        other => return Err(unsupported("GPTQ checkpoint_format", other)),
    };
    if config.optional_flag("is_marlin_format")?.unwrap_or(false) {
        return Err(unsupported("GPTQ checkpoint_format", "marlin"));
    }
    if let Some(rules) = config.optional_object("dynamic", "quantization_config.dynamic.")?
        && let Some(rule) = rules.map.keys().find(|rule| !rule.starts_with("-:"))
    {
        return Err(unsupported("GPTQ with other settings for some layers", rule));
    }
    let group = group_or_row(config)?;
    let is_symmetric = config.optional_flag("sym")?.unwrap_or(false);
    let gptq = Gptq { bits, group, zero_offset, is_symmetric };
    Ok(Quantization::of(Some(Algorithm::Gptq(gptq)), Vec::new()))
}
