//! `config.json` of a Hugging Face checkpoint: to an [`Architecture`], or refused by name.
//!
//! Source: the configuration classes of transformers 4.57 (Qwen2, Qwen3, Llama, Mistral) and the
//! `rope_parameters` of transformers 5. A key that changes the arithmetic is understood or refused.

use super::FormatError;
use super::architecture::{Architecture, Family, Rope, RopeScaling};
use super::bounds::check_architecture;
use super::engine_config::read_rope_scaling;
use super::json::{Object, parse_object};
use super::quantization::Quantization;

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
    let top = Object { file: FILE, path: "", map: &map };
    let family = read_family(top)?;
    refuse_unsupported(top)?;
    let n_heads = top.size("num_attention_heads")?;
    let hidden_size = top.size("hidden_size")?;
    let n_layers = top.size("num_hidden_layers")?;
    let attention_bias = top.optional_flag("attention_bias")?.unwrap_or(false);
    let reads_attention_bias = matches!(family, Family::Llama | Family::Qwen3);
    let architecture = Architecture {
        family,
        vocab_size: top.size("vocab_size")?,
        hidden_size,
        intermediate_size: top.size("intermediate_size")?,
        n_layers,
        n_heads,
        n_kv_heads: read_n_kv_heads(top, family, n_heads)?,
        head_dim: read_head_dim(top, family, hidden_size, n_heads)?,
        #[expect(clippy::cast_possible_truncation)]
        rms_norm_eps: top.optional_number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        rope: read_rope(top)?,
        max_positions: top.size("max_position_embeddings")?,
        // The configuration class of every family says false where the file says nothing.
        tied_head: top.optional_flag("tie_word_embeddings")?.unwrap_or(false),
        qkv_bias: family == Family::Qwen2 || (reads_attention_bias && attention_bias),
        o_bias: reads_attention_bias && attention_bias,
        mlp_bias: family == Family::Llama && top.optional_flag("mlp_bias")?.unwrap_or(false),
        qk_norm: family == Family::Qwen3,
        sliding_window: read_sliding_window(top, family, n_layers)?,
    };
    check_architecture(&architecture, FILE)?;
    let eos_token_ids = sorted(top.token_ids("eos_token_id")?);
    let bos_token_id = top.token_ids("bos_token_id")?.first().copied();
    let quantization = top.optional_object("quantization_config", "quantization_config.")?;
    let quantization = quantization.map(Quantization::from_config).transpose()?;
    Ok(CheckpointConfig { architecture, eos_token_ids, bos_token_id, quantization })
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

fn unsupported(what: &'static str, found: impl ToString, supported: &str) -> FormatError {
    FormatError::Unsupported { what, found: found.to_string(), supported: supported.to_owned() }
}

fn read_family(top: Object) -> Result<Family, FormatError> {
    const NAMES: &str = "Qwen2ForCausalLM, Qwen3ForCausalLM, LlamaForCausalLM, MistralForCausalLM";
    let named = match top.get("architectures") {
        None => return family_of_model_type(top),
        Some(value) => value.as_array().and_then(|names| names.first()).and_then(|name| name.as_str()),
    };
    match named.ok_or_else(|| top.wrong("architectures", "a list with one name"))? {
        "Qwen2ForCausalLM" => Ok(Family::Qwen2),
        "Qwen3ForCausalLM" => Ok(Family::Qwen3),
        "LlamaForCausalLM" => Ok(Family::Llama),
        "MistralForCausalLM" => Ok(Family::Mistral),
        other => Err(unsupported("architecture", other, NAMES)),
    }
}

fn family_of_model_type(top: Object) -> Result<Family, FormatError> {
    match top.text("model_type")? {
        "qwen2" => Ok(Family::Qwen2),
        "qwen3" => Ok(Family::Qwen3),
        "llama" => Ok(Family::Llama),
        "mistral" => Ok(Family::Mistral),
        other => Err(unsupported("model_type", other, "qwen2, qwen3, llama, mistral")),
    }
}

/// Values that would change the arithmetic and that no code here computes.
fn refuse_unsupported(top: Object) -> Result<(), FormatError> {
    if let Some(act) = top.optional_text("hidden_act")?
        && act != "silu"
    {
        return Err(unsupported("hidden_act", act, "silu"));
    }
    if let Some(factor) = top.optional_number("partial_rotary_factor")?
        && factor != 1.0
    {
        return Err(unsupported("partial_rotary_factor", factor, "1"));
    }
    Ok(())
}

fn read_n_kv_heads(top: Object, family: Family, n_heads: usize) -> Result<usize, FormatError> {
    // Where the key is absent, only Llama's class means "as many as heads"; the others have a fixed number
    // that fits one size of model, so the key must be there. A written null means it everywhere.
    let is_null = top.map.get("num_key_value_heads").is_some_and(serde_json::Value::is_null);
    match top.optional_size("num_key_value_heads")? {
        Some(n_kv_heads) => Ok(n_kv_heads),
        None if is_null || family == Family::Llama => Ok(n_heads),
        None => Err(top.wrong("num_key_value_heads", "a whole number")),
    }
}

fn read_head_dim(
    top: Object,
    family: Family,
    hidden_size: usize,
    n_heads: usize,
) -> Result<usize, FormatError> {
    if let Some(head_dim) = top.optional_size("head_dim")? {
        return Ok(head_dim);
    }
    // Qwen3's configuration class has a fixed value.
    if family == Family::Qwen3 {
        return Ok(128);
    }
    if n_heads == 0 || !hidden_size.is_multiple_of(n_heads) {
        let wanted = format!("a divisor of hidden_size {hidden_size}, for head_dim is not given");
        return Err(top.wrong("num_attention_heads", wanted));
    }
    Ok(hidden_size / n_heads)
}

fn read_rope(top: Object) -> Result<Rope, FormatError> {
    const DEFAULT_THETA: f64 = 10_000.0;
    if let Some(parameters) = top.optional_object("rope_parameters", "rope_parameters.")? {
        if parameters.map.values().any(serde_json::Value::is_object) {
            let found = "one table per kind of layer";
            return Err(unsupported("rope_parameters", found, "one table for all layers"));
        }
        if let Some(factor) = parameters.optional_number("partial_rotary_factor")?
            && factor != 1.0
        {
            return Err(unsupported("rope_parameters.partial_rotary_factor", factor, "1"));
        }
        let theta = match parameters.optional_number("rope_theta")? {
            Some(theta) => theta,
            None => top.optional_number("rope_theta")?.unwrap_or(DEFAULT_THETA),
        };
        return Ok(Rope { theta, scaling: read_rope_scaling(top, "rope_parameters")? });
    }
    let theta = top.optional_number("rope_theta")?.unwrap_or(DEFAULT_THETA);
    let scaling: RopeScaling = read_rope_scaling(top, "rope_scaling")?;
    Ok(Rope { theta, scaling })
}

fn read_sliding_window(top: Object, family: Family, n_layers: usize) -> Result<Option<usize>, FormatError> {
    /// The configuration classes' value where the key is absent.
    const DEFAULT_WINDOW: usize = 4096;
    let absent = !top.map.contains_key("sliding_window");
    let window = match top.optional_size("sliding_window")? {
        None if absent => Some(DEFAULT_WINDOW),
        other => other,
    };
    match family {
        Family::Llama => Ok(None),
        Family::Mistral => Ok(window),
        Family::Qwen2 | Family::Qwen3 => {
            if !top.optional_flag("use_sliding_window")?.unwrap_or(false) || window.is_none() {
                return Ok(None);
            }
            let windowed = n_windowed_layers(top, n_layers)?;
            match windowed {
                0 => Ok(None),
                all if all == n_layers => Ok(window),
                some => Err(unsupported(
                    "use_sliding_window",
                    format!("a window in {some} of {n_layers} layers"),
                    "a window in every layer or in none",
                )),
            }
        }
    }
}

/// How many layers of a Qwen model have the window: by `layer_types`, else those from `max_window_layers` on.
fn n_windowed_layers(top: Object, n_layers: usize) -> Result<usize, FormatError> {
    let Some(types) = top.get("layer_types") else {
        let first = top.optional_size("max_window_layers")?.unwrap_or(28);
        return Ok(n_layers.saturating_sub(first));
    };
    let types = types.as_array().filter(|types| types.len() == n_layers);
    let types = types.ok_or_else(|| top.wrong("layer_types", format!("{n_layers} names")))?;
    let mut windowed = 0;
    for kind in types {
        match kind.as_str() {
            Some("full_attention") => {}
            Some("sliding_attention") => windowed += 1,
            _ => {
                let found = super::json::shown(kind);
                return Err(unsupported("layer_types", found, "full_attention, sliding_attention"));
            }
        }
    }
    Ok(windowed)
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
                changes: json!({"rope_theta": "ABSENT",
                    "rope_parameters": {"rope_type": "linear", "factor": 4, "rope_theta": 5e5}}),
                check: |a| a.rope == Rope { theta: 5e5, scaling: RopeScaling::Linear { factor: 4.0 } },
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
            (json!({"architectures": ["Phi3ForCausalLM"]}), "Phi3ForCausalLM"),
            (json!({"architectures": []}), "architectures"),
            (json!({"architectures": "ABSENT", "model_type": "gemma"}), "gemma"),
            (json!({"hidden_act": "gelu"}), "gelu"),
            (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
            (json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), "partial_rotary_factor"),
            (json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}), "rope_parameters"),
            (json!({"quantization_config": {"quant_method": "hqq"}}), "hqq"),
            (json!({"rope_scaling": {"type": "yarn", "factor": 4.0}}), "yarn"),
            (json!({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}), "low_freq_factor"),
            (json!({"rope_scaling": "yes"}), "rope_scaling"),
            (json!({"use_sliding_window": true, "max_window_layers": 2}), "2 of 4 layers"),
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
