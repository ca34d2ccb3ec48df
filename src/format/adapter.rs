//! A processed adapter, bound to an architecture: every tensor has found its projection, or it is refused.
//!
//! Format: `process-lora`'s output; f16 `[in, rank]` and `[rank, out]` per projection, scale already in B.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::architecture::{Architecture, Projection};
use super::{FormatError, Tensor, TensorFile};

/// Names listed in one error message.
const MAX_NAMED: usize = 20;
const N_PROJECTIONS: usize = Projection::ALL.len();

/// Why an adapter cannot be used with an engine.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AdapterError {
    #[error(transparent)]
    Format(#[from] FormatError),
    /// PEFT's own file.
    #[error("tensor {name} is as PEFT saves it ({why}); run process-lora first")]
    Unprocessed { name: String, why: String },
    /// Tensors that no projection of the engine takes; without this check they would do nothing, silently.
    #[error("{count} tensors match no projection of the engine: {names}")]
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
    /// Nothing in it.
    #[error("the adapter holds no tensors")]
    Empty,
    /// The f16 values lie at odd addresses and cannot be used in place.
    #[error("tensor {name} starts at an odd byte; run process-lora again on the original adapter")]
    Misaligned { name: String },
}

/// The two matrices of one projection: `y += (x A) B`.
#[derive(Clone)]
pub struct LoraPair {
    /// f16 `[in_features, rank]`, row-major.
    pub a: Tensor,
    /// f16 `[rank, out_features]`, row-major, scale multiplied in.
    pub b: Tensor,
    pub rank: usize,
}

/// An adapter whose every tensor fits the architecture.
pub struct Adapter {
    /// `[n_layers][N_PROJECTIONS]`
    pairs: Vec<[Option<LoraPair>; N_PROJECTIONS]>,
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
        let slots = sort_into_slots(&file, architecture)?;
        let mut pairs = vec![const { [const { None }; N_PROJECTIONS] }; architecture.n_layers];
        let (mut most, mut n_pairs) = (0, 0);
        for ((layer, projection), halves) in slots {
            let pair = halves.join(architecture.projection_shape(projection), max_rank)?;
            most = most.max(pair.rank);
            n_pairs += 1;
            pairs[layer][projection as usize] = Some(pair);
        }
        if n_pairs == 0 {
            return Err(AdapterError::Empty);
        }
        Ok(Self { pairs, max_rank: most, n_pairs })
    }

    /// The matrices for a projection, if the adapter changes it.
    pub fn pair(&self, layer: usize, projection: Projection) -> Option<&LoraPair> {
        self.pairs.get(layer)?[projection as usize].as_ref()
    }

    /// The largest rank of its pairs.
    pub fn max_rank(&self) -> usize {
        self.max_rank
    }

    pub fn n_pairs(&self) -> usize {
        self.n_pairs
    }
}

type Slots = BTreeMap<(usize, Projection), Halves>;

/// The tensors seen for one projection, with their names.
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
        match parse_name(name).filter(|(layer, ..)| *layer < architecture.n_layers) {
            None => unmatched.push(name),
            Some((layer, projection, half)) => {
                let halves = slots.entry((layer, projection)).or_default();
                let found = (name.to_owned(), file.require(name)?);
                match half {
                    Half::A => halves.a = Some(found),
                    Half::B => halves.b = Some(found),
                }
            }
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

/// `model.layers.3.mlp.up_proj.lora_A.weight` to its parts.
pub(crate) fn parse_name(name: &str) -> Option<(usize, Projection, Half)> {
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (path, half) = match rest.strip_suffix(".lora_A.weight") {
        Some(path) => (path, Half::A),
        None => (rest.strip_suffix(".lora_B.weight")?, Half::B),
    };
    let layer_idx: usize = layer.parse().ok()?;
    // "07" and "+7" are other names than "7".
    if layer_idx.to_string() != layer {
        return None;
    }
    let projection = Projection::ALL.into_iter().find(|projection| projection.path() == path)?;
    Some((layer_idx, projection, half))
}

impl Halves {
    /// `shape` is the projection's `(out_features, in_features)`.
    fn join(self, shape: (usize, usize), max_rank: usize) -> Result<LoraPair, AdapterError> {
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
        Ok(LoraPair { a, b, rank })
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
    match tensor.as_slice::<half::f16>() {
        Some(_) => Ok(()),
        None => Err(AdapterError::Misaligned { name }),
    }
}

fn wrong_shape(name: String, wanted: Vec<usize>, tensor: &Tensor) -> AdapterError {
    FormatError::Shape { name, wanted, found: tensor.shape().to_vec() }.into()
}
