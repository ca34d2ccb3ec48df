//! The ways out for adapters beyond plain LoRA, in the same words wherever one is refused: nobody is sent to a tool
//! that refuses it too.
//!
//! Sources: peft 0.18, `LoraModel._check_merge_allowed`, the `LoraVariant`s, `PeftModel.save_pretrained`.

use crate::format::PeftName;
use crate::format::adapter::peft_config::Obstacle;

pub const MERGE: &str = "merge it into the checkpoint with merge-lora";
const MERGE_OR_DROP: &str =
    "merge it into the checkpoint with merge-lora, or leave these tensors out with --drop-unsupported";
const MERGE_TABLE: &str = "merge it into the checkpoint with merge-lora; where the vocabulary was resized, give it a \
    checkpoint whose tables have as many rows: resize_token_embeddings(N) and save_pretrained in transformers";
pub const WITH_PEFT: &str =
    "load it in PEFT and save what merge_and_unload() gives: that is a checkpoint to build from";
const CONVERT: &str = "it changes the base weights too; save it again as plain LoRA in PEFT: \
    save_pretrained(DIR, path_initial_model_for_weight_conversion=INITIAL), INITIAL being the adapter as it was saved \
    before the training";
const LOFTQ: &str = "it belongs to base weights that LoftQ changed; load it in PEFT and save what merge_and_unload() \
    gives, or save the changed base weights as a checkpoint, set init_lora_weights to true and use it with them";
const SAVE_AGAIN: &str = "save the adapter again: its file is not complete";

/// The key, and what helps where merge-lora does not.
const NOT_MERGED: [(&str, &str); 10] = [
    (
        "layer_replication",
        "save the model with its replicated layers as a checkpoint, set layer_replication to null, and use the \
         adapter with that checkpoint",
    ),
    ("alora_invocation_tokens", "it acts on some tokens only, so no merged weights equal it; run it in PEFT"),
    ("trainable_token_indices", WITH_PEFT),
    ("target_parameters", WITH_PEFT),
    ("arrow_config", "it mixes several adapters at run time; take the ones that it mixes, each on its own"),
    ("use_qalora", "PEFT runs it on GPTQ layers and cannot merge it either; train it without use_qalora"),
    ("use_bdlora", WITH_PEFT),
    ("kasa_config", WITH_PEFT),
    ("monteclora_config", WITH_PEFT),
    ("init_lora_weights", CONVERT),
];

/// What helps where merge-lora cannot take an adapter with this key; none where it can.
pub fn instead_of_merging(obstacle: &Obstacle) -> Option<&'static str> {
    if obstacle.key == "init_lora_weights" && obstacle.found.to_lowercase().contains("loftq") {
        return Some(LOFTQ);
    }
    NOT_MERGED.iter().find(|(key, _)| *key == obstacle.key).map(|(_, way)| *way)
}

/// What helps against a tensor that no run-time form has, by its name.
pub fn way_of_tensor(name: &str) -> &'static str {
    let PeftName::Whole { tensor } = PeftName::parse(name) else { return MERGE };
    match () {
        () if is_of_other_method(&tensor) => WITH_PEFT,
        () if tensor.ends_with("embed_tokens.weight") => MERGE_TABLE,
        () => MERGE,
    }
}

/// Whether a tensor that is no part of a pair is a method's own, and not the model's.
pub fn is_of_other_method(tensor: &str) -> bool {
    tensor.split('.').any(|part| part.starts_with("trainable_tokens_") || part.starts_with("lora_"))
}

/// Whether a tensor belongs to a head that values or classifies texts: it takes no part in writing them.
/// TRL calls it `v_head`, transformers `score` or `classifier`.
pub fn is_value_head(tensor: &str) -> bool {
    let first = tensor.split('.').next().unwrap_or_default();
    ["v_head", "value_head", "score", "classifier"].contains(&first)
}

/// What stands in an adapter's way, and what helps.
#[derive(Default)]
pub struct Refusals {
    found: Vec<(String, &'static str)>,
}

impl Refusals {
    pub fn add(&mut self, what: String, way: &'static str) {
        self.found.push((what, way));
    }

    pub fn add_obstacle(&mut self, obstacle: &Obstacle) {
        self.add(obstacle.to_string(), instead_of_merging(obstacle).unwrap_or(MERGE));
    }

    /// Of norms, the head, value heads.
    pub fn add_outside(&mut self, what: String) {
        self.add(what, MERGE_OR_DROP);
    }

    pub fn add_damaged(&mut self, what: String) {
        self.add(what, SAVE_AGAIN);
    }

    /// All of it, and the advice. Where something keeps merge-lora from helping, nothing says that it would.
    pub fn sum_up(self) -> Option<(String, &'static str)> {
        let is_merge = |way: &str| [MERGE, MERGE_OR_DROP, MERGE_TABLE].contains(&way);
        let hard: Vec<&'static str> =
            self.found.iter().map(|(_, way)| *way).filter(|way| !is_merge(way)).collect();
        let all = [MERGE_TABLE, MERGE, MERGE_OR_DROP];
        let soft = all.into_iter().find(|way| self.found.iter().any(|(_, found)| found == way));
        let advice = hard.first().copied().or(soft)?;
        let whats = self.found.into_iter().map(|(what, way)| {
            let is_other = way != advice && !is_merge(way);
            if is_other { format!("{what} ({way})") } else { what }
        });
        Some((whats.collect::<Vec<_>>().join("; "), advice))
    }
}
