//! ModelOpt's table, in `hf_quant_config.json` or in config.json.

use super::algorithm::Algorithm;
use super::keys::{group_size, left_out, texts, unsupported};
use super::modules::{Names, Quantization, Rule};
use crate::format::FormatError;
use crate::format::json::Object;

pub(super) fn modelopt(config: Object) -> Result<Quantization, FormatError> {
    let name = config.text("quant_algo")?;
    let (default, mut rules) = match name {
        "MIXED_PRECISION" => (None, quantized_layers(config)?),
        other => (Some(modelopt_algorithm(other, config)?), Vec::new()),
    };
    let excluded = match texts(config, "exclude_modules")? {
        some if !some.is_empty() => some,
        _ => texts(config, "ignore")?,
    };
    rules.extend(left_out(excluded, Names::Pattern));
    let cache = match config.optional_text("kv_cache_quant_algo")? {
        None if config.get("kv_cache_scheme").is_some() => Some("FP8".to_owned()),
        name => name.map(str::to_owned),
    };
    Ok(Quantization { cache, ..Quantization::of(default, rules) })
}

fn modelopt_algorithm(name: &str, config: Object) -> Result<Algorithm, FormatError> {
    let expected_group = |wanted: usize| match config.optional_size("group_size")? {
        None => Ok(()),
        Some(found) if found == wanted => Ok(()),
        Some(_) => Err(config.wrong("group_size", format!("{wanted}, as {name} has"))),
    };
    match name {
        "FP8" | "FP8_PER_CHANNEL_PER_TOKEN" => Ok(Algorithm::Fp8),
        "W8A8_SQ_PER_CHANNEL" => Ok(Algorithm::Int8),
        "MXFP8" => expected_group(32).map(|()| Algorithm::Mxfp8),
        "NVFP4" | "W4A16_NVFP4" | "NVFP4_AWQ" => expected_group(16).map(|()| Algorithm::Nvfp4),
        "W4A16_AWQ" => {
            if config.optional_flag("has_zero_point")?.unwrap_or(false) {
                return Err(config.wrong("has_zero_point", "false"));
            }
            Ok(Algorithm::Int4Awq { group: group_size(config, "group_size", Some(128))? })
        }
        other => Err(unsupported("quant_algo", other)),
    }
}

fn quantized_layers(config: Object) -> Result<Vec<Rule>, FormatError> {
    let layers = config.object("quantized_layers", "quantized_layers.")?;
    let mut rules = Vec::new();
    for module in layers.map.keys() {
        let layer = layers.object(module, module)?;
        let path = format!("quantized_layers.{module}.");
        let layer = Object { file: layer.file, path: &path, map: layer.map };
        let algorithm = Some(modelopt_algorithm(layer.text("quant_algo")?, layer)?);
        rules.push(Rule { names: Names::Path(module.clone()), algorithm });
    }
    Ok(rules)
}
