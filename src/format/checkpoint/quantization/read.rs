//! What a checkpoint says of its quantization: `hf_quant_config.json`, or `quantization_config` in config.json.
//!
//! Sources: the unified checkpoints of NVIDIA ModelOpt, AutoAWQ (`version` gemm) and GPTQ (AutoGPTQ,
//! GPTQModel). The tensors are in [`crate::numbers::kind`]'s terms only after `build` has read them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::format::json::{Object, parse_object, shown};
use crate::format::{FormatError, error};
use crate::numbers::precision::Precision;

const FILE: &str = "hf_quant_config.json";
const ALGORITHMS: &str = "FP8, FP8_PER_CHANNEL_PER_TOKEN, W4A16_AWQ, NVFP4, W4A16_NVFP4, NVFP4_AWQ, MXFP8, \
                          W8A8_SQ_PER_CHANNEL, MIXED_PRECISION; quant_method awq (version gemm) and gptq, 4 bits";
/// Longest list of modules that is read.
const MAX_PATTERNS: usize = 10_000;

/// How the weights of a module are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// One scale for the matrix, or one for each output.
    Fp8,
    Mxfp8,
    Nvfp4,
    /// ModelOpt's `W4A16_AWQ`; `group` inputs share a scale.
    Int4Awq {
        group: usize,
    },
    /// `W8A8_SQ_PER_CHANNEL`.
    Int8Sq,
    /// AutoAWQ.
    Awq {
        group: usize,
    },
    Gptq(Gptq),
}

/// What a GPTQ checkpoint says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gptq {
    /// None: a row is one group.
    pub group: Option<usize>,
    /// Added to the stored zeros: 1 in the first version of the layout, 0 in the second.
    pub zero_offset: u8,
    pub is_symmetric: bool,
}

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Fp8 => "fp8",
            Algorithm::Mxfp8 => "mxfp8",
            Algorithm::Nvfp4 => "nvfp4",
            Algorithm::Int4Awq { .. } => "int4_awq",
            Algorithm::Int8Sq => "int8_sq",
            Algorithm::Awq { .. } => "awq",
            Algorithm::Gptq(_) => "gptq",
        }
    }
}

/// The algorithm of each module.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantization {
    /// Of modules that are not named; none: they are not quantized.
    default: Option<Algorithm>,
    named: BTreeMap<String, Algorithm>,
    excluded: Excluded,
    /// What the key-value cache was meant to be stored as, such as `FP8`.
    pub cache: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Excluded {
    /// Paths of modules or of what holds them; `*` stands for anything.
    Patterns(Vec<String>),
    /// Any part of the path.
    Parts(Vec<String>),
}

impl Quantization {
    /// Reads `hf_quant_config.json`.
    ///
    /// # Errors
    /// [`FormatError::Unsupported`] names what is not read; [`FormatError::Key`] a wrong value.
    pub fn from_hf_quant_config(bytes: &[u8]) -> Result<Self, FormatError> {
        let map = parse_object(FILE, bytes)?;
        let top = Object { file: FILE, path: "", map: &map };
        modelopt(top.object("quantization", "quantization.")?)
    }

    /// Reads `quantization_config` of config.json.
    ///
    /// # Errors
    /// As above.
    pub fn from_config(config: Object) -> Result<Self, FormatError> {
        match config.optional_text("quant_method")?.unwrap_or("without quant_method") {
            method if method.starts_with("modelopt") => modelopt(config),
            "awq" => awq(config),
            "gptq" => gptq(config),
            other => Err(unsupported("quant_method", other)),
        }
    }

    /// The algorithm of a module such as `model.layers.0.mlp.up_proj`; none where it is not quantized.
    pub fn algorithm(&self, module: &str) -> Option<Algorithm> {
        if let Some(algorithm) = self.named.get(module) {
            return Some(*algorithm);
        }
        let is_excluded = match &self.excluded {
            Excluded::Patterns(patterns) => patterns.iter().any(|pattern| covers(pattern, module)),
            Excluded::Parts(parts) => parts.iter().any(|part| module.contains(part.as_str())),
        };
        if is_excluded { None } else { self.default }
    }

    /// The precision that all quantized modules have, if it is one that `build` names.
    pub fn precision(&self) -> Option<Precision> {
        let mut all = self.named.values().chain(&self.default).map(|algorithm| match algorithm {
            Algorithm::Int4Awq { .. } | Algorithm::Awq { .. } | Algorithm::Gptq(_) => Some(Precision::Int4),
            Algorithm::Int8Sq => Some(Precision::Int8),
            Algorithm::Fp8 | Algorithm::Mxfp8 | Algorithm::Nvfp4 => None,
        });
        let first = all.next()??;
        all.all(|precision| precision == Some(first)).then_some(first)
    }

    /// `int4_awq`, or all of several.
    pub fn name(&self) -> String {
        let mut names: Vec<&str> =
            self.named.values().chain(&self.default).map(|algorithm| algorithm.name()).collect();
        names.sort_unstable();
        names.dedup();
        names.join(" and ")
    }
}

fn unsupported(what: &'static str, found: impl ToString) -> FormatError {
    error::unsupported(what, found, ALGORITHMS)
}

/// ModelOpt's table, in either file.
fn modelopt(config: Object) -> Result<Quantization, FormatError> {
    let name = config.text("quant_algo")?;
    let (default, named) = match name {
        "MIXED_PRECISION" => (None, quantized_layers(config)?),
        other => (Some(modelopt_algorithm(other, config)?), BTreeMap::new()),
    };
    let excluded = match patterns(config, "exclude_modules")? {
        some if !some.is_empty() => some,
        _ => patterns(config, "ignore")?,
    };
    let cache = match config.optional_text("kv_cache_quant_algo")? {
        None if config.get("kv_cache_scheme").is_some() => Some("FP8".to_owned()),
        name => name.map(str::to_owned),
    };
    Ok(Quantization { default, named, excluded: Excluded::Patterns(excluded), cache })
}

fn modelopt_algorithm(name: &str, config: Object) -> Result<Algorithm, FormatError> {
    let expected_group = |wanted: usize| match config.optional_size("group_size")? {
        None => Ok(()),
        Some(found) if found == wanted => Ok(()),
        Some(_) => Err(config.wrong("group_size", format!("{wanted}, as {name} has"))),
    };
    match name {
        "FP8" | "FP8_PER_CHANNEL_PER_TOKEN" => Ok(Algorithm::Fp8),
        "W8A8_SQ_PER_CHANNEL" => Ok(Algorithm::Int8Sq),
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

fn quantized_layers(config: Object) -> Result<BTreeMap<String, Algorithm>, FormatError> {
    let layers = config.object("quantized_layers", "quantized_layers.")?;
    let mut named = BTreeMap::new();
    for module in layers.map.keys() {
        let layer = layers.object(module, module)?;
        let path = format!("quantized_layers.{module}.");
        let layer = Object { file: layer.file, path: &path, map: layer.map };
        named.insert(module.clone(), modelopt_algorithm(layer.text("quant_algo")?, layer)?);
    }
    Ok(named)
}

fn awq(config: Object) -> Result<Quantization, FormatError> {
    four_bits(config, &["bits", "w_bit"])?;
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
    let excluded = Excluded::Parts(patterns(config, "modules_to_not_convert")?);
    Ok(Quantization { default, named: BTreeMap::new(), excluded, cache: None })
}

fn gptq(config: Object) -> Result<Quantization, FormatError> {
    four_bits(config, &["bits"])?;
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
    let group = match config.get("group_size").and_then(Value::as_i64) {
        Some(-1) => None,
        _ => Some(group_size(config, "group_size", None)?),
    };
    let is_symmetric = config.optional_flag("sym")?.unwrap_or(false);
    let default = Some(Algorithm::Gptq(Gptq { group, zero_offset, is_symmetric }));
    let excluded = Excluded::Patterns(Vec::new());
    Ok(Quantization { default, named: BTreeMap::new(), excluded, cache: None })
}

fn four_bits(config: Object, keys: &[&str]) -> Result<(), FormatError> {
    let key = keys.iter().find(|key| config.get(key).is_some()).unwrap_or(&keys[0]);
    match config.size(key)? {
        4 => Ok(()),
        bits => Err(unsupported("number of bits", bits)),
    }
}

/// A whole number of stored blocks.
fn group_size(config: Object, key: &str, default: Option<usize>) -> Result<usize, FormatError> {
    let found = match config.optional_size(key)?.or(default) {
        Some(group) => group,
        None => config.size(key)?,
    };
    if found == 0 || !found.is_multiple_of(32) || found > 1 << 20 {
        return Err(config.wrong(key, "a multiple of 32"));
    }
    Ok(found)
}

fn patterns(config: Object, key: &str) -> Result<Vec<String>, FormatError> {
    let Some(value) = config.get(key) else { return Ok(Vec::new()) };
    let list = value.as_array().filter(|list| list.len() <= MAX_PATTERNS);
    let texts = list.and_then(|list| list.iter().map(|item| item.as_str().map(str::to_owned)).collect());
    texts.ok_or_else(|| config.wrong(key, format!("a list of names, found {}", shown(value))))
}

/// Whether a pattern names the module or something that holds it.
fn covers(pattern: &str, module: &str) -> bool {
    let holders = module.match_indices('.').map(|(at, _)| &module[..at]);
    holders.chain([module]).any(|path| matches(pattern, path))
}

/// `*` stands for any text. Each star takes as little as it can; what lies before it need not be tried again.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of_config(value: &Value) -> Result<Quantization, FormatError> {
        let config = Object { file: "config.json", path: "", map: value.as_object().unwrap() };
        Quantization::from_config(config)
    }

    #[test]
    fn modules_have_their_algorithm() {
        let old = br#"{"producer": {}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8",
            "exclude_modules": ["lm_head", "model.layers.1.mlp*", "*.2.*.o_proj", "model.layers.3"]}}"#;
        let old = Quantization::from_hf_quant_config(old).unwrap();
        assert_eq!(old.cache.as_deref(), Some("FP8"));
        let mixed = of_config(&json!({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
            "quantized_layers": {"a.b": {"quant_algo": "W4A16_AWQ", "group_size": 64}, "c": {"quant_algo": "FP8"}}}))
        .unwrap();
        let awq = of_config(&json!({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "GEMM",
            "modules_to_not_convert": ["down"]}))
        .unwrap();
        let cases = [
            (&old, "model.layers.0.mlp.up_proj", Some(Algorithm::Fp8)),
            (&old, "lm_head", None),
            (&old, "model.layers.1.mlp.up_proj", None),
            (&old, "model.layers.11.mlp.up_proj", Some(Algorithm::Fp8)),
            (&old, "model.layers.2.self_attn.o_proj", None),
            (&old, "model.layers.2.self_attn.q_proj", Some(Algorithm::Fp8)),
            (&old, "model.layers.3.self_attn.q_proj", None),
            (&mixed, "a.b", Some(Algorithm::Int4Awq { group: 64 })),
            (&mixed, "c", Some(Algorithm::Fp8)),
            (&mixed, "d", None),
            (&awq, "x.up_proj", Some(Algorithm::Awq { group: 128 })),
            (&awq, "x.down_proj", None),
        ];
        for (quantization, module, wanted) in cases {
            assert_eq!(quantization.algorithm(module), wanted, "{module}");
        }
        assert_eq!(mixed.name(), "fp8 and int4_awq");
    }

    #[test]
    fn versions_of_gptq() {
        let cases = [
            (json!({"group_size": 128}), Some(128), 1, false),
            (json!({"group_size": -1, "sym": true}), None, 1, true),
            (json!({"group_size": 32, "checkpoint_format": "gptq_v2"}), Some(32), 0, false),
            (json!({"group_size": 32, "dynamic": {"-:.*down.*": {}}}), Some(32), 1, false),
        ];
        for (mut config, group, zero_offset, is_symmetric) in cases {
            config["quant_method"] = "gptq".into();
            config["bits"] = 4.into();
            let wanted = Algorithm::Gptq(Gptq { group, zero_offset, is_symmetric });
            assert_eq!(of_config(&config).unwrap().algorithm("lm_head"), Some(wanted), "{config}");
        }
    }

    #[test]
    fn refuses_by_name() {
        let cases = [
            (json!({"quant_method": "bitsandbytes"}), "bitsandbytes"),
            (json!({}), "quant_method"),
            (json!({"quant_method": "awq", "bits": 3}), "bits"),
            (json!({"quant_method": "awq", "bits": 4, "version": "gemv"}), "gemv"),
            (json!({"quant_method": "awq", "bits": 4, "device": "llm-awq"}), "llm-awq"),
            (json!({"quant_method": "awq", "bits": 4, "group_size": 100}), "group_size"),
            (json!({"quant_method": "gptq", "bits": 8, "group_size": 128}), "bits"),
            (json!({"quant_method": "gptq", "bits": 4}), "group_size"),
            (json!({"quant_method": "gptq", "bits": 4, "group_size": 0}), "group_size"),
            (
                json!({"quant_method": "gptq", "bits": 4, "group_size": 64, "checkpoint_format": "marlin"}),
                "marlin",
            ),
            (
                json!({"quant_method": "gptq", "bits": 4, "group_size": 64, "dynamic": {"+:x": {"bits": 8}}}),
                "+:x",
            ),
            (json!({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}), "W4A8_AWQ"),
            (json!({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 32}), "group_size"),
            (
                json!({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "has_zero_point": true}),
                "has_zero_point",
            ),
            (json!({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}), "quantized_layers"),
            (
                json!({"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": "x"}),
                "exclude_modules",
            ),
            (
                json!({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
                    "quantized_layers": {"a.b": {"quant_algo": "INT3"}}}),
                "INT3",
            ),
        ];
        for (config, name) in cases {
            let error = of_config(&config).unwrap_err().to_string();
            assert!(error.contains(name), "{config}: {error}");
        }
        let error = Quantization::from_hf_quant_config(b"{}").unwrap_err().to_string();
        assert!(error.contains("quantization"), "{error}");
    }
}
