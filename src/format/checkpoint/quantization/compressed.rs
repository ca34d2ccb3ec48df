//! `quantization_config` of compressed-tensors (llm-compressor): groups of modules, each with its scheme.
//!
//! Source: `quantization/quant_args.py`, `quant_config.py` and `utils/match.py` of compressed-tensors 0.12. A module
//! has the scheme of the target that says most: its own path, then an expression, then the class of module.

use serde_json::Value;

use super::algorithm::{Algorithm, Bits, Packed};
use super::keys::{group_or_row, texts, unsupported};
use super::modules::{Expression, Names, Quantization, Rule};
use crate::format::FormatError;
use crate::format::json::{Object, shown};

const GROUPS: &str = "quantization_config.config_groups.";

pub(super) fn compressed(config: Object) -> Result<Quantization, FormatError> {
    refuse_what_changes_weights(config)?;
    let whole_format = config.optional_text("format")?;
    let groups = config.object("config_groups", GROUPS)?;
    let mut rules = Vec::new();
    for name in texts(config, "ignore")? {
        rules.push(Rule { names: target(config, "ignore", &name)?, algorithm: None });
    }
    let mut targeted = Vec::new();
    let mut activations = None;
    for name in groups.map.keys() {
        let Some(Value::Object(map)) = groups.get(name) else {
            return Err(unsupported("compressed-tensors config_groups by the name of a preset", name));
        };
        let path = format!("{GROUPS}{name}.");
        let group = Object { file: config.file, path: &path, map };
        let path = format!("{path}weights.");
        let Some(weights) = group.optional_object("weights", &path)? else { continue };
        let format = group.optional_text("format")?.or(whole_format).unwrap_or("without format");
        let algorithm = Some(algorithm(format, weights)?);
        for name in texts(group, "targets")? {
            targeted.push(Rule { names: target(group, "targets", &name)?, algorithm });
        }
        activations = activations.or(arguments(group, "input_activations")?);
    }
    // As ordered there: own paths, expressions, classes; equal ones stay as they come.
    targeted.sort_by_key(|rule| match rule.names {
        Names::Path(_) => 0,
        Names::Expression(_) => 1,
        _ => 2,
    });
    rules.extend(targeted);
    let cache = arguments(config, "kv_cache_scheme")?;
    Ok(Quantization { cache, activations, ..Quantization::of(None, rules) })
}

/// Sparse weights, rotations of weights, and weights that are not compressed.
fn refuse_what_changes_weights(config: Object) -> Result<(), FormatError> {
    if let Some(sparsity) =
        config.optional_object("sparsity_config", "quantization_config.sparsity_config.")?
        && let Some(format) = sparsity.optional_text("format")?
        && format != "dense"
    {
        return Err(unsupported("compressed-tensors sparsity_config", format));
    }
    if let Some(transforms) =
        config.optional_object("transform_config", "quantization_config.transform_config.")?
        && transforms
            .get("config_groups")
            .is_some_and(|groups| groups.as_object().is_none_or(|g| !g.is_empty()))
    {
        return Err(unsupported("compressed-tensors transform_config", "rotations of the weights"));
    }
    match config.optional_text("quantization_status")? {
        None | Some("compressed") => Ok(()),
        Some(status) => Err(unsupported("compressed-tensors quantization_status", status)),
    }
}

/// A path, an expression behind `re:`, or a class of modules.
fn target(object: Object, key: &str, name: &str) -> Result<Names, FormatError> {
    match name.strip_prefix("re:") {
        Some(source) => Expression::new(source)
            .map(Names::Expression)
            .ok_or_else(|| object.wrong(key, format!("regular expressions, found {name}"))),
        None if name == "Linear" => Ok(Names::Linear),
        None => Ok(Names::Path(name.to_owned())),
    }
}

fn algorithm(format: &str, weights: Object) -> Result<Algorithm, FormatError> {
    let bits = weights.optional_size("num_bits")?.unwrap_or(8);
    let number = weights.optional_text("type")?.unwrap_or("int");
    let is_symmetric = weights.optional_flag("symmetric")?.unwrap_or(true);
    let strategy = strategy(weights)?;
    let found = || format!("{format} with weights of {bits} bits, type {number}, strategy {strategy}");
    let refused = || Err(unsupported("compressed-tensors scheme", found()));
    match (format, number, bits, strategy) {
        ("pack-quantized", "int", 4 | 8, "group" | "channel") => {
            let bits = if bits == 4 { Bits::Four } else { Bits::Eight };
            let group = if strategy == "group" { group_or_row(weights)? } else { None };
            Ok(Algorithm::Packed(Packed { bits, group, is_symmetric }))
        }
        _ if !is_symmetric => {
            Err(unsupported("compressed-tensors scheme", format!("{}, not symmetric", found())))
        }
        ("int-quantized" | "naive-quantized", "int", 8, "tensor" | "channel") => Ok(Algorithm::Int8),
        ("float-quantized" | "naive-quantized", "float", 8, "tensor" | "channel") => Ok(Algorithm::Fp8),
        ("float-quantized" | "naive-quantized", "float", 8, "block") => {
            block(weights, "block_structure").map(Algorithm::Fp8Blocks)
        }
        ("nvfp4-pack-quantized", "float", 4, "tensor_group" | "group") => match weights.size("group_size")? {
            16 => Ok(Algorithm::PackedNvfp4),
            _ => Err(weights.wrong("group_size", "16, as NVFP4 has")),
        },
        _ => refused(),
    }
}

/// As `QuantizationArgs` finds it where it is not written.
fn strategy<'a>(weights: Object<'a>) -> Result<&'a str, FormatError> {
    if let Some(strategy) = weights.optional_text("strategy")? {
        return Ok(strategy);
    }
    Ok(match weights.get("group_size").and_then(Value::as_i64) {
        None => "tensor",
        Some(-1) => "channel",
        Some(_) => "group",
    })
}

/// `[outputs, inputs]` that share a scale.
pub(super) fn block(config: Object, key: &str) -> Result<[usize; 2], FormatError> {
    let wrong = || config.wrong(key, "two numbers above 0, the second a multiple of 32");
    let size = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok());
    let sizes: Option<Vec<usize>> =
        config.get(key).and_then(Value::as_array).and_then(|sizes| sizes.iter().map(size).collect());
    match sizes.as_deref() {
        Some(&[rows, inputs])
            if rows > 0 && inputs > 0 && inputs.is_multiple_of(32) && rows.max(inputs) <= 1 << 20 =>
        {
            Ok([rows, inputs])
        }
        _ => Err(wrong()),
    }
}

/// What numbers were meant to be rounded to, such as `8 bits int token dynamic`.
fn arguments(config: Object, key: &str) -> Result<Option<String>, FormatError> {
    let Some(arguments) = config.optional_object(key, key)? else { return Ok(None) };
    let bits = arguments.optional_size("num_bits")?.unwrap_or(8);
    let number = arguments.optional_text("type")?.unwrap_or("int");
    let strategy = strategy(arguments)?;
    let dynamic = match arguments.get("dynamic") {
        None | Some(Value::Bool(false)) => "static".to_owned(),
        Some(Value::Bool(true)) => "dynamic".to_owned(),
        Some(other) => shown(other),
    };
    Ok(Some(format!("{bits} bits {number} per {strategy} {dynamic}")))
}
