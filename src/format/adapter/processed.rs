//! A processed adapter, bound to an architecture: every tensor has found its projection, or it is refused.
//!
//! Format: `process-lora`'s output; f16 `[in, rank]` and `[rank, out]` per projection, scale already in B.

use std::collections::BTreeMap;
use std::ops::Range;

use half::f16;
use safetensors::Dtype;

use crate::count::Count;
use crate::format::{FormatError, Tensor, TensorFile};
use crate::numbers::Module;
use crate::numbers::architecture::{Architecture, Projection};

/// Names listed in one error message.
const MAX_NAMED: usize = 20;
const N_PROJECTIONS: usize = Projection::ALL.len();
/// Why a pair's values can be taken.
const BOUND: &str = "type and place were checked when it was bound";

/// Why an adapter cannot be used with an engine.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AdapterError {
    #[error(transparent)]
    Format(#[from] FormatError),
    /// PEFT's own file.
    #[error("tensor {name} is as PEFT saves it ({why}); run process-lora first")]
    Unprocessed { name: String, why: String },
    /// The numbers of some adapters cannot be trusted then.
    #[error(
        "config.json beside it has no mark of this program's process-lora, and {why}: other programs, and older \
         releases of this one, may have written other numbers; run jetspool process-lora on the adapter as PEFT \
         saved it"
    )]
    Foreign { why: String },
    /// Tensors that no projection of the engine takes; without this check they would do nothing, silently.
    #[error(
        "{} without a projection in the engine: {names}; use it with an engine of the model that it was trained on",
        Count(*count, "tensor")
    )]
    Unmatched { count: usize, names: String },
    /// A matrix without its partner.
    #[error("tensor {present} is there, but its partner {missing} is missing")]
    HalfPair { present: String, missing: String },
    /// The engine was built for less.
    #[error(
        "tensor {name} has rank {rank}, the engine takes at most {max_rank}; \
         rebuild the engine with --maxLoraRank {rank}"
    )]
    Rank { name: String, rank: usize, max_rank: usize },
    /// Such an adapter would change the projection twice.
    #[error("tensors {first} and {second} change the same projection")]
    Twice { first: String, second: String },
    /// A checkpoint, for example.
    #[error(
        "none of its tensors ({count}) is an adapter's, wanted names with lora_A and lora_B; give what process-lora wrote"
    )]
    NoAdapter { count: usize },
    /// Nothing in it.
    #[error("the adapter holds no tensors")]
    Empty,
    /// The f16 values lie at odd addresses and cannot be used in place.
    #[error("tensor {name} starts at an odd byte; run process-lora again on the original adapter")]
    Misaligned { name: String },
}

/// The two matrices of one projection: `y += (x A) B`. The projections of a fused module share both, and each has
/// its own columns of B.
#[derive(Clone)]
pub struct LoraPair {
    a: Tensor,
    b: Tensor,
    columns: Range<usize>,
    rank: usize,
}

impl LoraPair {
    /// `[in_features, rank]`, row-major.
    pub fn a(&self) -> &[f16] {
        self.a.as_slice().expect(BOUND)
    }

    /// `[rank, out_features of the module]`, row-major, scale multiplied in.
    pub fn b(&self) -> &[f16] {
        self.b.as_slice().expect(BOUND)
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Outputs of the module.
    pub fn n_columns(&self) -> usize {
        self.b.shape()[1]
    }

    /// The projection's outputs among those of the module.
    pub fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }
}

/// An adapter whose every tensor fits the architecture. Cheap to clone: the tensors stay where they are mapped.
#[derive(Clone)]
pub struct Adapter {
    /// `[n_layers][N_PROJECTIONS]`
    pairs: Vec<[Option<LoraPair>; N_PROJECTIONS]>,
    /// Of routers and experts, by layer.
    mixture_pairs: BTreeMap<(usize, Module), LoraPair>,
    max_rank: usize,
    n_pairs: usize,
}

impl Adapter {
    /// Finds each tensor's projection and checks names, types, shapes and ranks.
    ///
    /// # Errors
    /// See [`AdapterError`]; an adapter that matches nothing is one.
    pub fn bind(
        file: TensorFile,
        architecture: &Architecture,
        max_rank: usize,
    ) -> Result<Self, AdapterError> {
        let count = file.names().count();
        if count > 0 && !file.names().any(|name| name.contains("lora_")) {
            return Err(AdapterError::NoAdapter { count });
        }
        let slots = sort_into_slots(&file, architecture)?;
        let mut pairs = vec![const { [const { None }; N_PROJECTIONS] }; architecture.n_layers];
        let mut owners: BTreeMap<(usize, Projection), String> = BTreeMap::new();
        let mut mixture_pairs = BTreeMap::new();
        let (mut most, n_pairs) = (0, slots.len());
        for ((layer, module), halves) in slots {
            let name = halves.name();
            let shape = module.shape(architecture);
            let (a, b, rank) = halves.join(shape, max_rank)?;
            most = most.max(rank);
            let pair = |columns| LoraPair { a: a.clone(), b: b.clone(), columns, rank };
            if matches!(module, Module::Router | Module::Expert { .. }) {
                mixture_pairs.insert((layer, module), pair(0..shape.0));
            }
            for (projection, columns) in module.parts(architecture) {
                if let Some(first) = owners.insert((layer, projection), name.clone()) {
                    return Err(AdapterError::Twice { first, second: name });
                }
                pairs[layer][projection as usize] = Some(pair(columns));
            }
        }
        if n_pairs == 0 {
            return Err(AdapterError::Empty);
        }
        Ok(Self { pairs, mixture_pairs, max_rank: most, n_pairs })
    }

    /// Of the architecture that it was bound to.
    pub fn n_layers(&self) -> usize {
        self.pairs.len()
    }

    /// The matrices for a projection, if the adapter changes it.
    pub fn pair(&self, layer: usize, projection: Projection) -> Option<&LoraPair> {
        self.pairs.get(layer)?[projection as usize].as_ref()
    }

    /// The matrices for a module that is not fused, if the adapter changes it.
    pub fn pair_of(&self, layer: usize, module: Module) -> Option<&LoraPair> {
        match module {
            Module::One(projection) => self.pair(layer, projection),
            _ => self.mixture_pairs.get(&(layer, module)),
        }
    }

    /// The matrices for routers and experts, by layer.
    pub fn mixture_pairs(&self) -> impl Iterator<Item = (usize, Module, &LoraPair)> {
        self.mixture_pairs.iter().map(|(&(layer, module), pair)| (layer, module, pair))
    }

    /// The largest rank of its pairs.
    pub fn max_rank(&self) -> usize {
        self.max_rank
    }

    /// Pairs in the file; one of a fused module counts once.
    pub fn n_pairs(&self) -> usize {
        self.n_pairs
    }
}

type Slots = BTreeMap<(usize, Module), Halves>;

/// The tensors seen for one module, with their names.
#[derive(Default)]
struct Halves {
    a: Option<(String, Tensor)>,
    b: Option<(String, Tensor)>,
}

/// Which matrix of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    A,
    B,
}

fn sort_into_slots(file: &TensorFile, architecture: &Architecture) -> Result<Slots, AdapterError> {
    let mut slots = Slots::new();
    let mut unmatched = Vec::new();
    for name in file.names() {
        if name.starts_with("base_model.model.") {
            let why = "its name starts with base_model.model.".to_owned();
            return Err(AdapterError::Unprocessed { name: name.to_owned(), why });
        }
        let Some(parsed) = parse_name(name).filter(|parsed| parsed.is_of(architecture)) else {
            unmatched.push(name);
            continue;
        };
        let halves = slots.entry((parsed.layer, parsed.module)).or_default();
        let found = (name.to_owned(), file.require(name)?);
        let half = match parsed.half {
            Half::A => &mut halves.a,
            Half::B => &mut halves.b,
        };
        if let Some((first, _)) = half.replace(found) {
            return Err(AdapterError::Twice { first, second: name.to_owned() });
        }
    }
    if unmatched.is_empty() {
        return Ok(slots);
    }
    Err(AdapterError::Unmatched { count: unmatched.len(), names: listed(&unmatched) })
}

/// Names for a message: the first [`MAX_NAMED`], then how many more.
pub(crate) fn listed(names: &[&str]) -> String {
    let mut text = names.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
    if let Some(more) = names.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// What the name of an adapter's tensor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ParsedName {
    pub layer: usize,
    pub module: Module,
    pub half: Half,
    /// Named as a part of a model with images.
    is_of_backbone: bool,
}

impl ParsedName {
    /// Whether such a model has the module.
    fn is_of(self, architecture: &Architecture) -> bool {
        let family = architecture.family;
        self.module.is_in(architecture, self.layer) && (!self.is_of_backbone || family.row().is_backbone)
    }
}

/// `model.layers.3.mlp.up_proj.lora_A.weight` to its parts. PEFT names a backbone's layers
/// `model.language_model.layers.3`, and process-lora keeps that.
pub(crate) fn parse_name(name: &str) -> Option<ParsedName> {
    let inner = name.strip_prefix("model.")?;
    let backbone = inner.strip_prefix("language_model.");
    let inner = backbone.map_or(inner, |inner| inner.strip_prefix("model.").unwrap_or(inner));
    let (layer, rest) = inner.strip_prefix("layers.")?.split_once('.')?;
    let (path, half) = match rest.strip_suffix(".lora_A.weight") {
        Some(path) => (path, Half::A),
        None => (rest.strip_suffix(".lora_B.weight")?, Half::B),
    };
    let layer_idx: usize = layer.parse().ok()?;
    // "07" and "+7" are other names than "7".
    if layer_idx.to_string() != layer {
        return None;
    }
    Some(ParsedName { layer: layer_idx, module: Module::at(path)?, half, is_of_backbone: backbone.is_some() })
}

impl Halves {
    /// One of the two names.
    fn name(&self) -> String {
        self.a.as_ref().or(self.b.as_ref()).map_or_else(String::new, |(name, _)| name.clone())
    }

    /// A, B and the rank; `shape` is the module's `(out_features, in_features)`.
    fn join(self, shape: (usize, usize), max_rank: usize) -> Result<(Tensor, Tensor, usize), AdapterError> {
        let ((a_name, a), (b_name, b)) = match (self.a, self.b) {
            (Some(a), Some(b)) => (a, b),
            (Some((present, _)), None) => {
                let missing = present.replace(".lora_A.", ".lora_B.");
                return Err(AdapterError::HalfPair { present, missing });
            }
            (None, Some((present, _))) => {
                let missing = present.replace(".lora_B.", ".lora_A.");
                return Err(AdapterError::HalfPair { present, missing });
            }
            (None, None) => return Err(AdapterError::Empty),
        };
        let (out_features, in_features) = shape;
        check_dtype(&a_name, &a)?;
        check_dtype(&b_name, &b)?;
        if let (&[r, k], &[n, r_b]) = (a.shape(), b.shape())
            && (r, k, n) == (r_b, in_features, out_features)
            && (r != k || r != n)
        {
            let why = format!("shape {:?} is rank x in_features", a.shape());
            return Err(AdapterError::Unprocessed { name: a_name, why });
        }
        let rank = match *a.shape() {
            [k, rank] if k == in_features && rank > 0 => rank,
            _ => return Err(wrong_shape(a_name, vec![in_features, max_rank], &a)),
        };
        if rank > max_rank {
            return Err(AdapterError::Rank { name: a_name, rank, max_rank });
        }
        if b.shape() != [rank, out_features] {
            return Err(wrong_shape(b_name, vec![rank, out_features], &b));
        }
        check_aligned(a_name, &a)?;
        check_aligned(b_name, &b)?;
        Ok((a, b, rank))
    }
}

fn check_dtype(name: &str, tensor: &Tensor) -> Result<(), AdapterError> {
    if tensor.dtype() == Dtype::F16 {
        return Ok(());
    }
    let found = format!("{:?} (run process-lora first)", tensor.dtype());
    Err(FormatError::Dtype { name: name.to_owned(), wanted: "F16", found }.into())
}

fn check_aligned(name: String, tensor: &Tensor) -> Result<(), AdapterError> {
    match tensor.as_slice::<f16>() {
        Some(_) => Ok(()),
        None => Err(AdapterError::Misaligned { name }),
    }
}

fn wrong_shape(name: String, wanted: Vec<usize>, tensor: &Tensor) -> AdapterError {
    FormatError::Shape { name, wanted, found: tensor.shape().to_vec() }.into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::format::parse_checkpoint_config;

    const Q: &str = "model.layers.0.self_attn.q_proj";
    const DOWN: &str = "model.layers.1.mlp.down_proj";

    /// Hidden 8, q 12, intermediate 10, two layers.
    fn architecture() -> Architecture {
        architecture_of("LlamaForCausalLM", 3)
    }

    fn architecture_of(class: &str, n_kv_heads: usize) -> Architecture {
        let config = serde_json::json!({
            "architectures": [class], "vocab_size": 9, "hidden_size": 8, "intermediate_size": 10,
            "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": n_kv_heads, "head_dim": 4,
            "max_position_embeddings": 16,
        });
        parse_checkpoint_config(config.to_string().as_bytes()).unwrap().architecture
    }

    /// A safetensors file of zeros; `more_header` spaces move the data.
    fn file(tensors: &[(&str, &str, &[usize])], more_header: usize) -> TensorFile {
        let mut position = 0;
        let mut entries = serde_json::Map::new();
        for (name, dtype, shape) in tensors {
            let size = if *dtype == "F16" { 2 } else { 4 };
            let end = position + shape.iter().product::<usize>() * size;
            let info = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [position, end]});
            entries.insert((*name).to_owned(), info);
            position = end;
        }
        let mut header = serde_json::Value::Object(entries).to_string();
        header
            .extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len() + more_header));
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        bytes.resize(bytes.len() + position, 0);
        TensorFile::parse(Arc::new(bytes)).unwrap()
    }

    fn bind(tensors: &[(&str, &str, &[usize])]) -> Result<Adapter, AdapterError> {
        Adapter::bind(file(tensors, 0), &architecture(), 4)
    }

    #[test]
    fn binds_pairs() {
        let (qa, qb) = (format!("{Q}.lora_A.weight"), format!("{Q}.lora_B.weight"));
        let (da, db) = (format!("{DOWN}.lora_A.weight"), format!("{DOWN}.lora_B.weight"));
        let adapter = bind(&[
            (&qa, "F16", &[8, 3]),
            (&qb, "F16", &[3, 12]),
            (&da, "F16", &[10, 4]),
            (&db, "F16", &[4, 8]),
        ])
        .unwrap();
        assert_eq!((adapter.n_pairs(), adapter.max_rank()), (2, 4));
        assert_eq!(adapter.pair(0, Projection::Q).unwrap().rank, 3);
        assert_eq!(adapter.pair(1, Projection::Down).unwrap().b.shape(), [4, 8]);
        assert!(adapter.pair(1, Projection::Q).is_none() && adapter.pair(2, Projection::Q).is_none());
    }

    #[test]
    fn splits_fused_modules() {
        const QKV: [&str; 2] = [
            "model.layers.0.self_attn.qkv_proj.lora_A.weight",
            "model.layers.0.self_attn.qkv_proj.lora_B.weight",
        ];
        const GATE_UP: [&str; 2] = [
            "model.layers.1.mlp.gate_up_proj.lora_A.weight",
            "model.layers.1.mlp.gate_up_proj.lora_B.weight",
        ];
        let tensors: [(&str, &str, &[usize]); 4] = [
            (QKV[0], "F16", &[8, 3]),
            (QKV[1], "F16", &[3, 20]),
            (GATE_UP[0], "F16", &[8, 2]),
            (GATE_UP[1], "F16", &[2, 20]),
        ];
        let phi = architecture_of("Phi3ForCausalLM", 1);
        let adapter = Adapter::bind(file(&tensors, 0), &phi, 4).unwrap();
        assert_eq!((adapter.n_pairs(), adapter.max_rank()), (2, 3));
        let columns = |layer, projection| adapter.pair(layer, projection).map(|pair| pair.columns.clone());
        assert_eq!(columns(0, Projection::Q), Some(0..12));
        assert_eq!(columns(0, Projection::K), Some(12..16));
        assert_eq!(columns(0, Projection::V), Some(16..20));
        assert_eq!(columns(1, Projection::Gate), Some(0..10));
        assert_eq!(columns(1, Projection::Up), Some(10..20));
        assert!(columns(0, Projection::Gate).is_none() && columns(1, Projection::Q).is_none());

        let message = |tensors: &[(&str, &str, &[usize])], architecture: &Architecture| {
            Adapter::bind(file(tensors, 0), architecture, 4).err().unwrap().to_string()
        };
        // Other models have no such modules.
        let unknown = message(&tensors, &architecture());
        assert!(unknown.contains("4 tensors") && unknown.contains(QKV[0]), "{unknown}");
        let narrow = message(&[(QKV[0], "F16", &[8, 3]), (QKV[1], "F16", &[3, 12])], &phi);
        assert!(narrow.contains(QKV[1]) && narrow.contains("[3, 20]"), "{narrow}");
        let own = [Q, "lora_A.weight"].join(".");
        let own_b = own.replace("lora_A", "lora_B");
        let both = [tensors[0], tensors[1], (&own, "F16", &[8, 3]), (&own_b, "F16", &[3, 12])];
        let twice = message(&both, &phi);
        assert!(twice.contains(QKV[0]) && twice.contains(&own), "{twice}");
    }

    #[test]
    fn backbones_have_longer_names() {
        let nested =
            ["model.language_model.layers.1", "model.language_model.model.layers.1", "model.layers.1"];
        for prefix in nested {
            let (a, b) = (
                format!("{prefix}.mlp.down_proj.lora_A.weight"),
                format!("{prefix}.mlp.down_proj.lora_B.weight"),
            );
            let tensors: [(&str, &str, &[usize]); 2] = [(&a, "F16", &[10, 2]), (&b, "F16", &[2, 8])];
            let qwen = architecture_of("Qwen2_5_VLForConditionalGeneration", 1);
            let adapter = Adapter::bind(file(&tensors, 0), &qwen, 4).unwrap();
            assert_eq!(adapter.pair(1, Projection::Down).map(|pair| pair.columns.clone()), Some(0..8));
            let plain = Adapter::bind(file(&tensors, 0), &architecture(), 4);
            assert_eq!(plain.is_ok(), prefix == "model.layers.1");
        }
        let visual = "model.visual.blocks.0.mlp.down_proj.lora_A.weight";
        let qwen = architecture_of("Qwen2_5_VLForConditionalGeneration", 1);
        let message =
            Adapter::bind(file(&[(visual, "F16", &[10, 2])], 0), &qwen, 4).err().unwrap().to_string();
        assert!(message.contains(visual), "{message}");
    }

    #[test]
    fn refuses_with_names() {
        struct Case<'a> {
            tensors: &'a [(&'a str, &'a str, &'a [usize])],
            names: &'a [&'a str],
        }
        let (a, b) = (&*format!("{Q}.lora_A.weight"), &*format!("{Q}.lora_B.weight"));
        let late = &*a.replace("layers.0", "layers.2");
        let zero = &*a.replace("layers.0", "layers.00");
        let peft = &*format!("base_model.model.{a}");
        let cases = [
            Case { tensors: &[], names: &["no tensors"] },
            Case { tensors: &[(a, "F16", &[8, 3])], names: &[a, b, "missing"] },
            Case { tensors: &[(b, "F16", &[3, 12])], names: &[a, b, "missing"] },
            Case { tensors: &[(a, "F16", &[8, 5]), (b, "F16", &[5, 12])], names: &["--maxLoraRank 5", a] },
            Case { tensors: &[(a, "F16", &[9, 3]), (b, "F16", &[3, 12])], names: &[a, "[9, 3]", "[8, "] },
            Case { tensors: &[(a, "F16", &[8, 3]), (b, "F16", &[3, 8])], names: &[b, "[3, 8]", "[3, 12]"] },
            Case { tensors: &[(a, "F16", &[8, 0]), (b, "F16", &[0, 12])], names: &[a, "[8, 0]"] },
            Case { tensors: &[(a, "F16", &[24]), (b, "F16", &[3, 12])], names: &[a, "[24]"] },
            Case { tensors: &[(a, "F16", &[3, 8]), (b, "F16", &[12, 3])], names: &[a, "process-lora"] },
            Case {
                tensors: &[(a, "F32", &[8, 3]), (b, "F32", &[3, 12])],
                names: &[a, "F32", "process-lora"],
            },
            Case { tensors: &[(peft, "F16", &[3, 8])], names: &[peft, "process-lora"] },
            Case {
                tensors: &[(late, "F16", &[8, 3]), (zero, "F16", &[8, 3]), ("x", "F16", &[1])],
                names: &["3 tensors", late, zero, "x"],
            },
        ];
        for case in cases {
            let message = bind(case.tensors).err().expect("it is refused").to_string();
            for name in case.names {
                assert!(message.contains(name), "{message} does not name {name}");
            }
        }
        let message = bind(&[("model.norm.weight", "F16", &[8])]).err().unwrap().to_string();
        assert!(message.starts_with("none of its tensors (1) is an adapter's"), "{message}");
        let many: Vec<String> = (0..30).map(|i| format!("lora_x{i:02}")).collect();
        let tensors: Vec<_> = many.iter().map(|name| (name.as_str(), "F16", &[1][..])).collect();
        let message = bind(&tensors).err().unwrap().to_string();
        assert!(
            message.contains("30 tensors") && message.contains("lora_x19 and 10 more; use it"),
            "{message}"
        );
    }

    #[test]
    fn odd_addresses_are_refused() {
        let (a, b) = (format!("{Q}.lora_A.weight"), format!("{Q}.lora_B.weight"));
        let odd = file(&[(&a, "F16", &[8, 3]), (&b, "F16", &[3, 12])], 1);
        let message = Adapter::bind(odd, &architecture(), 4).err().unwrap().to_string();
        assert!(message.contains("odd byte") && message.contains(&a), "{message}");
    }
}
