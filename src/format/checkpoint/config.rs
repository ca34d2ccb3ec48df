//! `config.json` of a Hugging Face checkpoint: to an [`Architecture`], or refused by name.
//!
//! Source: the configuration classes of transformers 4.57 (Qwen2, Qwen3, Qwen3-MoE, Llama, Mistral, Phi-3, and the
//! text backbones of Gemma 3, Phi-4-multimodal and the Qwen-VL models) and the `rope_parameters` of transformers 5.
//! A key that changes the arithmetic is understood or refused.

use super::quantization::Quantization;
use super::windows::read_windows;
use super::{gemma, mixture};
use crate::format::FormatError;
use crate::format::bounds::{check_architecture, check_n_layers};
use crate::format::error::unsupported;
use crate::format::json::{Object, parse_object};
use crate::format::rope::{read_rope_scaling, rope_type};
use crate::numbers::architecture::{Architecture, Rope, RopeScaling};
use crate::numbers::family::{AttentionBias, Family};
use crate::numbers::round_to_f32;

const FILE: &str = "config.json";
const GENERATION_FILE: &str = "generation_config.json";

/// What a checkpoint's configuration says, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointConfig {
    pub architecture: Architecture,
    /// Sorted, each once; may be empty.
    pub eos_token_ids: Vec<u32>,
    pub bos_token_id: Option<u32>,
    /// None for plain weights.
    pub quantization: Option<Quantization>,
}

/// Reads a checkpoint's `config.json`.
///
/// # Errors
/// [`FormatError::Unsupported`] names the value and what is supported; [`FormatError::Key`] a value out of
/// range; [`FormatError::Damaged`] what is not a JSON object.
pub fn parse_checkpoint_config(bytes: &[u8]) -> Result<CheckpointConfig, FormatError> {
    let map = parse_object(FILE, bytes)?;
    let whole = Object { file: FILE, path: "", map: &map };
    let family = read_family(whole)?;
    refuse_unsupported(whole)?;
    // Models with images keep what the backbone needs in a part of its own, older ones at the top.
    let (path, top) = match whole.optional_object("text_config", "text_config.")? {
        Some(text) if family.row().is_backbone => ("text_config.", text),
        _ => ("", whole),
    };
    if family == Family::Gemma3 {
        let text = gemma::with_defaults(top.map);
        let text = Object { file: FILE, path, map: &text };
        gemma::refuse_unsupported(text)?;
        return read_config(whole, text, family);
    }
    refuse_unsupported(top)?;
    refuse_activation(top)?;
    read_config(whole, top, family)
}

/// `top` holds the keys of the decoder, `whole` those of the model around it, or the same.
fn read_config(whole: Object, top: Object, family: Family) -> Result<CheckpointConfig, FormatError> {
    let architecture = read_architecture(whole, top, family)?;
    check_architecture(&architecture, FILE)?;
    let eos_token_ids = sorted([top.token_ids("eos_token_id")?, whole.token_ids("eos_token_id")?].concat());
    let bos_token_ids = [top.token_ids("bos_token_id")?, whole.token_ids("bos_token_id")?].concat();
    let bos_token_id = bos_token_ids.first().copied();
    let quantization = whole.optional_object("quantization_config", "quantization_config.")?;
    let quantization = quantization.map(Quantization::from_config).transpose()?;
    Ok(CheckpointConfig { architecture, eos_token_ids, bos_token_id, quantization })
}

fn read_architecture(whole: Object, top: Object, family: Family) -> Result<Architecture, FormatError> {
    let n_heads = top.size("num_attention_heads")?;
    let hidden_size = top.size("hidden_size")?;
    let n_layers = top.size("num_hidden_layers")?;
    check_n_layers(n_layers, FILE)?;
    let row = family.row();
    let attention_bias =
        row.attention_bias == AttentionBias::Asked && top.optional_flag("attention_bias")?.unwrap_or(false);
    let (sliding_window, full_layers) = read_windows(top, family, n_layers)?;
    let (rope, local_rope_theta) = match family {
        Family::Gemma3 => gemma::read_ropes(top).map(|(rope, local)| (rope, Some(local)))?,
        _ => (read_rope(top, family)?, None),
    };
    Ok(Architecture {
        family,
        vocab_size: top.size("vocab_size")?,
        hidden_size,
        intermediate_size: top.size("intermediate_size")?,
        n_layers,
        n_heads,
        n_kv_heads: read_n_kv_heads(top, family, n_heads)?,
        head_dim: read_head_dim(top, family, hidden_size, n_heads)?,
        rms_norm_eps: round_to_f32(top.optional_number("rms_norm_eps")?.unwrap_or(row.default_eps)),
        rope,
        max_positions: top.size("max_position_embeddings")?,
        // The configuration class of every family but Gemma's says false where the file says nothing.
        tied_head: match top.optional_flag("tie_word_embeddings")? {
            Some(tied) => tied,
            None => whole.optional_flag("tie_word_embeddings")?.unwrap_or(false),
        },
        qkv_bias: row.attention_bias == AttentionBias::Qkv || attention_bias,
        o_bias: attention_bias,
        mlp_bias: row.reads_mlp_bias && top.optional_flag("mlp_bias")?.unwrap_or(false),
        qk_norm: row.qk_norm,
        local_rope_theta: local_rope_theta.filter(|_| sliding_window.is_some()),
        sliding_window,
        full_layers,
        attention_scalar: match family {
            Family::Gemma3 => Some(top.number("query_pre_attn_scalar")?),
            _ => None,
        },
        activation: row.activation,
        norms: row.norms,
        scaled_embedding: row.scaled_embedding,
        experts: match family {
            Family::Qwen3Moe => mixture::read_experts(top, n_layers)?,
            _ => None,
        },
    })
}

impl CheckpointConfig {
    /// The same with the token ids of `generation_config.json` added.
    ///
    /// # Errors
    /// [`FormatError`] when it is not a JSON object or holds no token ids where they must be.
    pub fn with_generation_config(mut self, bytes: &[u8]) -> Result<Self, FormatError> {
        let map = parse_object(GENERATION_FILE, bytes)?;
        let top = Object { file: GENERATION_FILE, path: "", map: &map };
        self.eos_token_ids.extend(top.token_ids("eos_token_id")?);
        self.eos_token_ids = sorted(self.eos_token_ids);
        self.bos_token_id = self.bos_token_id.or(top.token_ids("bos_token_id")?.first().copied());
        Ok(self)
    }
}

fn sorted(mut ids: Vec<u32>) -> Vec<u32> {
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// By the first of `architectures`, or by `model_type` where there are none.
fn read_family(top: Object) -> Result<Family, FormatError> {
    let classes: Vec<(&str, &str, Family)> = Family::ALL
        .into_iter()
        .flat_map(|family| family.row().classes.iter().map(move |(class, kind)| (*class, *kind, family)))
        .collect();
    let listed = |names: Vec<&str>| names.join(", ");
    let Some(value) = top.get("architectures") else {
        let found = top.text("model_type")?;
        let row = classes.iter().find(|(_, model_type, _)| *model_type == found);
        let supported = || listed(classes.iter().map(|(_, model_type, _)| *model_type).collect());
        return row.map(|row| row.2).ok_or_else(|| unsupported("model_type", found, &supported()));
    };
    let named = value.as_array().and_then(|names| names.first()).and_then(|name| name.as_str());
    let found = named.ok_or_else(|| top.wrong("architectures", "a list with one name"))?;
    let row = classes.iter().find(|(class, ..)| *class == found);
    let supported = || listed(classes.iter().map(|(class, ..)| *class).collect());
    row.map(|row| row.2).ok_or_else(|| unsupported("architecture", found, &supported()))
}

/// Values that would change the arithmetic and that no code here computes.
fn refuse_unsupported(top: Object) -> Result<(), FormatError> {
    if let Some(true) = top.optional_flag("lm_head_bias")? {
        return Err(unsupported("lm_head_bias", true, "false"));
    }
    Ok(())
}

fn refuse_activation(top: Object) -> Result<(), FormatError> {
    match top.optional_text("hidden_act")? {
        Some(act) if act != "silu" => Err(unsupported("hidden_act", act, "silu")),
        _ => Ok(()),
    }
}

fn read_n_kv_heads(top: Object, family: Family, n_heads: usize) -> Result<usize, FormatError> {
    // A written null means "as many as heads" everywhere.
    let is_null = top.map.get("num_key_value_heads").is_some_and(serde_json::Value::is_null);
    match top.optional_size("num_key_value_heads")? {
        Some(n_kv_heads) => Ok(n_kv_heads),
        None if is_null || family.row().may_lack_kv_heads => Ok(n_heads),
        None => Err(top.wrong("num_key_value_heads", "a whole number")),
    }
}

fn read_head_dim(
    top: Object,
    family: Family,
    hidden_size: usize,
    n_heads: usize,
) -> Result<usize, FormatError> {
    if let Some(head_dim) = top.optional_size("head_dim")?.or(family.row().default_head_dim) {
        return Ok(head_dim);
    }
    if n_heads == 0 || !hidden_size.is_multiple_of(n_heads) {
        let wanted = format!("a divisor of hidden_size {hidden_size}, for head_dim is not given");
        return Err(top.wrong("num_attention_heads", wanted));
    }
    Ok(hidden_size / n_heads)
}

fn read_rope(top: Object, family: Family) -> Result<Rope, FormatError> {
    let row = family.row();
    let (key, object) = match top.optional_object("rope_parameters", "rope_parameters.")? {
        Some(parameters) => ("rope_parameters", Some(parameters)),
        None => ("rope_scaling", top.optional_object("rope_scaling", "rope_scaling.")?),
    };
    if let Some(parameters) = object
        && parameters.map.values().any(serde_json::Value::is_object)
    {
        let found = "one table per kind of layer";
        return Err(unsupported(key, found, "one table for all layers"));
    }
    let inside = |name: &str| object.map_or(Ok(None), |object| object.optional_number(name));
    let theta = inside("rope_theta")?.or(top.optional_number("rope_theta")?).unwrap_or(row.default_theta);
    let partial = inside("partial_rotary_factor")?.or(top.optional_number("partial_rotary_factor")?);
    let partial_factor = partial.unwrap_or(1.0);
    if partial_factor != 1.0 && !row.has_fused_projections {
        return Err(unsupported("partial_rotary_factor", partial_factor, "1 for this architecture"));
    }
    let scaling = match object.map(rope_type).transpose()? {
        // Images have positions in three dimensions; those of text are equal in all three.
        Some("mrope") if row.is_backbone => RopeScaling::None,
        Some("longrope" | "su") if !row.has_fused_projections => {
            return Err(unsupported(
                "rope_scaling type",
                "longrope",
                "default, linear, llama3, yarn, dynamic for this architecture",
            ));
        }
        // As the configuration class of Phi-3 has it.
        Some(kind @ ("yarn" | "dynamic" | "linear" | "llama3")) if row.has_fused_projections => {
            return Err(unsupported("rope_scaling type", kind, "default, longrope for this architecture"));
        }
        _ => read_rope_scaling(top, key)?,
    };
    Ok(Rope { theta, partial_factor, scaling })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn qwen2() -> Value {
        json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 100,
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
            "rope_theta": 1e6, "tie_word_embeddings": true, "hidden_act": "silu", "eos_token_id": [7, 3, 7],
        })
    }

    fn parse_with(changes: Value) -> Result<CheckpointConfig, FormatError> {
        let mut config = qwen2();
        let map = config.as_object_mut().unwrap();
        for (key, value) in changes.as_object().unwrap() {
            if value == "ABSENT" {
                map.remove(key);
            } else {
                map.insert(key.clone(), value.clone());
            }
        }
        parse_checkpoint_config(config.to_string().as_bytes())
    }

    const PHI3: &str = "Phi3ForCausalLM";
    const QWEN3_VL: &str = "Qwen3VLForConditionalGeneration";
    const ORIGINAL: &str = "original_max_position_embeddings";

    fn long_rope(n_short: usize, n_long: usize) -> Value {
        json!({"type": "longrope", "short_factor": vec![1.0; n_short], "long_factor": vec![2.0; n_long]})
    }

    #[test]
    fn long_rope_has_two_tables() {
        struct Case {
            changes: Value,
            attention_factors: [f64; 2],
        }
        // sqrt(1 + ln(128 / 32) / ln(32))
        let usual = 1.4_f64.sqrt();
        let scaling = |more: Value| {
            let mut scaling = long_rope(6, 6);
            scaling.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            scaling
        };
        let phi = |more: Value| {
            let mut changes = json!({"architectures": [PHI3], "partial_rotary_factor": 0.75, ORIGINAL: 32});
            changes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            changes
        };
        let cases = [
            Case { changes: phi(json!({"rope_scaling": scaling(json!({}))})), attention_factors: [usual; 2] },
            Case {
                changes: phi(json!({"rope_scaling": scaling(json!({"type": "su"}))})),
                attention_factors: [usual; 2],
            },
            Case {
                changes: phi(json!({"rope_scaling": scaling(json!({"attention_factor": 1.5}))})),
                attention_factors: [1.5; 2],
            },
            Case {
                changes: phi(
                    json!({"rope_scaling": scaling(json!({"short_mscale": 1.2, "long_mscale": 1.3}))}),
                ),
                attention_factors: [1.2, 1.3],
            },
            Case {
                changes: phi(json!({"rope_scaling": scaling(json!({})), ORIGINAL: 128})),
                attention_factors: [1.0; 2],
            },
            Case {
                changes: phi(json!({ORIGINAL: null, "rope_parameters":
                    scaling(json!({ORIGINAL: 32, "rope_theta": 1e6, "partial_rotary_factor": 0.75}))})),
                attention_factors: [usual; 2],
            },
        ];
        for case in cases {
            let architecture = parse_with(case.changes.clone()).unwrap().architecture;
            let RopeScaling::LongRope { short, long, .. } = &architecture.rope.scaling else {
                panic!("{}: {:?}", case.changes, architecture.rope);
            };
            assert_eq!((architecture.rotary_dim(), architecture.rope.theta), (12, 1e6));
            assert_eq!((short.factors[5], long.factors[5]), (1.0, 2.0));
            for (found, wanted) in [short, long].into_iter().zip(case.attention_factors) {
                assert!((found.attention_factor - wanted).abs() < 1e-12, "{}: {found:?}", case.changes);
            }
        }
    }

    #[test]
    fn token_ids_are_united() {
        let config = parse_with(json!({})).unwrap();
        assert_eq!(config.eos_token_ids, [3, 7]);
        let united = config.with_generation_config(br#"{"eos_token_id": 5, "bos_token_id": 1}"#).unwrap();
        assert_eq!((united.eos_token_ids, united.bos_token_id), (vec![3, 5, 7], Some(1)));
    }

    #[test]
    fn families_have_their_own_defaults() {
        struct Case {
            changes: Value,
            check: fn(&Architecture) -> bool,
        }
        let llama = "LlamaForCausalLM";
        let mistral = "MistralForCausalLM";
        let cases = [
            Case { changes: json!({}), check: |a| a.qkv_bias && !a.o_bias && !a.qk_norm && a.head_dim == 16 },
            Case { changes: json!({"attention_bias": true}), check: |a| !a.o_bias },
            Case { changes: json!({"tie_word_embeddings": "ABSENT"}), check: |a| !a.tied_head },
            Case { changes: json!({"rope_theta": "ABSENT"}), check: |a| a.rope.theta == 1e4 },
            Case { changes: json!({"head_dim": null}), check: |a| a.head_dim == 16 },
            Case { changes: json!({"head_dim": 24}), check: |a| a.head_dim == 24 },
            Case { changes: json!({"num_key_value_heads": null}), check: |a| a.n_kv_heads == 4 },
            Case {
                changes: json!({"architectures": ["Qwen3ForCausalLM"]}),
                check: |a| a.qk_norm && a.head_dim == 128,
            },
            Case {
                changes: json!({"architectures": ["Qwen3ForCausalLM"], "attention_bias": true}),
                check: |a| a.qkv_bias && a.o_bias,
            },
            Case {
                changes: json!({"architectures": [llama]}),
                check: |a| !a.qkv_bias && a.sliding_window.is_none(),
            },
            Case {
                changes: json!({"architectures": [llama], "attention_bias": true}),
                check: |a| a.qkv_bias && a.o_bias,
            },
            Case {
                changes: json!({"architectures": [llama], "num_key_value_heads": "ABSENT"}),
                check: |a| a.n_kv_heads == 4,
            },
            Case { changes: json!({"architectures": [mistral]}), check: |a| a.sliding_window == Some(4096) },
            Case {
                changes: json!({"architectures": [mistral], "sliding_window": null}),
                check: |a| a.sliding_window.is_none(),
            },
            Case {
                changes: json!({"architectures": "ABSENT", "model_type": "mistral", "sliding_window": 9}),
                check: |a| a.family == Family::Mistral && a.sliding_window == Some(9),
            },
            Case { changes: json!({"sliding_window": 9}), check: |a| a.sliding_window.is_none() },
            Case {
                changes: json!({"sliding_window": 9, "use_sliding_window": true, "max_window_layers": 4}),
                check: |a| a.sliding_window.is_none(),
            },
            Case {
                changes: json!({"sliding_window": 9, "use_sliding_window": true, "max_window_layers": 0}),
                check: |a| a.sliding_window == Some(9),
            },
            Case {
                changes: json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
                check: |a| a.rope.scaling == RopeScaling::Linear { factor: 2.0 },
            },
            Case {
                changes: json!({"rope_scaling": {"rope_type": "default"}}),
                check: |a| a.rope.scaling == RopeScaling::None,
            },
            Case {
                changes: json!({"architectures": [PHI3], "num_key_value_heads": "ABSENT"}),
                check: |a| a.n_kv_heads == 4 && !a.qkv_bias && a.sliding_window.is_none(),
            },
            Case {
                changes: json!({"architectures": [PHI3], "sliding_window": 2047}),
                check: |a| a.sliding_window == Some(2047),
            },
            Case {
                changes: json!({"architectures": ["Qwen2_5_VLForConditionalGeneration"],
                    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "vision_config": {}}),
                check: |a| a.qkv_bias && a.tied_head && a.rope.scaling == RopeScaling::None,
            },
            Case {
                changes: json!({"architectures": ["Qwen2_5_VLForConditionalGeneration"], "hidden_size": "ABSENT",
                    "tie_word_embeddings": false, "text_config": {"hidden_size": 32, "vocab_size": 7,
                    "intermediate_size": 9, "num_hidden_layers": 1, "num_attention_heads": 2,
                    "num_key_value_heads": 1, "max_position_embeddings": 8, "tie_word_embeddings": true}}),
                check: |a| {
                    a.tied_head && a.rope.theta == 1e6 && a.hidden_size == 32 && a.rms_norm_eps == 1e-5
                },
            },
            Case {
                changes: json!({"architectures": [QWEN3_VL], "rope_theta": "ABSENT"}),
                check: |a| a.qk_norm && a.head_dim == 128 && !a.qkv_bias && a.rope.theta == 5e6,
            },
            Case {
                changes: json!({"rope_theta": "ABSENT",
                    "rope_parameters": {"rope_type": "linear", "factor": 4, "rope_theta": 5e5}}),
                check: |a| a.rope.theta == 5e5 && a.rope.scaling == RopeScaling::Linear { factor: 4.0 },
            },
        ];
        for case in cases {
            let config = parse_with(case.changes.clone()).unwrap();
            assert!((case.check)(&config.architecture), "{}: {:?}", case.changes, config.architecture);
        }
    }

    #[test]
    fn refuses_by_name() {
        let cases = [
            (json!({"architectures": ["PhiMoEForCausalLM"]}), "PhiMoEForCausalLM"),
            (json!({"architectures": [PHI3], "partial_rotary_factor": 0.2}), "partial_rotary_factor"),
            (json!({"architectures": [PHI3], "partial_rotary_factor": 1.5}), "partial_rotary_factor"),
            (json!({"architectures": [PHI3], "partial_rotary_factor": -0.5}), "partial_rotary_factor"),
            (json!({"architectures": [PHI3], "rope_scaling": {"type": "yarn"}}), "yarn"),
            (json!({"architectures": [PHI3], "rope_scaling": long_rope(8, 8)}), "original_max_position"),
            (json!({"architectures": [PHI3], "rope_scaling": long_rope(8, 7), ORIGINAL: 64}), "long_factor"),
            (json!({"architectures": [PHI3], "rope_scaling": long_rope(9, 8), ORIGINAL: 64}), "short_factor"),
            (json!({"architectures": [PHI3], "rope_scaling": long_rope(8, 8), ORIGINAL: 0}), "short_factor"),
            (
                json!({"architectures": [PHI3], "rope_scaling": {"type": "longrope"}, ORIGINAL: 64}),
                "short_factor",
            ),
            (json!({"architectures": [PHI3], "lm_head_bias": true}), "lm_head_bias"),
            (json!({"rope_scaling": long_rope(8, 8), ORIGINAL: 64}), "longrope"),
            (json!({"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}), "mrope"),
            (json!({"architectures": [QWEN3_VL], "text_config": 3}), "text_config"),
            (json!({"architectures": [QWEN3_VL], "text_config": {"hidden_size": 64}}), "num_attention_heads"),
            (json!({"architectures": []}), "architectures"),
            (json!({"architectures": "ABSENT", "model_type": "gemma"}), "gemma"),
            (json!({"hidden_act": "gelu"}), "gelu"),
            (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
            (json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), "partial_rotary_factor"),
            (json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}), "rope_parameters"),
            (json!({"quantization_config": {"quant_method": "hqq"}}), "hqq"),
            (json!({"rope_scaling": {"type": "xpos", "factor": 4.0}}), "xpos"),
            (json!({"rope_scaling": {"type": "yarn"}}), "rope_scaling.factor"),
            (json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": -1}}), "beta_fast"),
            (json!({"rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_theta": 1}), "rope_theta"),
            (json!({"rope_scaling": {"type": "dynamic", "factor": 0.5}}), "rope_scaling.factor"),
            (json!({"rope_scaling": {"type": "dynamic", "factor": 2}, "head_dim": 2}), "head_dim"),
            (json!({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}), "low_freq_factor"),
            (json!({"rope_scaling": "yes"}), "rope_scaling"),
            (json!({"num_hidden_layers": 1_000_000_000_000_000_000_u64}), "num_hidden_layers"),
            (json!({"use_sliding_window": true, "layer_types": ["full_attention"]}), "layer_types"),
            (json!({"num_key_value_heads": "ABSENT"}), "num_key_value_heads"),
            (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            (json!({"num_attention_heads": 5}), "num_attention_heads"),
            (json!({"num_attention_heads": 0}), "num_attention_heads"),
            (json!({"head_dim": 15}), "head_dim"),
            (json!({"vocab_size": "ABSENT"}), "vocab_size"),
            (json!({"hidden_size": 1e30}), "hidden_size"),
            (json!({"rms_norm_eps": "small"}), "rms_norm_eps"),
            (json!({"eos_token_id": "end"}), "eos_token_id"),
        ];
        for (changes, name) in cases {
            let error = parse_with(changes.clone()).unwrap_err().to_string();
            assert!(error.contains(name), "{changes}: {error}");
        }
    }
}
