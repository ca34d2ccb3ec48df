//! `config.json` of an engine directory: the workflow's keys at the top level, ours in `jetspool`.

use serde_json::{Map, Value, json};

use super::FormatError;
use super::architecture::{Architecture, Family, Projection, Rope, RopeScaling};
use super::bounds::{check_architecture, check_limits};
use super::engine::{FORMAT_VERSION, Limits, Precision, Target};
use super::json::{Object, parse_object, sorted_text};

const FILE: &str = "engine config.json";

/// What an engine holds and what it was built for; every value is in range.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    pub architecture: Architecture,
    pub limits: Limits,
    pub precision: Precision,
    pub target: Target,
    /// Generation stops at any of these.
    pub eos_token_ids: Vec<u32>,
    pub bos_token_id: Option<u32>,
    /// SHA-256 of the checkpoint's config.json and weights, lower-case hex.
    pub source_digest: String,
    pub format_version: u32,
}

impl EngineConfig {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`FormatError::Damaged`], [`FormatError::Key`] with the key, [`FormatError::Unsupported`] for
    /// another format version or an unknown name.
    pub fn from_json(bytes: &[u8]) -> Result<Self, FormatError> {
        let map = parse_object(FILE, bytes)?;
        let top = Object { file: FILE, path: "", map: &map };
        let ours = top.object("jetspool", "jetspool.")?;
        let format_version = ours.size("format_version")?;
        if format_version != FORMAT_VERSION as usize {
            return Err(FormatError::Unsupported {
                what: "engine format version",
                found: format_version.to_string(),
                supported: format!("{FORMAT_VERSION}; build the engine again"),
            });
        }
        let config = Self {
            architecture: read_architecture(top, ours)?,
            limits: read_limits(top.object("builder_config", "builder_config.")?)?,
            precision: ours.text("precision")?.parse()?,
            target: ours.text("target")?.parse()?,
            eos_token_ids: top.token_ids("eos_token_id")?,
            bos_token_id: top.token_ids("bos_token_id")?.first().copied(),
            source_digest: ours.text("source_digest")?.to_owned(),
            format_version: FORMAT_VERSION,
        };
        config.check()?;
        Ok(config)
    }

    /// Whether every value is in range, and the engine is for a target that this version computes on.
    ///
    /// # Errors
    /// [`FormatError::Key`] for the first one that is not; [`FormatError::Unsupported`] for the target.
    pub fn check(&self) -> Result<(), FormatError> {
        check_architecture(&self.architecture, FILE)?;
        check_limits(&self.limits, FILE)?;
        match self.target {
            Target::Cpu => Ok(()),
            Target::Cuda => Err(FormatError::Unsupported {
                what: "target",
                found: self.target.name().to_owned(),
                supported: Target::Cpu.name().to_owned(),
            }),
        }
    }

    /// The file: keys sorted, indent 2. Equal configurations give equal bytes.
    pub fn to_json(&self) -> String {
        let a = &self.architecture;
        let lora_targets: Vec<&str> = match self.limits.max_lora_rank {
            0 => Vec::new(),
            _ => Projection::ALL.iter().map(|projection| projection.short_name()).collect(),
        };
        let value = json!({
            "model": a.family.name(),
            "model_type": "llm",
            "vocab_size": a.vocab_size,
            "hidden_size": a.hidden_size,
            "intermediate_size": a.intermediate_size,
            "num_hidden_layers": a.n_layers,
            "num_attention_heads": a.n_heads,
            "num_key_value_heads": a.n_kv_heads,
            "head_dim": a.head_dim,
            "max_position_embeddings": a.max_positions,
            "rms_norm_eps": exact(a.rms_norm_eps),
            "rope_theta": a.rope.theta,
            "rope_scaling": rope_scaling_json(&a.rope.scaling),
            "partial_rotary_factor": 1.0,
            "num_deepstack_features": 0,
            "eos_token_id": self.eos_token_ids,
            "bos_token_id": self.bos_token_id,
            "builder_config": {
                "max_batch_size": self.limits.max_batch_size,
                "max_input_len": self.limits.max_input_len,
                "max_kv_cache_capacity": self.limits.max_kv_cache_capacity,
                "max_lora_rank": self.limits.max_lora_rank,
            },
            "jetspool": {
                "format_version": self.format_version,
                "precision": self.precision.name(),
                "target": self.target.name(),
                "family": a.family.name(),
                "tied_head": a.tied_head,
                "qkv_bias": a.qkv_bias,
                "o_bias": a.o_bias,
                "mlp_bias": a.mlp_bias,
                "qk_norm": a.qk_norm,
                "sliding_window": a.sliding_window,
                "lora_targets": lora_targets,
                "source_digest": self.source_digest,
            },
        });
        sorted_text(&value)
    }
}

/// The shortest decimal that reads back as this f32, so that 1e-6 stays 1e-6.
pub(super) fn exact(number: f32) -> f64 {
    number.to_string().parse().expect("a printed f32 is a number")
}

fn read_architecture(top: Object, ours: Object) -> Result<Architecture, FormatError> {
    Ok(Architecture {
        family: Family::from_name(ours.text("family")?)?,
        vocab_size: top.size("vocab_size")?,
        hidden_size: top.size("hidden_size")?,
        intermediate_size: top.size("intermediate_size")?,
        n_layers: top.size("num_hidden_layers")?,
        n_heads: top.size("num_attention_heads")?,
        n_kv_heads: top.size("num_key_value_heads")?,
        head_dim: top.size("head_dim")?,
        #[expect(clippy::cast_possible_truncation)]
        rms_norm_eps: top.number("rms_norm_eps")? as f32,
        rope: Rope { theta: top.number("rope_theta")?, scaling: read_rope_scaling(top, "rope_scaling")? },
        max_positions: top.size("max_position_embeddings")?,
        tied_head: ours.flag("tied_head")?,
        qkv_bias: ours.flag("qkv_bias")?,
        o_bias: ours.flag("o_bias")?,
        mlp_bias: ours.flag("mlp_bias")?,
        qk_norm: ours.flag("qk_norm")?,
        sliding_window: ours.optional_size("sliding_window")?,
    })
}

fn read_limits(builder: Object) -> Result<Limits, FormatError> {
    Ok(Limits {
        max_batch_size: builder.size("max_batch_size")?,
        max_input_len: builder.size("max_input_len")?,
        max_kv_cache_capacity: builder.size("max_kv_cache_capacity")?,
        max_lora_rank: builder.size("max_lora_rank")?,
    })
}

/// Reads `rope_scaling` as transformers writes it: `type`, the older key, wins over `rope_type`.
pub(super) fn read_rope_scaling(top: Object, key: &'static str) -> Result<RopeScaling, FormatError> {
    let Some(object) = top.optional_object(key, "rope_scaling.")? else { return Ok(RopeScaling::None) };
    let kind = match object.optional_text("type")? {
        Some(kind) => kind,
        None => object.optional_text("rope_type")?.unwrap_or("default"),
    };
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: object.number("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: object.number("factor")?,
            low_freq_factor: object.number("low_freq_factor")?,
            high_freq_factor: object.number("high_freq_factor")?,
            original_max_positions: object.size("original_max_position_embeddings")?,
        }),
        other => Err(FormatError::Unsupported {
            what: "rope_scaling type",
            found: other.to_owned(),
            supported: "default, linear, llama3".to_owned(),
        }),
    }
}

pub(super) fn rope_scaling_json(scaling: &RopeScaling) -> Value {
    let named = |kind: &str, pairs: Value| {
        let mut map = Map::new();
        map.insert("rope_type".to_owned(), kind.into());
        map.insert("type".to_owned(), kind.into());
        map.extend(pairs.as_object().cloned().unwrap_or_default());
        Value::Object(map)
    };
    match *scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => named("linear", json!({ "factor": factor })),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => named(
            "llama3",
            json!({
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_positions,
            }),
        ),
    }
}

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Llama => "llama",
            Family::Mistral => "mistral",
        }
    }

    pub(super) fn from_name(name: &str) -> Result<Self, FormatError> {
        let all = [Family::Qwen2, Family::Qwen3, Family::Llama, Family::Mistral];
        all.into_iter().find(|family| family.name() == name).ok_or_else(|| FormatError::Unsupported {
            what: "family",
            found: name.to_owned(),
            supported: "qwen2, qwen3, llama, mistral".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> EngineConfig {
        EngineConfig {
            architecture: Architecture {
                family: Family::Llama,
                vocab_size: 97,
                hidden_size: 48,
                intermediate_size: 80,
                n_layers: 2,
                n_heads: 4,
                n_kv_heads: 2,
                head_dim: 12,
                rms_norm_eps: 1e-6,
                rope: Rope {
                    theta: 500_000.0,
                    scaling: RopeScaling::Llama3 {
                        factor: 8.0,
                        low_freq_factor: 1.0,
                        high_freq_factor: 4.0,
                        original_max_positions: 64,
                    },
                },
                max_positions: 128,
                tied_head: true,
                qkv_bias: false,
                o_bias: false,
                mlp_bias: false,
                qk_norm: false,
                sliding_window: Some(16),
            },
            limits: Limits { max_lora_rank: 16, ..Limits::default() },
            precision: Precision::Int4,
            target: Target::Cpu,
            eos_token_ids: vec![3, 5],
            bos_token_id: Some(1),
            source_digest: "00ff".to_owned(),
            format_version: FORMAT_VERSION,
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let text = config().to_json();
        assert!(text.contains("\"rms_norm_eps\": 1e-6"), "{text}");
        assert_eq!(EngineConfig::from_json(text.as_bytes()), Ok(config()));
        let keys: Vec<&str> = text.lines().filter(|line| line.starts_with("  \"")).collect();
        assert!(keys.is_sorted());
    }

    #[test]
    fn refuses_values_out_of_range() {
        struct Case {
            from: &'static str,
            to: &'static str,
            names: &'static str,
        }
        let cases = [
            Case { from: "\"vocab_size\": 97", to: "\"vocab_size\": 0", names: "vocab_size" },
            Case { from: "\"hidden_size\": 48", to: "\"hidden_size\": 99999999", names: "hidden_size" },
            Case { from: "\"hidden_size\": 48", to: "\"hidden_size\": -1", names: "hidden_size" },
            Case { from: "_value_heads\": 2", to: "_value_heads\": 3", names: "num_key_value_heads" },
            Case { from: "\"head_dim\": 12", to: "\"head_dim\": 13", names: "head_dim" },
            Case { from: "\"max_input_len\": 1024", to: "\"max_input_len\": 4097", names: "max_input_len" },
            Case { from: "\"max_batch_size\": 4", to: "\"max_batch_size\": 0", names: "max_batch_size" },
            Case { from: "\"int4\"", to: "\"int5\"", names: "precision" },
            Case { from: "\"format_version\": 1", to: "\"format_version\": 2", names: "format version" },
            Case { from: "\"rope_theta\": 500000.0", to: "\"rope_theta\": 0", names: "rope_theta" },
            Case { from: "\"sliding_window\": 16", to: "\"sliding_window\": 0", names: "sliding_window" },
        ];
        let good = config().to_json();
        for case in cases {
            let bad = good.replacen(case.from, case.to, 1);
            assert_ne!(bad, good, "{} is not in the file", case.from);
            let error = EngineConfig::from_json(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(case.names), "{}: {error}", case.to);
        }
    }
}
