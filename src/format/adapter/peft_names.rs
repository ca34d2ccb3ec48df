//! What the name of a tensor in a PEFT adapter says: which module, which part of its change.
//!
//! Names that torch's wrappers for training put around a module (`_orig_mod.` of torch.compile, `module.` of
//! DistributedDataParallel, ...) are taken out first. Source: peft 0.18, `get_peft_model_state_dict` and the attributes of `LoraLayer`.

use std::borrow::Cow;

const PREFIX: &str = "base_model.model.";
/// Parts of a path that wrappers of torch add, wherever they stand: compile, FSDP, checkpointed activations.
const WRAPPERS: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];
/// What data parallelism adds: in front only, for models have modules of that name.
const FIRST_WRAPPER: &str = "module.";

/// Which part of a module's change a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoraPart {
    /// `[rank, in]`.
    A,
    /// `[out, rank]`.
    B,
    /// `[out]`, of an adapter with `lora_bias`.
    BBias,
    /// `[rank, vocabulary]`.
    EmbeddingA,
    /// `[width, rank]`.
    EmbeddingB,
    /// DoRA's lengths of the output's weight vectors, `[out]`.
    Magnitude,
}

/// A name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeftName<'a> {
    /// A part of a low-rank change.
    Lora {
        /// Path in the base model, `model.layers.0.self_attn.q_proj`.
        module: &'a str,
        part: LoraPart,
        /// The adapter's own name, where the tensor has it: `lora_A.default.weight`.
        adapter: Option<&'a str>,
    },
    /// A tensor of the base model, to be replaced: a bias, a module that was trained whole.
    Whole { tensor: String },
}

/// What stands behind the module, the part without a further word, and the words that may end it.
const MARKERS: [(&str, LoraPart, &[&str]); 6] = [
    (".lora_A", LoraPart::A, &["weight"]),
    (".lora_B", LoraPart::B, &["weight"]),
    (".lora_B", LoraPart::BBias, &["bias"]),
    (".lora_embedding_A", LoraPart::EmbeddingA, &[]),
    (".lora_embedding_B", LoraPart::EmbeddingB, &[]),
    (".lora_magnitude_vector", LoraPart::Magnitude, &["", "weight"]),
];

impl<'a> PeftName<'a> {
    /// Takes a name apart; every name is one or the other.
    pub fn parse(name: &'a str) -> Self {
        let inner = name.strip_prefix(PREFIX).unwrap_or(name);
        for (marker, part, ends) in MARKERS {
            let Some((module, tail)) = inner.rsplit_once(marker) else { continue };
            let words: Vec<&str> = match tail.strip_prefix('.') {
                Some(words) => words.split('.').collect(),
                None if tail.is_empty() => Vec::new(),
                None => continue,
            };
            let adapter = match (ends, &words[..]) {
                ([] | ["", ..], []) => None,
                (_, [end]) if ends.contains(end) => None,
                (_, [adapter, end]) if ends.contains(end) => Some(*adapter),
                ([] | ["", ..], [adapter]) => Some(*adapter),
                _ => continue,
            };
            if !module.is_empty() {
                return Self::Lora { module, part, adapter };
            }
        }
        Self::Whole { tensor: without_wrappers(inner) }
    }
}

/// A tensor's name as it was before the model was wrapped for training.
pub fn without_wrappers_of_training(name: &str) -> Cow<'_, str> {
    let is_wrapper = |part: &str| WRAPPERS.contains(&part);
    let is_plain = |name: &str| !name.starts_with(FIRST_WRAPPER) && !name.split('.').any(is_wrapper);
    let inner = name.strip_prefix(PREFIX);
    if is_plain(name) && inner.is_none_or(is_plain) {
        return Cow::Borrowed(name);
    }
    let parts: Vec<&str> = name.split('.').filter(|part| !is_wrapper(part)).collect();
    let joined = parts.join(".");
    let strip = |text: &str| {
        let mut rest = text;
        while let Some(inner) = rest.strip_prefix(FIRST_WRAPPER) {
            rest = inner;
        }
        rest.to_owned()
    };
    let outer = strip(&joined);
    Cow::Owned(match outer.strip_prefix(PREFIX) {
        Some(inner) => format!("{PREFIX}{}", strip(inner)),
        None => outer,
    })
}

/// `x.base_layer.bias` and `x.modules_to_save.NAME.bias` are `x.bias`.
fn without_wrappers(inner: &str) -> String {
    let mut words = Vec::new();
    let mut rest = inner.split('.');
    while let Some(word) = rest.next() {
        match word {
            "base_layer" | "original_module" => {}
            // Followed by the adapter's name.
            "modules_to_save" => drop(rest.next()),
            _ => words.push(word),
        }
    }
    words.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_of_training_are_taken_out() {
        let plain = "base_model.model.model.layers.0.q.lora_A.weight";
        for name in [
            plain,
            "_orig_mod.base_model.model.model.layers.0.q.lora_A.weight",
            "base_model.model._orig_mod.model.layers.0._orig_mod.q.lora_A.weight",
            "module.base_model.model.model.layers.0.q.lora_A.weight",
            "module._orig_mod.module.base_model.model.module.model.layers.0.q.lora_A.weight",
            "_fsdp_wrapped_module.base_model.model.model.layers.0._checkpoint_wrapped_module.q.lora_A.weight",
        ] {
            assert_eq!(without_wrappers_of_training(name), plain, "{name}");
        }
        for name in ["base_model.model.x.module.q.lora_A.weight", "modules.q.lora_A.weight", ""] {
            assert_eq!(without_wrappers_of_training(name), name);
        }
    }

    #[test]
    fn names_are_taken_apart() {
        use LoraPart::{A, B, BBias, EmbeddingA, EmbeddingB, Magnitude};
        let lora = [
            ("base_model.model.m.q.lora_A.weight", "m.q", A, None),
            ("base_model.model.m.q.lora_B.default.weight", "m.q", B, Some("default")),
            ("m.q.lora_B.vision.bias", "m.q", BBias, Some("vision")),
            ("m.q.lora_B.bias", "m.q", BBias, None),
            ("base_model.model.m.e.lora_embedding_A", "m.e", EmbeddingA, None),
            ("base_model.model.m.e.lora_embedding_B.x", "m.e", EmbeddingB, Some("x")),
            ("base_model.model.m.q.lora_magnitude_vector", "m.q", Magnitude, None),
            ("base_model.model.m.q.lora_magnitude_vector.weight", "m.q", Magnitude, None),
            ("base_model.model.m.q.lora_magnitude_vector.x", "m.q", Magnitude, Some("x")),
            ("base_model.model.m.q.lora_magnitude_vector.x.weight", "m.q", Magnitude, Some("x")),
        ];
        for (name, module, part, adapter) in lora {
            assert_eq!(PeftName::parse(name), PeftName::Lora { module, part, adapter }, "{name}");
        }
        let whole = [
            ("base_model.model.lm_head.weight", "lm_head.weight"),
            ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head.weight"),
            ("base_model.model.m.q.base_layer.bias", "m.q.bias"),
            ("m.norm.weight", "m.norm.weight"),
            ("m.q.lora_A", "m.q.lora_A"),
            ("m.q.lora_A.a.b.weight", "m.q.lora_A.a.b.weight"),
            ("m.q.lora_Ax.weight", "m.q.lora_Ax.weight"),
            (".lora_A.weight", ".lora_A.weight"),
            ("", ""),
        ];
        for (name, tensor) in whole {
            assert_eq!(PeftName::parse(name), PeftName::Whole { tensor: tensor.to_owned() }, "{name}");
        }
    }
}
