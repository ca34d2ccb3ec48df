//! Reads `hf_quant_config.json`, or `quantization_config` in config.json.
//!
//! Sources: the unified checkpoints of NVIDIA ModelOpt, AutoAWQ (`version` gemm), GPTQ (AutoGPTQ, GPTQModel),
//! AutoRound, compressed-tensors, bitsandbytes, and the fp8 checkpoints of DeepSeek and Qwen.

use super::algorithm::Algorithm;
use super::auto_round::auto_round;
use super::bitsandbytes::bitsandbytes;
use super::compressed::{block, compressed};
use super::keys::{left_out, texts, unsupported};
use super::modelopt::modelopt;
use super::modules::{Names, Quantization};
use super::words::{awq, gptq};
use crate::format::FormatError;
use crate::format::json::{Object, parse_object};

const FILE: &str = "hf_quant_config.json";

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
            "auto-round" | "intel/auto-round" => auto_round(config),
            "compressed-tensors" => compressed(config),
            "bitsandbytes" => bitsandbytes(config),
            "fp8" => fp8(config),
            other => Err(unsupported("quant_method", other)),
        }
    }
}

/// E4M3 with a scale for each block, or for the matrix.
fn fp8(config: Object) -> Result<Quantization, FormatError> {
    if let Some(format) = config.optional_text("fmt")?.filter(|format| !format.eq_ignore_ascii_case("e4m3")) {
        return Err(unsupported("fp8 fmt", format));
    }
    let default = match config.get("weight_block_size") {
        Some(_) => Algorithm::Fp8Blocks(block(config, "weight_block_size")?),
        None => Algorithm::Fp8,
    };
    let mut plain = texts(config, "modules_to_not_convert")?;
    plain.extend(texts(config, "ignored_layers")?);
    let activations = config.optional_text("activation_scheme")?.map(|scheme| format!("fp8 {scheme}"));
    Ok(Quantization { activations, ..Quantization::of(Some(default), left_out(plain, Names::Part)) })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::algorithm::{Bits, Gptq, Packed};
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

    /// `match_targets` and `is_match` of compressed-tensors: a module's own path, then expressions, then the class.
    #[test]
    fn groups_of_compressed_tensors() {
        let group = |targets: Value, weights: Value| json!({"targets": targets, "weights": weights});
        let ints =
            |bits: usize| json!({"num_bits": bits, "type": "int", "strategy": "group", "group_size": 128});
        let float = json!({"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": true});
        let mut floats = group(json!(["model.layers.2.mlp.up_proj"]), float);
        floats["format"] = "float-quantized".into();
        let config = of_config(&json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
            "ignore": ["lm_head", "re:.*layers\\.[01]\\.mlp\\.(?!down).*"],
            "kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": false},
            "config_groups": {"group_0": group(json!(["Linear"]), ints(4)),
                "group_1": group(json!(["re:.*down_proj$"]), ints(8)), "group_2": floats}}))
        .unwrap();
        let packed = |bits| Some(Algorithm::Packed(Packed { bits, group: Some(128), is_symmetric: true }));
        let cases = [
            ("lm_head", None),
            ("model.embed_tokens", None),
            ("model.layers.1.mlp.up_proj", None),
            ("model.layers.11.mlp.up_proj", packed(Bits::Four)),
            ("model.layers.1.mlp.down_proj", packed(Bits::Eight)),
            ("model.layers.2.mlp.up_proj", Some(Algorithm::Fp8)),
            ("model.layers.2.self_attn.q_proj", packed(Bits::Four)),
        ];
        for (module, wanted) in cases {
            assert_eq!(config.algorithm(module), wanted, "{module}");
        }
        assert_eq!(config.cache.as_deref(), Some("8 bits float per tensor static"));
    }

    #[test]
    fn settings_of_single_layers_of_auto_round() {
        let config =
            of_config(&json!({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq",
            "bits": 4, "group_size": 128, "sym": true, "data_type": "int", "extra_config": {
                "model.layers.0.mlp.up_proj": {"bits": 16}, "lm_head": {"bits": 8, "group_size": 32},
                ".*layers\\.[0-3]\\.mlp.*": {"bits": 8}}}))
            .unwrap();
        let gptq = |bits, group| {
            Some(Algorithm::Gptq(Gptq { bits, group: Some(group), zero_offset: 1, is_symmetric: true }))
        };
        let cases = [
            ("model.layers.0.mlp.up_proj", None),
            ("model.layers.2.mlp.up_proj", gptq(Bits::Eight, 128)),
            ("model.layers.4.mlp.up_proj", gptq(Bits::Four, 128)),
            ("lm_head", gptq(Bits::Eight, 32)),
        ];
        for (module, wanted) in cases {
            assert_eq!(config.algorithm(module), wanted, "{module}");
        }
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
            let wanted = Algorithm::Gptq(Gptq { bits: Bits::Four, group, zero_offset, is_symmetric });
            assert_eq!(of_config(&config).unwrap().algorithm("lm_head"), Some(wanted), "{config}");
        }
    }

    #[test]
    fn bitsandbytes_means_fp4_where_it_says_nothing() {
        for (more, name) in [(json!({}), "fp4"), (json!({"bnb_4bit_quant_type": "nf4"}), "nf4")] {
            let mut config = json!({"quant_method": "bitsandbytes", "load_in_4bit": true});
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert_eq!(of_config(&config).unwrap().name(), name);
        }
    }

    #[test]
    fn refuses_by_name() {
        let cases = [
            (json!({"quant_method": "bitsandbytes"}), "bitsandbytes"),
            (json!({"quant_method": "bitsandbytes", "load_in_8bit": true}), "load_in_8bit"),
            (
                json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "af4"}),
                "af4",
            ),
            (json!({"quant_method": "fp8", "fmt": "e5m2"}), "e5m2"),
            (json!({"quant_method": "fp8", "weight_block_size": [128]}), "weight_block_size"),
            (json!({"quant_method": "fp8", "weight_block_size": [128, 48]}), "weight_block_size"),
            (
                json!({"quant_method": "auto-round", "bits": 4, "group_size": 32, "data_type": "mx_fp"}),
                "mx_fp",
            ),
            (json!({"quant_method": "auto-round", "bits": 2, "group_size": 32}), "bits"),
            (
                json!({"quant_method": "auto-round", "bits": 8, "group_size": 32,
                    "packing_format": "auto_round:auto_awq"}),
                "AWQ",
            ),
            (
                json!({"quant_method": "auto-round", "bits": 4, "group_size": 32,
                    "packing_format": "auto_round:mlx"}),
                "mlx",
            ),
            (json!({}), "quant_method"),
            (json!({"quant_method": "awq", "bits": 3}), "bits"),
            (json!({"quant_method": "awq", "bits": 4, "version": "gemv"}), "gemv"),
            (json!({"quant_method": "awq", "bits": 4, "device": "llm-awq"}), "llm-awq"),
            (json!({"quant_method": "awq", "bits": 4, "group_size": 100}), "group_size"),
            (json!({"quant_method": "gptq", "bits": 2, "group_size": 128}), "bits"),
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
        let ints = json!({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64});
        let cases = [
            (json!({"sparsity_config": {"format": "sparse-24-bitmask"}}), "sparse-24-bitmask"),
            (json!({"transform_config": {"config_groups": {"u": {}}}}), "transform_config"),
            (json!({"quantization_status": "frozen"}), "frozen"),
            (json!({"config_groups": {"W4A16": ["Linear"]}}), "W4A16"),
            (json!({"format": "marlin-24"}), "marlin-24"),
            (json!({"format": "mxfp4-pack-quantized"}), "mxfp4-pack-quantized"),
            (json!({"format": null}), "without format"),
            (json!({"format": "int-quantized"}), "int-quantized with weights of 4 bits"),
            (json!({"ignore": ["re:("]}), "re:("),
            (json!({"ignore": "lm_head"}), "ignore"),
        ];
        for (changes, name) in cases {
            let mut config = json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": ints}}});
            config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            let error = of_config(&config).unwrap_err().to_string();
            assert!(error.contains(name), "{changes}: {error}");
        }
        let weights = [
            (json!({"num_bits": 3}), "3 bits"),
            (json!({"type": "float"}), "type float"),
            (json!({"strategy": "tensor"}), "strategy tensor"),
            (json!({"group_size": 48}), "weights.group_size"),
        ];
        for (changes, name) in weights {
            let mut weights = ints.clone();
            weights.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            let config = json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}});
            let error = of_config(&config).unwrap_err().to_string();
            assert!(error.contains(name), "{changes}: {error}");
        }
        let error = Quantization::from_hf_quant_config(b"{}").unwrap_err().to_string();
        assert!(error.contains("quantization"), "{error}");
    }
}
