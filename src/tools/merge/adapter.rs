//! The adapter as it comes: from PEFT's files, or from inside the checkpoint (Phi-4-multimodal), by module.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::count::Count;
use crate::format::adapter::{listed, without_wrappers_of_training};
use crate::format::{FormatError, LoraPart, PeftConfig, PeftName, Tensor, TensorFile, first_not_finite};
use crate::store::adapter_files::{PEFT_CONFIG_FILE, PEFT_PICKLE_FILE, PEFT_WEIGHTS_FILE};
use crate::store::{Expected, StoreError, WeightFiles, map_file, read_small};
use crate::tools::ToolError;
use crate::tools::ways_out::{Refusals, WITH_PEFT, instead_of_merging, is_of_other_method, is_value_head};

/// A tensor with its name in the file.
#[derive(Clone)]
pub struct Named {
    pub name: String,
    pub tensor: Tensor,
}

/// What an adapter says about one module.
#[derive(Default)]
pub struct ModuleParts {
    pub a: Option<Named>,
    pub b: Option<Named>,
    pub b_bias: Option<Named>,
    pub embedding_a: Option<Named>,
    pub embedding_b: Option<Named>,
    pub magnitude: Option<Named>,
}

impl ModuleParts {
    fn slot(&mut self, part: LoraPart) -> &mut Option<Named> {
        match part {
            LoraPart::A => &mut self.a,
            LoraPart::B => &mut self.b,
            LoraPart::BBias => &mut self.b_bias,
            LoraPart::EmbeddingA => &mut self.embedding_a,
            LoraPart::EmbeddingB => &mut self.embedding_b,
            LoraPart::Magnitude => &mut self.magnitude,
        }
    }

    /// The names of all that is there.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let parts = [&self.a, &self.b, &self.b_bias, &self.embedding_a, &self.embedding_b, &self.magnitude];
        parts.into_iter().flatten().map(|named| named.name.as_str())
    }
}

/// An adapter, sorted.
pub struct AdapterTensors {
    /// The file of the tensors, or the checkpoint.
    pub path: PathBuf,
    pub config: PeftConfig,
    /// By the module's path in the base model.
    pub modules: BTreeMap<String, ModuleParts>,
    /// Tensors of the base model that are replaced, by their names there.
    pub whole: BTreeMap<String, Named>,
    pub notes: Vec<String>,
}

impl AdapterTensors {
    /// Opens an adapter directory. One without tensors of its own names those inside the checkpoint.
    ///
    /// # Errors
    /// [`ToolError`]; what cannot be merged is refused by name.
    pub fn open(lora_dir: &Path, weights: &WeightFiles) -> Result<Self, ToolError> {
        let config_path = lora_dir.join(PEFT_CONFIG_FILE);
        let config =
            read_config(&config_path).map_err(ToolError::explained(lora_dir, Expected::PeftAdapter))?;
        check_config(&config, &config_path)?;
        let (path, tensors) = read_tensors(lora_dir, weights)?;
        let mut adapter =
            Self { path, config, modules: BTreeMap::new(), whole: BTreeMap::new(), notes: Vec::new() };
        let chosen = adapter.choose(lora_dir, &tensors)?;
        for named in tensors {
            adapter.take(named, chosen.as_deref())?;
        }
        adapter.check_methods()?;
        if adapter.modules.is_empty() && adapter.whole.is_empty() {
            return Err(adapter.refused("holds no tensors".to_owned(), "check that training saved them"));
        }
        adapter.note_silence();
        Ok(adapter)
    }

    /// The adapter's name to look for, where the tensors have names of adapters.
    fn choose(&mut self, lora_dir: &Path, tensors: &[Named]) -> Result<Option<String>, ToolError> {
        let names: BTreeSet<String> = tensors
            .iter()
            .filter_map(|named| match PeftName::parse(&without_wrappers_of_training(&named.name)) {
                PeftName::Lora { adapter, .. } => adapter.map(str::to_owned),
                PeftName::Whole { .. } => None,
            })
            .collect();
        let folder = adapter_of_folder(lora_dir);
        match (names.len(), names.iter().find(|name| Some(*name) == folder.as_ref())) {
            (0, _) => Ok(None),
            (1, _) => Ok(names.first().cloned()),
            (_, Some(name)) => Ok(Some(name.clone())),
            _ => {
                let names = names.iter().map(String::as_str).collect::<Vec<_>>();
                let what = format!("it holds several adapters: {}", listed(&names));
                let advice = "name the folder of one of them: --lora_dir DIR/NAME-lora";
                Err(self.refused(what, advice))
            }
        }
    }

    /// Puts a tensor in its place; those of other adapters are left.
    fn take(&mut self, named: Named, chosen: Option<&str>) -> Result<(), ToolError> {
        let plain = without_wrappers_of_training(&named.name).into_owned();
        let (module, part) = match PeftName::parse(&plain) {
            PeftName::Lora { adapter: Some(adapter), .. } if Some(adapter) != chosen => return Ok(()),
            PeftName::Lora { module, part, .. } => (module.to_owned(), part),
            PeftName::Whole { tensor } => {
                self.check_finite(&named)?;
                let name = named.name.clone();
                let first = self.whole.insert(tensor, named);
                return first.map_or(Ok(()), |first| Err(self.twice(&first.name, &name)));
            }
        };
        self.check_finite(&named)?;
        let name = named.name.clone();
        let first = self.modules.entry(module).or_default().slot(part).replace(named);
        first.map_or(Ok(()), |first| Err(self.twice(&first.name, &name)))
    }

    /// Here, because in the sum with a weight nobody knows any more whose fault it is.
    fn check_finite(&self, named: &Named) -> Result<(), ToolError> {
        let Some((index, found)) = first_not_finite(named.tensor.dtype(), named.tensor.data()) else {
            return Ok(());
        };
        let source = FormatError::NotFinite { name: named.name.clone(), index, found };
        Err(ToolError::Format { path: self.path.clone(), source })
    }

    fn twice(&self, first: &str, second: &str) -> ToolError {
        self.refused(format!("tensors {first} and {second} mean the same"), "keep one adapter per file")
    }

    /// Refuses tensors of other methods; value heads, which write no text, are left out, as PEFT leaves them out.
    fn check_methods(&mut self) -> Result<(), ToolError> {
        let names_of = |whole: &BTreeMap<String, Named>, is_one: fn(&str) -> bool| -> Vec<String> {
            whole.iter().filter(|(tensor, _)| is_one(tensor)).map(|(_, named)| named.name.clone()).collect()
        };
        let others = names_of(&self.whole, is_of_other_method);
        if !others.is_empty() {
            let tokens =
                self.config.obstacles.iter().find(|obstacle| obstacle.key == "trainable_token_indices");
            let why = tokens.map_or_else(String::new, |obstacle| format!(" ({obstacle})"));
            let names = listed(&others.iter().map(String::as_str).collect::<Vec<_>>());
            let what =
                format!("{} not merged by adding a product{why}: {names}", Count(others.len(), "tensor"));
            return Err(self.refused(what, WITH_PEFT));
        }
        let heads = names_of(&self.whole, is_value_head);
        if !heads.is_empty() {
            let names = listed(&heads.iter().map(String::as_str).collect::<Vec<_>>());
            self.notes.push(format!("a value head writes no text and is left out: {names}"));
            self.whole.retain(|tensor, _| !is_value_head(tensor));
        }
        Ok(())
    }

    /// What the configuration promises and the tensors do not hold.
    fn note_silence(&mut self) {
        let bias = &self.config.bias;
        if bias != "none" && !self.whole.keys().any(|name| name.ends_with(".bias")) {
            self.notes.push(format!(
                "bias is {bias:?} by {PEFT_CONFIG_FILE}, but no biases were saved: the checkpoint's stay as they are"
            ));
        }
    }

    pub fn refused(&self, what: String, advice: &'static str) -> ToolError {
        ToolError::Refused { path: self.path.clone(), what, advice }
    }
}

fn read_config(path: &Path) -> Result<PeftConfig, ToolError> {
    PeftConfig::parse(&read_small(path)?).map_err(ToolError::format(path))
}

/// Refuses what cannot be merged by adding a low-rank product. Rows of single tokens are known by their tensors.
fn check_config(config: &PeftConfig, path: &Path) -> Result<(), ToolError> {
    let mut refusals = Refusals::default();
    for obstacle in config.obstacles.iter().filter(|obstacle| obstacle.key != "trainable_token_indices") {
        if let Some(way) = instead_of_merging(obstacle) {
            refusals.add(obstacle.to_string(), way);
        }
    }
    let Some((what, advice)) = refusals.sum_up() else { return Ok(()) };
    let what = format!("this adapter cannot be merged: {what}");
    Err(ToolError::Refused { path: path.to_owned(), what, advice })
}

/// The file's tensors, or those that lie beside the base weights in the checkpoint itself.
fn read_tensors(lora_dir: &Path, weights: &WeightFiles) -> Result<(PathBuf, Vec<Named>), ToolError> {
    let path = lora_dir.join(PEFT_WEIGHTS_FILE);
    if path.exists() {
        let file = TensorFile::parse(map_file(&path)?).map_err(ToolError::format(&path))?;
        let mut tensors = Vec::new();
        for name in file.names() {
            let tensor = file.require(name).map_err(ToolError::format(&path))?;
            tensors.push(Named { name: name.to_owned(), tensor });
        }
        return Ok((path, tensors));
    }
    let inside: Vec<Named> = weights
        .names()
        .filter(|name| matches!(PeftName::parse(name), PeftName::Lora { .. }))
        .filter_map(|name| Some(Named { name: name.to_owned(), tensor: weights.tensor(name)? }))
        .collect();
    if !inside.is_empty() {
        return Ok((weights.directory().to_owned(), inside));
    }
    let pickle = lora_dir.join(PEFT_PICKLE_FILE);
    if pickle.exists() {
        let advice = "save the adapter as safetensors first: save_pretrained(DIR, safe_serialization=True)";
        return Err(StoreError::WrongWeights { path: pickle, advice }.into());
    }
    let what = format!("there is no {PEFT_WEIGHTS_FILE}, and the checkpoint holds no adapters of its own");
    let advice = "give the directory that save_pretrained of the adapter wrote";
    Err(ToolError::Refused { path: lora_dir.to_owned(), what, advice })
}

/// `…/vision-lora` is the folder of the adapter `vision`.
fn adapter_of_folder(lora_dir: &Path) -> Option<String> {
    let real = std::fs::canonicalize(lora_dir).ok()?;
    let name = real.file_name()?.to_str()?.to_owned();
    Some(name.strip_suffix("-lora").or_else(|| name.strip_suffix("_lora")).unwrap_or(&name).to_owned())
}
