//! What the tensors of a processed adapter say of it, without a model to fit.

use std::collections::BTreeSet;

use crate::format::TensorFile;
use crate::format::adapter::parse_name;
use crate::numbers::Module;

/// What an adapter changes, and how.
#[derive(Debug, Default)]
pub struct AdapterFacts {
    /// All experts count as one.
    pub targets: BTreeSet<Module>,
    pub layers: BTreeSet<usize>,
    pub ranks: BTreeSet<usize>,
    /// Tensors that match no projection of any model.
    pub unknown: Vec<String>,
}

impl AdapterFacts {
    pub fn of(file: &TensorFile) -> Self {
        let mut facts = Self::default();
        for name in file.names() {
            let Some(parsed) = parse_name(name) else {
                facts.unknown.push(name.to_owned());
                continue;
            };
            facts.layers.insert(parsed.layer);
            facts.targets.insert(match parsed.module {
                Module::Expert { projection, .. } => Module::Expert { expert: 0, projection },
                other => other,
            });
            // [in_features, rank]
            if name.ends_with(".lora_A.weight") {
                facts.ranks.extend(file.get(name).and_then(|tensor| tensor.shape().last().copied()));
            }
        }
        facts
    }

    /// Names of the targets, as PEFT's `target_modules` has them.
    pub fn target_names(&self) -> Vec<String> {
        self.targets.iter().map(|module| target_name(*module)).collect()
    }
}

fn target_name(module: Module) -> String {
    match module {
        Module::Router => "router".to_owned(),
        Module::Expert { projection, .. } => format!("experts' {}", projection.short_name()),
        module => module.short_name().to_owned(),
    }
}
