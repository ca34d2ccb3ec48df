//! How the next token is chosen. The top level gives the defaults; a request may replace each value.

use std::sync::Arc;

use super::fault::Fault;
use super::limits;
use super::object::{At, Field, Object, round_to_f32};

/// Sampling of one request. The values are as the request gave them; their ranges are checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Finite, not negative; 0 = greedy.
    pub temperature: f32,
    /// In (0, 1]; 1 = off.
    pub top_p: f32,
    /// 0 = off.
    pub top_k: u32,
    /// At least 1; [`NO_LIMIT`] leaves it to what the engine holds.
    pub max_generate_length: usize,
    /// Seed of the random numbers; without one the daemon's fixed default.
    pub seed: Option<u64>,
    /// (token id, bias in [-100, 100]) by rising id, each id once.
    pub logit_bias: Arc<[(u32, f32)]>,
    /// Alternatives per step in the answer, 0..=50.
    pub num_logprobs: usize,
}

/// Largest `top_k` and largest number of tokens: 2^31 - 1, as in the original.
pub(super) const MAX_COUNT: u32 = i32::MAX.unsigned_abs();

/// As many tokens as the engine holds.
pub const NO_LIMIT: usize = usize::MAX;

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 0.8,
            top_k: 50,
            max_generate_length: 256,
            seed: None,
            logit_bias: Arc::new([]),
            num_logprobs: 0,
        }
    }
}

/// The names of the fields that [`Sampling`] reads.
pub(super) const SAMPLING_FIELDS: [&str; 7] =
    ["temperature", "top_p", "top_k", "max_generate_length", "sampling_seed", "logit_bias", "num_logprobs"];

impl Sampling {
    /// These values with those that `object` gives in their place.
    pub(super) fn replaced_by(&self, object: &Object) -> Result<Self, Fault> {
        let mut sampling = self.clone();
        if let Some(field) = object.get("temperature") {
            let fits = |x: f64| x >= 0.0 && x <= f64::from(f32::MAX);
            sampling.temperature = field.float(fits, "a number of at least 0")?;
        }
        if let Some(field) = object.get("top_p") {
            // A value that is 0 as f32 would leave no token.
            let fits = |x: f64| round_to_f32(x) > 0.0 && x <= 1.0;
            sampling.top_p = field.float(fits, "a number above 0 and at most 1")?;
        }
        if let Some(field) = object.get("top_k") {
            sampling.top_k = field.integer(0..=MAX_COUNT)?;
        }
        if let Some(field) = object.get("max_generate_length") {
            sampling.max_generate_length = field.integer(1..=MAX_COUNT as usize)?;
        }
        if let Some(field) = object.get("sampling_seed") {
            sampling.seed = Some(field.integer(0..=u64::MAX)?);
        }
        if let Some(field) = object.get("logit_bias") {
            sampling.logit_bias = read_logit_bias(field)?;
        }
        if let Some(field) = object.get("num_logprobs") {
            sampling.num_logprobs = field.integer(0..=limits::NUM_LOGPROBS)?;
        }
        Ok(sampling)
    }
}

pub(super) fn read_logit_bias(field: Field) -> Result<Arc<[(u32, f32)]>, Fault> {
    if !field.value.is_object() {
        return Err(field.wanted("an object of token ids and biases"));
    }
    let n = field.value.entries().count();
    if n > limits::LOGIT_BIAS_ENTRIES {
        let message =
            format!("{}: {n} entries are over the limit of {}", field.at, limits::LOGIT_BIAS_ENTRIES);
        return Err(Fault::bad(message));
    }
    let mut biases = std::collections::BTreeMap::new();
    for (key, value) in field.value.entries() {
        let id = key.string().and_then(|text| text.parse::<i32>().ok()).and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| {
            let wanted = "wanted token ids from 0 to 2147483647 as keys";
            Fault::bad(format!("{}: {wanted}, found {}", field.at, key.describe()))
        })?;
        let name = id.to_string();
        let bias = Field { value, at: At::Key(&field.at, &name) };
        let fits = |x: f64| x.abs() <= limits::LOGIT_BIAS;
        biases.insert(id, bias.float(fits, "a number from -100 to 100")?);
    }
    Ok(biases.into_iter().collect())
}
