//! Which sizes are believed: a damaged configuration must not ask for a terabyte.

use super::FormatError;
use super::engine::Limits;
use crate::numbers::architecture::{Architecture, Experts, LongRopeTable, MAX_HEAD_DIM, RopeScaling, Yarn};

/// Largest value of each size; real decoders stay well below.
const MAX_VOCAB: usize = 1 << 24;
const MAX_HIDDEN: usize = 1 << 17;
const MAX_INTERMEDIATE: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 10;
const MAX_HEADS: usize = 1 << 12;
const MAX_EXPERTS: usize = 1 << 12;
const MAX_POSITIONS: usize = 1 << 26;
const MAX_BATCH: usize = 1 << 12;
const MAX_RANK: usize = 1 << 12;

struct Checker {
    file: &'static str,
}

impl Checker {
    fn wrong(&self, key: &str, wanted: String, found: impl ToString) -> FormatError {
        FormatError::Key { file: self.file, key: key.to_owned(), wanted, found: found.to_string() }
    }

    fn range(&self, key: &str, found: usize, least: usize, most: usize) -> Result<(), FormatError> {
        if (least..=most).contains(&found) {
            return Ok(());
        }
        Err(self.wrong(key, format!("{least} to {most}"), found))
    }

    fn positive(&self, key: &str, found: f64) -> Result<(), FormatError> {
        if found.is_finite() && found > 0.0 {
            return Ok(());
        }
        Err(self.wrong(key, "a number above 0".to_owned(), found))
    }
}

/// Checks the number of layers alone, for lists are made as long.
///
/// # Errors
/// [`FormatError::Key`] outside its range.
pub fn check_n_layers(n_layers: usize, file: &'static str) -> Result<(), FormatError> {
    Checker { file }.range("num_hidden_layers", n_layers, 1, MAX_LAYERS)
}

/// Checks every size of an architecture under its key in `config.json`.
///
/// # Errors
/// [`FormatError::Key`] for the first key outside its range.
pub fn check_architecture(architecture: &Architecture, file: &'static str) -> Result<(), FormatError> {
    let checker = Checker { file };
    let a = architecture;
    checker.range("vocab_size", a.vocab_size, 1, MAX_VOCAB)?;
    checker.range("hidden_size", a.hidden_size, 1, MAX_HIDDEN)?;
    checker.range("intermediate_size", a.intermediate_size, 1, MAX_INTERMEDIATE)?;
    check_n_layers(a.n_layers, file)?;
    checker.range("num_attention_heads", a.n_heads, 1, MAX_HEADS)?;
    checker.range("num_key_value_heads", a.n_kv_heads, 1, MAX_HEADS)?;
    checker.range("head_dim", a.head_dim, 2, MAX_HEAD_DIM)?;
    checker.range("max_position_embeddings", a.max_positions, 1, MAX_POSITIONS)?;
    if !a.n_heads.is_multiple_of(a.n_kv_heads) {
        let wanted = format!("a divisor of num_attention_heads {}", a.n_heads);
        return Err(checker.wrong("num_key_value_heads", wanted, a.n_kv_heads));
    }
    if !a.head_dim.is_multiple_of(2) {
        return Err(checker.wrong("head_dim", "an even number".to_owned(), a.head_dim));
    }
    checker.positive("rms_norm_eps", f64::from(a.rms_norm_eps))?;
    if let Some(window) = a.sliding_window {
        checker.range("sliding_window", window, 1, MAX_POSITIONS)?;
    }
    for &layer in &a.full_layers {
        checker.range("full_layers", layer, 0, a.n_layers - 1)?;
    }
    if let Some(theta) = a.local_rope_theta {
        checker.positive("rope_local_base_freq", theta)?;
    }
    if let Some(scalar) = a.attention_scalar {
        checker.positive("query_pre_attn_scalar", scalar)?;
    }
    if let Some(experts) = &a.experts {
        check_experts(experts, a.n_layers, &checker)?;
    }
    check_rope(a, &checker)
}

fn check_experts(experts: &Experts, n_layers: usize, checker: &Checker) -> Result<(), FormatError> {
    checker.range("num_experts", experts.n_experts, 1, MAX_EXPERTS)?;
    checker.range("num_experts_per_tok", experts.n_used, 1, experts.n_experts)?;
    checker.range("moe_intermediate_size", experts.intermediate_size, 1, MAX_INTERMEDIATE)?;
    for &layer in &experts.dense_layers {
        checker.range("dense_layers", layer, 0, n_layers - 1)?;
    }
    Ok(())
}

fn check_rope(a: &Architecture, checker: &Checker) -> Result<(), FormatError> {
    checker.positive("rope_theta", a.rope.theta)?;
    let (factor, rotary_dim) = (a.rope.partial_factor, a.rotary_dim());
    if !(factor > 0.0 && factor <= 1.0) || rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
        let wanted = format!("at most 1, and an even number of the {} elements of a head", a.head_dim);
        return Err(checker.wrong("partial_rotary_factor", wanted, factor));
    }
    match a.rope.scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::LongRope { ref short, ref long, original_max_positions } => {
            check_table("short", short, rotary_dim, checker)?;
            check_table("long", long, rotary_dim, checker)?;
            checker.range("original_max_position_embeddings", original_max_positions, 1, MAX_POSITIONS)
        }
        RopeScaling::Linear { factor } => checker.positive("rope_scaling.factor", factor),
        RopeScaling::Yarn(ref yarn) => check_yarn(yarn, a.rope.theta, checker),
        RopeScaling::Dynamic { factor, max_positions } => {
            if rotary_dim <= 2 {
                let wanted = "more than 2 rotated elements of a head for dynamic rope".to_owned();
                return Err(checker.wrong("head_dim", wanted, a.head_dim));
            }
            checker.range("max_position_embeddings", max_positions, 1, MAX_POSITIONS)?;
            if factor.is_finite() && factor >= 1.0 {
                return Ok(());
            }
            Err(checker.wrong("rope_scaling.factor", "a number of at least 1".to_owned(), factor))
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
            checker.positive("rope_scaling.factor", factor)?;
            checker.positive("rope_scaling.low_freq_factor", low_freq_factor)?;
            checker.positive("rope_scaling.high_freq_factor", high_freq_factor)?;
            if high_freq_factor <= low_freq_factor {
                let wanted = format!("a number above low_freq_factor {low_freq_factor}");
                return Err(checker.wrong("rope_scaling.high_freq_factor", wanted, high_freq_factor));
            }
            let key = "rope_scaling.original_max_position_embeddings";
            checker.range(key, original_max_positions, 1, MAX_POSITIONS)
        }
    }
}

fn check_yarn(yarn: &Yarn, theta: f64, checker: &Checker) -> Result<(), FormatError> {
    let numbers = [
        ("factor", yarn.factor),
        ("beta_fast", yarn.beta_fast),
        ("beta_slow", yarn.beta_slow),
        ("attention_factor", yarn.attention_factor),
    ];
    numbers
        .into_iter()
        .try_for_each(|(key, number)| checker.positive(&format!("rope_scaling.{key}"), number))?;
    if theta <= 1.0 {
        return Err(checker.wrong("rope_theta", "a number above 1 for yarn".to_owned(), theta));
    }
    let key = "rope_scaling.original_max_position_embeddings";
    checker.range(key, yarn.original_max_positions, 1, MAX_POSITIONS)
}

fn check_table(
    name: &str,
    table: &LongRopeTable,
    rotary_dim: usize,
    checker: &Checker,
) -> Result<(), FormatError> {
    let key = format!("rope_scaling.{name}_factor");
    if table.factors.len() != rotary_dim / 2 {
        let wanted = format!("{} numbers, half of the {rotary_dim} rotated elements", rotary_dim / 2);
        return Err(checker.wrong(&key, wanted, table.factors.len()));
    }
    table.factors.iter().try_for_each(|factor| checker.positive(&key, *factor))?;
    checker.positive(&format!("attention factor of {key}"), table.attention_factor)
}

/// Checks an engine's limits.
///
/// # Errors
/// [`FormatError::Key`] for the first one outside its range.
pub fn check_limits(limits: &Limits, file: &'static str) -> Result<(), FormatError> {
    let checker = Checker { file };
    checker.range("builder_config.max_batch_size", limits.max_batch_size, 1, MAX_BATCH)?;
    checker.range("builder_config.max_input_len", limits.max_input_len, 1, MAX_POSITIONS)?;
    checker.range("builder_config.max_kv_cache_capacity", limits.max_kv_cache_capacity, 1, MAX_POSITIONS)?;
    checker.range("builder_config.max_lora_rank", limits.max_lora_rank, 0, MAX_RANK)?;
    if limits.max_input_len > limits.max_kv_cache_capacity {
        let wanted = format!("at most max_kv_cache_capacity {}", limits.max_kv_cache_capacity);
        return Err(checker.wrong("builder_config.max_input_len", wanted, limits.max_input_len));
    }
    Ok(())
}
