//! `config.json` of an engine directory: the workflow's keys at the top level, ours in `jetspool`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{FORMAT_VERSION, Limits, Target};
use crate::format::FormatError;
use crate::format::bounds::{check_architecture, check_limits};
use crate::format::json::{Object, parse_object, sorted_text};
use crate::format::rope::read_rope_scaling;
use crate::format::workflow::workflow_json;
use crate::numbers::architecture::{Architecture, Experts, Rope};
use crate::numbers::family::{Activation, Family, Norms};
use crate::numbers::precision::Precision;
use crate::numbers::{Module, round_to_f32};

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
    /// SHA-256 of each file beside this one, by name, lower-case hex; empty in engines of before it was written.
    pub sha256: BTreeMap<String, String>,
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
            precision: ours.text("precision")?.parse::<Precision>()?,
            target: ours.text("target")?.parse()?,
            eos_token_ids: top.token_ids("eos_token_id")?,
            bos_token_id: top.token_ids("bos_token_id")?.first().copied(),
            source_digest: ours.text("source_digest")?.to_owned(),
            sha256: read_digests(ours)?,
            format_version: FORMAT_VERSION,
        };
        config.check()?;
        Ok(config)
    }

    /// Whether every value is in range.
    ///
    /// # Errors
    /// [`FormatError::Key`] for the first one that is not.
    pub fn check(&self) -> Result<(), FormatError> {
        check_architecture(&self.architecture, FILE)?;
        check_limits(&self.limits, FILE)
    }

    /// The file: keys sorted, indent 2. Equal configurations give equal bytes.
    pub fn to_json(&self) -> String {
        let a = &self.architecture;
        let lora_targets: Vec<&str> = match self.limits.max_lora_rank {
            0 => Vec::new(),
            _ => Module::all(a.family).iter().map(|module| module.short_name()).collect(),
        };
        let mut value = workflow_json(a, &self.eos_token_ids, self.bos_token_id);
        value["builder_config"] = json!({
            "max_batch_size": self.limits.max_batch_size,
            "max_input_len": self.limits.max_input_len,
            "max_kv_cache_capacity": self.limits.max_kv_cache_capacity,
            "max_lora_rank": self.limits.max_lora_rank,
        });
        value["jetspool"] = json!({
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
            "full_layers": a.full_layers,
            "local_rope_theta": a.local_rope_theta,
            "attention_scalar": a.attention_scalar,
            "activation": a.activation.name(),
            "norms": a.norms.name(),
            "scaled_embedding": a.scaled_embedding,
            "experts": a.experts.as_ref().map(experts_json),
            "lora_targets": lora_targets,
            "source_digest": self.source_digest,
            "sha256": self.sha256,
        });
        sorted_text(&value)
    }
}

fn read_digests(ours: Object) -> Result<BTreeMap<String, String>, FormatError> {
    let Some(digests) = ours.optional_object("sha256", "jetspool.sha256.")? else {
        return Ok(BTreeMap::new());
    };
    digests.map.keys().map(|name| Ok((name.clone(), digests.text(name)?.to_owned()))).collect()
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
        rms_norm_eps: round_to_f32(top.number("rms_norm_eps")?),
        rope: Rope {
            theta: top.number("rope_theta")?,
            partial_factor: top.optional_number("partial_rotary_factor")?.unwrap_or(1.0),
            scaling: read_rope_scaling(top, "rope_scaling")?,
        },
        max_positions: top.size("max_position_embeddings")?,
        tied_head: ours.flag("tied_head")?,
        qkv_bias: ours.flag("qkv_bias")?,
        o_bias: ours.flag("o_bias")?,
        mlp_bias: ours.flag("mlp_bias")?,
        qk_norm: ours.flag("qk_norm")?,
        sliding_window: ours.optional_size("sliding_window")?,
        // Engines of before these keys existed have none of what they say.
        full_layers: ours.layer_list("full_layers")?,
        local_rope_theta: ours.optional_number("local_rope_theta")?,
        attention_scalar: ours.optional_number("attention_scalar")?,
        activation: named(ours, "activation", &[Activation::Silu, Activation::GeluTanh], Activation::name)?,
        norms: named(ours, "norms", &[Norms::Before, Norms::BeforeAndAfter], Norms::name)?,
        scaled_embedding: ours.optional_flag("scaled_embedding")?.unwrap_or(false),
        experts: read_experts(ours)?,
    })
}

/// The value of that name; the first one where the key is absent.
fn named<T: Copy>(
    object: Object,
    key: &str,
    values: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, FormatError> {
    let Some(text) = object.optional_text(key)? else { return Ok(values[0]) };
    let found = values.iter().copied().find(|value| name(*value) == text);
    found.ok_or_else(|| {
        object.wrong(key, values.iter().map(|value| name(*value)).collect::<Vec<_>>().join(" or "))
    })
}

fn read_experts(ours: Object) -> Result<Option<Experts>, FormatError> {
    let Some(object) = ours.optional_object("experts", "jetspool.experts.")? else { return Ok(None) };
    Ok(Some(Experts {
        n_experts: object.size("num_experts")?,
        n_used: object.size("num_experts_per_tok")?,
        intermediate_size: object.size("moe_intermediate_size")?,
        normalized: object.flag("norm_topk_prob")?,
        dense_layers: object.layer_list("dense_layers")?,
    }))
}

fn experts_json(experts: &Experts) -> Value {
    json!({
        "num_experts": experts.n_experts,
        "num_experts_per_tok": experts.n_used,
        "moe_intermediate_size": experts.intermediate_size,
        "norm_topk_prob": experts.normalized,
        "dense_layers": experts.dense_layers,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::architecture::{LongRopeTable, RopeScaling, Yarn};

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
                    partial_factor: 1.0,
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
                full_layers: vec![1],
                local_rope_theta: Some(10_000.0),
                attention_scalar: Some(24.0),
                activation: Activation::GeluTanh,
                norms: Norms::BeforeAndAfter,
                scaled_embedding: true,
                experts: Some(Experts {
                    n_experts: 6,
                    n_used: 2,
                    intermediate_size: 40,
                    normalized: true,
                    dense_layers: vec![0],
                }),
            },
            limits: Limits { max_lora_rank: 16, ..Limits::default() },
            precision: Precision::Int4,
            target: Target::Cpu,
            eos_token_ids: vec![3, 5],
            bos_token_id: Some(1),
            source_digest: "00ff".to_owned(),
            sha256: BTreeMap::from([("llm.engine".to_owned(), "ff00".to_owned())]),
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
    fn reads_long_rope_as_it_writes_it() {
        let table = |factor: f64, attention_factor| LongRopeTable {
            factors: vec![1.0, factor, 64.781_230_000_000_01],
            attention_factor,
        };
        for (short_attention, long_attention) in [(1.190_238_071_135_5, 1.190_238_071_135_5), (1.1, 1.243)] {
            let mut config = config();
            config.architecture.rope = Rope {
                theta: 10_000.0,
                partial_factor: 0.5,
                scaling: RopeScaling::LongRope {
                    short: table(1.05, short_attention),
                    long: table(2.5, long_attention),
                    original_max_positions: 4096,
                },
            };
            let text = config.to_json();
            assert!(text.contains("\n  \"original_max_position_embeddings\": 4096,"), "{text}");
            assert!(text.contains("\n  \"partial_rotary_factor\": 0.5,"), "{text}");
            assert_eq!(EngineConfig::from_json(text.as_bytes()), Ok(config));
        }
    }

    #[test]
    fn reads_other_ropes_as_it_writes_them() {
        let yarn = Yarn {
            factor: 4.0,
            original_max_positions: 32,
            beta_fast: 24.5,
            beta_slow: 2.0,
            truncate: false,
            attention_factor: 1.138_629_436_111_989,
        };
        for scaling in [RopeScaling::Yarn(yarn), RopeScaling::Dynamic { factor: 2.5, max_positions: 128 }] {
            let mut config = config();
            config.architecture.rope.scaling = scaling;
            let text = config.to_json();
            assert_eq!(EngineConfig::from_json(text.as_bytes()), Ok(config), "{text}");
        }
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
            Case { from: "\"format_version\": 2", to: "\"format_version\": 3", names: "format version" },
            Case { from: "\"rope_theta\": 500000.0", to: "\"rope_theta\": 0", names: "rope_theta" },
            Case { from: "\"sliding_window\": 16", to: "\"sliding_window\": 0", names: "sliding_window" },
            Case { from: "_per_tok\": 2", to: "_per_tok\": 7", names: "num_experts_per_tok" },
            Case { from: "\"gelu_tanh\"", to: "\"relu\"", names: "activation" },
            Case { from: "\"attention_scalar\": 24.0", to: "\"attention_scalar\": 0", names: "scalar" },
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
