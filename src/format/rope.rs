//! `rope_scaling` in configuration files: how rotary frequencies are stretched.
//!
//! Source: transformers 4.57, `modeling_rope_utils`, and the configuration classes of Phi-3 and Qwen2.5-VL.

use serde_json::{Map, Value, json};

use super::FormatError;
use super::json::Object;
use crate::numbers::architecture::{LongRopeTable, RopeScaling, Yarn};

/// More factors than any head has; longer lists are not kept.
const MAX_FACTORS: usize = 1 << 11;
const ORIGINAL: &str = "original_max_position_embeddings";

/// Reads `rope_scaling` as transformers writes it: `type`, the older key, wins over `rope_type`.
pub(super) fn read_rope_scaling(top: Object, key: &'static str) -> Result<RopeScaling, FormatError> {
    let Some(object) = top.optional_object(key, "rope_scaling.")? else { return Ok(RopeScaling::None) };
    match rope_type(object)? {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: object.number("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: object.number("factor")?,
            low_freq_factor: object.number("low_freq_factor")?,
            high_freq_factor: object.number("high_freq_factor")?,
            original_max_positions: object.size(ORIGINAL)?,
        }),
        "yarn" => read_yarn(top, object).map(RopeScaling::Yarn),
        "dynamic" => Ok(RopeScaling::Dynamic {
            factor: object.number("factor")?,
            max_positions: top.size("max_position_embeddings")?,
        }),
        // The older name.
        "longrope" | "su" => read_long_rope(top, object),
        other => Err(FormatError::Unsupported {
            what: "rope_scaling type",
            found: other.to_owned(),
            supported: "default, linear, llama3, yarn, dynamic, longrope".to_owned(),
        }),
    }
}

/// The kind of scaling that an object names.
pub(super) fn rope_type(object: Object<'_>) -> Result<&str, FormatError> {
    match object.optional_text("type")? {
        Some(kind) => Ok(kind),
        None => Ok(object.optional_text("rope_type")?.unwrap_or("default")),
    }
}

/// A 0 counts as not given, as there.
fn read_yarn(top: Object, object: Object) -> Result<Yarn, FormatError> {
    let factor = object.number("factor")?;
    let given =
        |key: &str| Ok::<_, FormatError>(object.optional_number(key)?.filter(|number| *number != 0.0));
    let usual = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let attention_factor =
        match (object.optional_number("attention_factor")?, given("mscale")?, given("mscale_all_dim")?) {
            (Some(factor), ..) => factor,
            (None, Some(mscale), Some(all)) => usual(mscale) / usual(all),
            _ => usual(1.0),
        };
    let original = object.optional_size(ORIGINAL)?.filter(|positions| *positions != 0);
    Ok(Yarn {
        factor,
        original_max_positions: match original {
            Some(positions) => positions,
            None => top.size("max_position_embeddings")?,
        },
        beta_fast: given("beta_fast")?.unwrap_or(32.0),
        beta_slow: given("beta_slow")?.unwrap_or(1.0),
        truncate: object.optional_flag("truncate")?.unwrap_or(true),
        attention_factor,
    })
}

fn read_long_rope(top: Object, object: Object) -> Result<RopeScaling, FormatError> {
    // Phi-3 has it at the top; newer configurations have it in the object.
    let original_max_positions = match top.optional_size(ORIGINAL)? {
        Some(positions) => positions,
        None => object.optional_size(ORIGINAL)?.ok_or_else(|| top.wrong(ORIGINAL, "a whole number"))?,
    };
    let usual = match object.optional_number("attention_factor")? {
        Some(factor) => factor,
        None => usual_attention_factor(top.size("max_position_embeddings")?, original_max_positions),
    };
    let table = |factors: &str, attention_factor: &str| -> Result<LongRopeTable, FormatError> {
        Ok(LongRopeTable {
            factors: read_factors(object, factors)?,
            attention_factor: object.optional_number(attention_factor)?.unwrap_or(usual),
        })
    };
    Ok(RopeScaling::LongRope {
        short: table("short_factor", "short_mscale")?,
        long: table("long_factor", "long_mscale")?,
        original_max_positions,
    })
}

/// `sqrt(1 + ln(factor) / ln(original))` for a context that is `factor` times as long as the original.
fn usual_attention_factor(max_positions: usize, original: usize) -> f64 {
    let (max_positions, original) = (max_positions as f64, original as f64);
    let factor = max_positions / original;
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() }
}

fn read_factors(object: Object, key: &str) -> Result<Vec<f64>, FormatError> {
    let wrong = || object.wrong(key, format!("a list of at most {MAX_FACTORS} numbers"));
    let values = object.get(key).and_then(Value::as_array).ok_or_else(wrong)?;
    if values.len() > MAX_FACTORS {
        return Err(wrong());
    }
    values.iter().map(|value| value.as_f64().ok_or_else(wrong)).collect()
}

/// What [`read_rope_scaling`] reads.
pub(super) fn rope_scaling_json(scaling: &RopeScaling) -> Value {
    let named = |kind: &str, pairs: Value| {
        let mut map = Map::new();
        map.insert("rope_type".to_owned(), kind.into());
        map.insert("type".to_owned(), kind.into());
        map.extend(pairs.as_object().cloned().unwrap_or_default());
        Value::Object(map)
    };
    match scaling {
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
        RopeScaling::Yarn(yarn) => named(
            "yarn",
            json!({
                "factor": yarn.factor,
                "original_max_position_embeddings": yarn.original_max_positions,
                "beta_fast": yarn.beta_fast,
                "beta_slow": yarn.beta_slow,
                "truncate": yarn.truncate,
                "attention_factor": yarn.attention_factor,
            }),
        ),
        // The positions stand at the top.
        RopeScaling::Dynamic { factor, .. } => named("dynamic", json!({ "factor": factor })),
        RopeScaling::LongRope { short, long, .. } => {
            let mut pairs = json!({ "short_factor": short.factors, "long_factor": long.factors });
            if short.attention_factor == long.attention_factor {
                pairs["attention_factor"] = short.attention_factor.into();
            } else {
                pairs["short_mscale"] = short.attention_factor.into();
                pairs["long_mscale"] = long.attention_factor.into();
            }
            named("longrope", pairs)
        }
    }
}

/// What stands beside `rope_scaling` at the top of a configuration, where there is something.
pub(super) fn original_max_positions(scaling: &RopeScaling) -> Option<usize> {
    match scaling {
        RopeScaling::LongRope { original_max_positions, .. } => Some(*original_max_positions),
        RopeScaling::None
        | RopeScaling::Linear { .. }
        | RopeScaling::Llama3 { .. }
        | RopeScaling::Yarn(_)
        | RopeScaling::Dynamic { .. } => None,
    }
}
