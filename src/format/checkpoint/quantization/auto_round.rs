//! `quantization_config` of AutoRound: codes as GPTQ or AutoAWQ pack them, with settings of single layers.
//!
//! Source: `export/export_to_autoround/export.py` and `inference/convert_model.py` of auto-round 0.9 to 0.16.

use serde_json::Value;

use super::algorithm::{Algorithm, Bits, Gptq};
use super::keys::{bits, group_or_row, unsupported};
use super::modules::{Expression, Names, Quantization, Rule};
use crate::format::FormatError;
use crate::format::json::Object;

const EXTRA: &str = "quantization_config.extra_config.";

pub(super) fn auto_round(config: Object) -> Result<Quantization, FormatError> {
    let packing = config.optional_text("packing_format")?.unwrap_or("auto_round:auto_gptq");
    let default = algorithm(config, config, packing)?;
    let mut rules = Vec::new();
    if let Some(layers) = config.optional_object("extra_config", EXTRA)? {
        for name in layers.map.keys() {
            let Some(Value::Object(map)) = layers.get(name) else {
                return Err(layers.wrong(name, "an object"));
            };
            let path = format!("{EXTRA}{name}.");
            let layer = Object { file: config.file, path: &path, map };
            let algorithm = algorithm(layer, config, packing)?;
            rules.push(Rule { names: Names::Path(name.clone()), algorithm });
            // Names that are no layer's are expressions there.
            if let Some(expression) = Expression::anywhere(name).filter(|_| is_expression(name)) {
                rules.push(Rule { names: Names::Expression(expression), algorithm });
            }
        }
    }
    rules.sort_by_key(|rule| matches!(rule.names, Names::Expression(_)));
    let activations = config.optional_size("act_bits")?.filter(|bits| *bits < 16);
    let activations = activations.map(|bits| format!("{bits} bits"));
    Ok(Quantization { activations, ..Quantization::of(default, rules) })
}

/// Whether a name has what no path of a module has.
fn is_expression(name: &str) -> bool {
    name.contains(['*', '^', '$', '|', '(', ')', '[', ']', '?', '+', '\\'])
}

/// Of a layer, or of all of them; what a layer does not say, `whole` does. None: it is not quantized.
fn algorithm(layer: Object, whole: Object, packing: &str) -> Result<Option<Algorithm>, FormatError> {
    let of = |key: &str| if layer.get(key).is_some() { layer } else { whole };
    if layer.optional_size("bits")?.is_some_and(|bits| bits >= 16) {
        return Ok(None);
    }
    let data_type = of("data_type").optional_text("data_type")?.unwrap_or("int");
    if data_type != "int" {
        return Err(unsupported("AutoRound data_type", data_type));
    }
    let bits = bits(of("bits"), &["bits"])?;
    let group = group_or_row(of("group_size"))?;
    let is_symmetric = of("sym").optional_flag("sym")?.unwrap_or(true);
    let gptq = |zero_offset| Algorithm::Gptq(Gptq { bits, group, zero_offset, is_symmetric });
    match packing {
        "auto_round:auto_awq" | "auto_round:awq" | "awq" => match (bits, group) {
            (Bits::Four, Some(group)) => Ok(Some(Algorithm::Awq { group })),
            _ => Err(unsupported("AutoRound packed as AWQ", "8 bits or whole rows")),
        },
        "auto_round:auto_gptq" | "auto_round:gptq" => Ok(Some(gptq(1))),
        // Its own kernels, and GPTQModel's: zeros as they are.
        "auto_round" | "auto_round:exllamav2" | "auto_round:gptqmodel" | "auto_round:tritonv2" => {
            Ok(Some(gptq(0)))
        }
        other => Err(unsupported("AutoRound packing_format", other)),
    }
}
