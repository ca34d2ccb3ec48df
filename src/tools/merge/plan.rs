//! What is written: every tensor of the checkpoint with what the adapter does to it, shard by shard.
//!
//! The adapter's modules are looked up in the checkpoint; whatever finds no place is named, all of it. A head
//! that is tied to the embedding is written on its own when only one of the two is changed, as PEFT runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, Weak};

use safetensors::Dtype;

use super::adapter::{AdapterTensors, ModuleParts, Named};
use super::element::Element;
use super::rows::{Delta, Dora, Factor, Floats, MergedMatrix};
use crate::count::Count;
use crate::format::adapter::listed;
use crate::format::{FormatError, PeftConfig, PeftName, Tensor};
use crate::numbers::round_to_f32;
use crate::store::WeightFiles;
use crate::store::adapter_files::PEFT_CONFIG_FILE;
use crate::tools::ToolError;
use crate::tools::weights::source::decoder;

const HEAD: &str = "lm_head.weight";
/// What embedding tables of decoders are called at the end.
const EMBEDDINGS: [&str; 2] = ["embed_tokens.weight", "wte.weight"];
/// Starts of names that mean the same module in several versions of transformers.
const SAME_PREFIXES: [&[&str]; 4] = [
    &["model.", "model.language_model.", "language_model.model."],
    &["lm_head.", "language_model.lm_head."],
    &["visual.", "model.visual."],
    &["vision_tower.", "model.vision_tower."],
];
/// Models whose layers of these names are stored `[in, out]` (transformers' Conv1D).
const TRANSPOSED_MODELS: [&str; 4] = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer"];
const TRANSPOSED_MODULES: [&str; 4] = ["c_attn", "q_attn", "c_proj", "c_fc"];

const RESIZE: &str = "the vocabulary was resized before the training: do the same to the checkpoint, with \
    resize_token_embeddings(ROWS) and save_pretrained in transformers, and merge into that";

/// How the tensor that is written comes about.
pub enum Content {
    /// No floats; its bytes.
    Copied(Tensor),
    /// Floats in the type that is written.
    Cast(Floats),
    Merged(Box<MergedMatrix>),
    /// A bias and what `lora_bias` adds to it.
    Bias {
        base: Floats,
        change: Floats,
        scale: f32,
    },
}

/// A tensor that is written.
pub struct OutTensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub content: Content,
    /// Whether the adapter has a part in it.
    pub is_changed: bool,
}

impl OutTensor {
    pub fn n_bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * (self.dtype.bitsize() / 8) as u64
    }
}

/// The whole output.
pub struct Plan {
    /// By file name; tensors in the order of the source file, wider types first.
    pub shards: BTreeMap<String, Vec<OutTensor>>,
    /// Matrices with a low-rank change.
    pub n_merged: usize,
    /// Tensors that were replaced or got another bias.
    pub n_replaced: usize,
    /// Whether the head is no longer the embedding.
    pub is_untied: bool,
    pub notes: Vec<String>,
    /// Of the adapter's tensors.
    pub adapter_path: PathBuf,
}

/// What `config.json` says that matters here.
pub struct ModelFacts<'a> {
    pub model_type: &'a str,
    /// None where the configuration says nothing.
    pub ties_head: Option<bool>,
}

/// What the adapter does to one tensor.
#[derive(Default)]
struct Change {
    replacement: Option<Named>,
    /// The module's path and its parts.
    low_rank: Option<(String, ModuleParts)>,
    bias: Option<(Named, f32)>,
}

impl Change {
    fn is_replacement_only(&self) -> bool {
        self.low_rank.is_none() && self.bias.is_none()
    }
}

/// The checkpoint as the plan sees it.
struct Base<'a> {
    weights: &'a WeightFiles,
    /// Names without `base_layer` to names as stored.
    names: BTreeMap<String, &'a str>,
    embedding: Option<String>,
    head: String,
    is_tied: bool,
    /// How many tensors of adapters lie in the checkpoint.
    n_inner: usize,
}

type Changes = BTreeMap<String, Change>;

/// Plans the output.
///
/// # Errors
/// [`ToolError`] with the names of what does not fit.
pub fn plan(
    weights: &WeightFiles,
    facts: &ModelFacts,
    adapter: AdapterTensors,
    element: Element,
) -> Result<Plan, ToolError> {
    let base = Base::new(weights, facts)?;
    let AdapterTensors { path, config, modules, whole, notes } = adapter;
    let adapter = AdapterTensors { path, config, modules: BTreeMap::new(), whole: BTreeMap::new(), notes };
    let mut changes = find_places(&base, &adapter, modules, whole)?;
    base.share(&mut changes, &adapter.config);
    let is_untied = base.untie(&mut changes, &adapter);
    let builder = Builder { base: &base, facts, adapter: &adapter, element };
    let n_merged = changes.values().filter(|change| change.low_rank.is_some()).count();
    let n_replaced = changes.len() - n_merged;
    let shards = builder.shards(changes, is_untied)?;
    let mut notes = adapter.notes;
    if base.n_inner > 0 {
        notes.push(format!(
            "{} tensors of adapters inside the checkpoint are not written: the result is a plain checkpoint",
            base.n_inner
        ));
    }
    if is_untied {
        notes.push(format!(
            "the head was tied to the embedding, and the adapter changes only one of them: {} is written on \
             its own, and tie_word_embeddings is false",
            base.head
        ));
    }
    Ok(Plan { shards, n_merged, n_replaced, is_untied, notes, adapter_path: adapter.path })
}

impl<'a> Base<'a> {
    fn new(weights: &'a WeightFiles, facts: &ModelFacts) -> Result<Self, ToolError> {
        let mut names = BTreeMap::new();
        let mut n_inner = 0;
        for name in weights.names() {
            let plain = match PeftName::parse(name) {
                PeftName::Lora { .. } => {
                    n_inner += 1;
                    continue;
                }
                // Other words than this one belong to the model.
                PeftName::Whole { .. } => name.replace(".base_layer.", "."),
            };
            if let Some(first) = names.insert(plain, name) {
                let what = format!("tensors {first} and {name} mean the same");
                let path = weights.directory().to_owned();
                return Err(ToolError::Refused { path, what, advice: "keep one of them" });
            }
        }
        let mut base =
            Self { weights, names, embedding: None, head: HEAD.to_owned(), is_tied: false, n_inner };
        let is_table = |name: &str| {
            let end = EMBEDDINGS.iter().find_map(|end| name.strip_suffix(end));
            end.is_some_and(|start| start.is_empty() || start.ends_with('.'))
        };
        let mut tables = base.names.keys().filter(|name| is_table(name));
        base.embedding = tables.next().filter(|_| tables.next().is_none()).cloned();
        let head = base.find(HEAD).map(str::to_owned);
        base.is_tied = base.embedding.is_some() && facts.ties_head.unwrap_or(head.is_none());
        base.head = head.unwrap_or_else(|| HEAD.to_owned());
        Ok(base)
    }

    /// The checkpoint's plain name for a tensor of that name in the model.
    fn find(&self, name: &str) -> Option<&str> {
        let known = |name: &str| self.names.get_key_value(name).map(|(name, _)| name.as_str());
        known(name).or_else(|| {
            let starts =
                SAME_PREFIXES.iter().flat_map(|group| group.iter().map(move |start| (*group, *start)));
            let others = starts.filter_map(|(group, start)| Some((group, name.strip_prefix(start)?)));
            others
                .flat_map(|(group, rest)| group.iter().map(move |other| format!("{other}{rest}")))
                .find_map(|other| known(&other))
        })
    }

    /// Like [`Base::find`]; a tied head has a place too.
    fn place(&self, name: &str) -> Option<String> {
        let is_head = || name == HEAD || name == self.head;
        self.find(name).or_else(|| (self.is_tied && is_head()).then_some(&self.head)).map(str::to_owned)
    }

    fn is_table(&self, plain: &str) -> bool {
        plain == self.head || self.embedding.as_deref() == Some(plain)
    }

    fn tensor(&self, plain: &str) -> Option<Tensor> {
        self.weights.tensor(self.names.get(plain)?)
    }

    /// A table that is not of `modules_to_save` is loaded into the base model itself, where a tied head and the
    /// embedding are one: what one of them gets, the other has too, and of two the head's, which is loaded last.
    /// Source: peft 0.18, `set_peft_model_state_dict`; transformers' tied parameters.
    fn share(&self, changes: &mut Changes, config: &PeftConfig) {
        let Some(embedding) = self.embedding.as_deref().filter(|_| self.is_tied) else { return };
        let is_copy = |table: &str| {
            let module = table.strip_suffix(".weight").unwrap_or(table);
            config.modules_to_save.iter().any(|name| module.ends_with(name.as_str()))
        };
        let tables = [self.head.as_str(), embedding];
        let mut loaded = tables.iter().filter(|table| !is_copy(table));
        let shared = loaded.find_map(|table| changes.get(*table)?.replacement.clone());
        let Some(shared) = shared else { return };
        for table in tables.iter().filter(|table| !is_copy(table)) {
            changes.entry((*table).to_owned()).or_default().replacement = Some(shared.clone());
        }
    }

    /// Whether the tied head gets weights of its own. Where not, nothing is left to be done to the head alone.
    fn untie(&self, changes: &mut Changes, adapter: &AdapterTensors) -> bool {
        let Some(embedding) = self.embedding.as_deref().filter(|_| self.is_tied) else { return false };
        let stays = match (changes.get(embedding), changes.get(&self.head)) {
            (None, None) => true,
            (Some(table), None) if table.is_replacement_only() => {
                let own = self.tensor(embedding).map(|tensor| Named { name: String::new(), tensor });
                adapter.config.ensure_weight_tying || is_same(table.replacement.as_ref(), own.as_ref())
            }
            (Some(_), None) => false,
            (Some(table), Some(head)) => {
                let both = table.is_replacement_only() && head.is_replacement_only();
                both && is_same(table.replacement.as_ref(), head.replacement.as_ref())
            }
            (None, Some(_)) => false,
        };
        if stays {
            changes.remove(&self.head);
            // Where the file has both, both stay equal.
            if self.names.contains_key(&self.head)
                && let Some(table) = changes.get(embedding)
            {
                let replacement = table.replacement.clone();
                changes.insert(self.head.clone(), Change { replacement, ..Change::default() });
            }
        }
        !stays
    }
}

fn listed_owned(names: &[String]) -> String {
    listed(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

fn is_same(first: Option<&Named>, second: Option<&Named>) -> bool {
    let bytes = |named: Option<&Named>| named.map(|named| (named.tensor.dtype(), named.tensor.clone()));
    match (bytes(first), bytes(second)) {
        (Some((dtype, first)), Some((other, second))) => dtype == other && first.data() == second.data(),
        _ => false,
    }
}

/// The tensor of the checkpoint for each part of the adapter.
fn find_places(
    base: &Base,
    adapter: &AdapterTensors,
    modules: BTreeMap<String, ModuleParts>,
    whole: BTreeMap<String, Named>,
) -> Result<Changes, ToolError> {
    let mut changes = Changes::new();
    let mut unmatched = BTreeSet::new();
    let mut without_bias = Vec::new();
    for (tensor, named) in whole {
        match base.place(&tensor) {
            Some(place) => changes.entry(place).or_default().replacement = Some(named),
            None => drop(unmatched.insert(named.name)),
        }
    }
    for (module, mut parts) in modules {
        let Some(place) = base.place(&format!("{module}.weight")) else {
            unmatched.extend(parts.names().map(str::to_owned));
            continue;
        };
        if let Some(bias) = parts.b_bias.take() {
            let scale = round_to_f32(adapter.config.scale_of(&module));
            match base.find(&format!("{module}.bias")) {
                Some(name) => changes.entry(name.to_owned()).or_default().bias = Some((bias, scale)),
                None => without_bias.push(bias.name),
            }
        }
        changes.entry(place).or_default().low_rank = Some((module, parts));
    }
    if !unmatched.is_empty() {
        let n_unmatched = unmatched.len();
        let names = listed_owned(&unmatched.into_iter().collect::<Vec<_>>());
        let what = format!("{} without a match in the checkpoint: {names}", Count(n_unmatched, "tensor"));
        return Err(adapter.refused(what, "give the checkpoint that the adapter was trained on"));
    }
    if !without_bias.is_empty() {
        let what =
            format!("these add to biases that the checkpoint does not have: {}", listed_owned(&without_bias));
        return Err(adapter.refused(what, "PEFT cannot merge them either; run the adapter in PEFT"));
    }
    Ok(changes)
}

/// Puts contents together and checks shapes and types.
struct Builder<'a> {
    base: &'a Base<'a>,
    facts: &'a ModelFacts<'a>,
    adapter: &'a AdapterTensors,
    element: Element,
}

impl Builder<'_> {
    fn shards(
        &self,
        mut changes: Changes,
        is_untied: bool,
    ) -> Result<BTreeMap<String, Vec<OutTensor>>, ToolError> {
        let base = self.base;
        // Each with its place in the source file.
        let mut shards: BTreeMap<String, Vec<(usize, OutTensor)>> =
            base.weights.shards().map(|(name, _)| (name.to_owned(), Vec::new())).collect();
        let mut add = |stored: &str, at: usize, tensor: OutTensor| {
            let shard = base.weights.shard_of(stored).and_then(|name| shards.get_mut(name));
            shard.expect("every tensor lies in a shard").push((at, tensor));
        };
        let address = |tensor: &Tensor| tensor.data().as_ptr() as usize;
        for (plain, stored) in &base.names {
            let own = base.tensor(plain).expect("its name comes from there");
            let at = address(&own);
            let is_head = is_untied && *plain == base.head;
            let tied = base.embedding.as_deref().filter(|_| is_head).and_then(|name| base.tensor(name));
            let change = changes.remove(plain).unwrap_or_default();
            add(stored, at, self.tensor(plain, tied.unwrap_or(own), change)?);
        }
        if is_untied
            && !base.names.contains_key(&base.head)
            && let Some(embedding) = &base.embedding
        {
            let table = base.tensor(embedding).expect("its name comes from there");
            let at = address(&table);
            let change = changes.remove(&base.head).unwrap_or_default();
            add(base.names[embedding], at, self.tensor(&base.head, table, change)?);
        }
        let ordered = |mut tensors: Vec<(usize, OutTensor)>| {
            tensors.sort_by_key(|(at, tensor)| (std::cmp::Reverse(tensor.dtype.bitsize()), *at));
            tensors.into_iter().map(|(_, tensor)| tensor).collect()
        };
        Ok(shards.into_iter().map(|(name, tensors)| (name, ordered(tensors))).collect())
    }

    fn tensor(&self, plain: &str, base: Tensor, change: Change) -> Result<OutTensor, ToolError> {
        let wrong_base = ToolError::format(self.base.weights.directory());
        let name = plain.to_owned();
        let Change { replacement, low_rank, bias } = change;
        let is_changed = replacement.is_some() || low_rank.is_some() || bias.is_some();
        if !is_changed && is_whole_numbers(base.dtype()) {
            let (dtype, shape) = (base.dtype(), base.shape().to_vec());
            return Ok(OutTensor { name, dtype, shape, content: Content::Copied(base), is_changed });
        }
        let shape = base.shape().to_vec();
        let base = match replacement {
            None => floats(plain, base).map_err(wrong_base)?,
            Some(named) => {
                let wrong = ToolError::format(&self.adapter.path);
                if let (&[found, width], &[wanted, wanted_width]) = (named.tensor.shape(), &shape[..])
                    && self.base.is_table(plain)
                    && (width == wanted_width && found != wanted)
                {
                    let what = format!("{} has {found} rows, the checkpoint's {wanted}", named.name);
                    return Err(self.adapter.refused(what, RESIZE));
                }
                if named.tensor.shape() != shape {
                    let found = named.tensor.shape().to_vec();
                    return Err(wrong(FormatError::Shape { name: named.name, wanted: shape, found }));
                }
                floats(&named.name, named.tensor).map_err(wrong)?
            }
        };
        let content = match (low_rank, bias) {
            (Some((module, parts)), _) => {
                let delta = self.delta(&module, parts, &shape)?;
                Content::Merged(Box::new(MergedMatrix { base, delta }))
            }
            (None, Some((named, scale))) => {
                let change = self.vector(&named, shape.iter().product())?;
                Content::Bias { base, change, scale }
            }
            (None, None) => Content::Cast(base),
        };
        Ok(OutTensor { name, dtype: self.element.dtype(), shape, content, is_changed })
    }

    /// The change of a module whose weight has that shape.
    fn delta(&self, module: &str, parts: ModuleParts, shape: &[usize]) -> Result<Delta, ToolError> {
        let config = &self.adapter.config;
        let ModuleParts { a, b, embedding_a, embedding_b, magnitude, .. } = parts;
        let is_embedding = embedding_a.is_some() || embedding_b.is_some();
        let missing = |part: &str| {
            let name = format!("{module}.{part}");
            ToolError::format(&self.adapter.path)(FormatError::MissingTensor { name })
        };
        let (a, b) = if is_embedding {
            let a = embedding_a.ok_or_else(|| missing("lora_embedding_A"))?;
            (a, embedding_b.ok_or_else(|| missing("lora_embedding_B"))?)
        } else {
            (a.ok_or_else(|| missing("lora_A.weight"))?, b.ok_or_else(|| missing("lora_B.weight"))?)
        };
        let wrong_shape = |named: &Named, wanted: [usize; 2]| {
            let rank = config.rank_of(module);
            let name = format!("{} (rank {rank} by {PEFT_CONFIG_FILE})", named.name);
            let found = named.tensor.shape().to_vec();
            ToolError::format(&self.adapter.path)(FormatError::Shape { name, wanted: wanted.to_vec(), found })
        };
        let &[n_rows, n_columns] = shape else {
            let name = format!("{module}.weight");
            let found = shape.to_vec();
            let error = FormatError::Shape {
                name,
                wanted: vec![
                    b.tensor.shape().first().copied().unwrap_or(0),
                    a.tensor.shape().last().copied().unwrap_or(0),
                ],
                found,
            };
            return Err(ToolError::format(self.base.weights.directory())(error));
        };
        // Stored [in, out]: A belongs to the rows.
        let is_by_column = is_embedding || self.is_transposed(module);
        let (n_inputs, n_outputs) = if is_by_column { (n_rows, n_columns) } else { (n_columns, n_rows) };
        let rank = config.rank_of(module);
        if a.tensor.shape() != [rank, n_inputs] {
            return Err(wrong_shape(&a, [rank, n_inputs]));
        }
        if b.tensor.shape() != [n_outputs, rank] {
            return Err(wrong_shape(&b, [n_outputs, rank]));
        }
        let dora = match magnitude {
            Some(named) => {
                let magnitude = self.magnitude(&named, n_outputs)?;
                Some(Dora { magnitude, is_by_column, factors: OnceLock::new() })
            }
            None if config.use_dora => return Err(missing("lora_magnitude_vector")),
            None => None,
        };
        let to_floats =
            |named: Named| floats(&named.name, named.tensor).map_err(ToolError::format(&self.adapter.path));
        let a = Factor { floats: to_floats(a)?, rank, len: n_inputs, is_rank_first: true };
        let b = Factor { floats: to_floats(b)?, rank, len: n_outputs, is_rank_first: false };
        let (coefficients, panel) = if is_by_column { (a, b) } else { (b, a) };
        let scale = round_to_f32(config.scale_of(module));
        let rounds_delta = is_embedding && dora.is_none();
        Ok(Delta { coefficients, panel, scale, rounds_delta, dora, unpacked: Mutex::new(Weak::new()) })
    }

    fn is_transposed(&self, module: &str) -> bool {
        let last = module.rsplit('.').next().unwrap_or_default();
        TRANSPOSED_MODELS.contains(&self.facts.model_type) && TRANSPOSED_MODULES.contains(&last)
    }

    fn magnitude(&self, named: &Named, len: usize) -> Result<Vec<f32>, ToolError> {
        let vector = self.vector(named, len)?;
        let mut values = vec![0.0; len];
        (vector.decode)(vector.tensor.data(), &mut values);
        Ok(values)
    }

    fn vector(&self, named: &Named, len: usize) -> Result<Floats, ToolError> {
        let wrong = ToolError::format(&self.adapter.path);
        if named.tensor.n_elements() != len {
            let (name, found) = (named.name.clone(), named.tensor.shape().to_vec());
            return Err(wrong(FormatError::Shape { name, wanted: vec![len], found }));
        }
        floats(&named.name, named.tensor.clone()).map_err(wrong)
    }
}

fn floats(name: &str, tensor: Tensor) -> Result<Floats, FormatError> {
    match decoder(tensor.dtype()) {
        Some(decode) => Ok(Floats { tensor, decode }),
        None => Err(FormatError::Dtype {
            name: name.to_owned(),
            wanted: "F32, F16 or BF16",
            found: format!("{:?}", tensor.dtype()),
        }),
    }
}

fn is_whole_numbers(dtype: Dtype) -> bool {
    use Dtype::{BOOL, I8, I16, I32, I64, U8, U16, U32, U64};
    matches!(dtype, BOOL | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64)
}

/// The type that `auto` means: what the configuration says, else that of the first floats.
pub fn stored_element(weights: &WeightFiles, named: Option<&str>, path: &Path) -> Result<Element, ToolError> {
    let first = || weights.names().find_map(|name| Element::of(weights.tensor(name)?.dtype()));
    let element = match named {
        Some(name) => Element::from_name(name.strip_prefix("torch.").unwrap_or(name)),
        None => first(),
    };
    element.ok_or_else(|| ToolError::Refused {
        path: path.to_owned(),
        what: format!("the type of its weights is {}", named.unwrap_or("not told")),
        advice: "give --torch-dtype float16, bfloat16 or float32",
    })
}
