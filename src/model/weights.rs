//! The engine's tensors where the backend can use them, by role.

use crate::backend::Backend;
use crate::format::architecture::{Architecture, Projection};
use crate::format::engine::{EMBEDDING, FINAL_NORM, HEAD, projection_bias, projection_weight};
use crate::format::{FormatError, StoredMatrix, TensorFile};

/// All weights of a decoder.
pub struct Weights<B: Backend> {
    /// `[vocab_size, hidden_size]`
    pub embedding: B::Weights,
    pub layers: Vec<Layer<B>>,
    /// `[hidden_size]`
    pub final_norm: B::Vector,
    /// `[vocab_size, hidden_size]`; none when the embedding serves.
    pub head: Option<B::Weights>,
    /// Some matrices take a changed copy of their inputs.
    pub changes_inputs: bool,
}

/// One layer.
pub struct Layer<B: Backend> {
    /// `[hidden_size]`
    pub attention_norm: B::Vector,
    /// `[hidden_size]`
    pub mlp_norm: B::Vector,
    /// `[head_dim]` each, for queries and keys.
    pub head_norms: Option<(B::Vector, B::Vector)>,
    projections: [Linear<B>; 7],
}

/// A projection and its bias.
pub struct Linear<B: Backend> {
    pub weight: B::Weights,
    pub bias: Option<B::Vector>,
}

impl<B: Backend> Layer<B> {
    pub fn projection(&self, projection: Projection) -> &Linear<B> {
        &self.projections[projection as usize]
    }
}

impl<B: Backend> Weights<B> {
    /// Finds every tensor of the architecture in the file.
    ///
    /// # Errors
    /// [`FormatError`] naming the first tensor that is missing or does not fit.
    pub fn new(backend: &B, architecture: &Architecture, file: &TensorFile) -> Result<Self, FormatError> {
        let source = Source { backend, file };
        let table = (architecture.vocab_size, architecture.hidden_size);
        let layers = (0..architecture.n_layers)
            .map(|layer| source.layer(architecture, layer))
            .collect::<Result<_, _>>()?;
        let is_change = |name: &str| name.ends_with(".pre_quant_scale") || name.ends_with(".input_order");
        Ok(Self {
            changes_inputs: file.names().any(is_change),
            embedding: source.matrix(EMBEDDING, table)?,
            layers,
            final_norm: source.vector(FINAL_NORM, architecture.hidden_size)?,
            head: if architecture.tied_head { None } else { Some(source.matrix(HEAD, table)?) },
        })
    }
}

struct Source<'a, B> {
    backend: &'a B,
    file: &'a TensorFile,
}

impl<B: Backend> Source<'_, B> {
    fn matrix(&self, name: &str, shape: (usize, usize)) -> Result<B::Weights, FormatError> {
        self.backend.weights(name, StoredMatrix::find(self.file, name, shape)?)
    }

    fn vector(&self, name: &str, len: usize) -> Result<B::Vector, FormatError> {
        self.backend.vector(name, len, self.file.require(name)?)
    }

    fn layer(&self, architecture: &Architecture, layer: usize) -> Result<Layer<B>, FormatError> {
        let inside = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let norm = |part: &str, len| self.vector(&inside(part), len);
        let linear = |projection: Projection| {
            let shape = architecture.projection_shape(projection);
            let bias_name = projection_bias(layer, projection);
            let bias = architecture.has_bias(projection).then(|| self.vector(&bias_name, shape.0));
            Ok::<_, FormatError>(Linear {
                weight: self.matrix(&projection_weight(layer, projection), shape)?,
                bias: bias.transpose()?,
            })
        };
        let [q, k, v, o, gate, up, down] = Projection::ALL.map(linear);
        let head_norms = match architecture.qk_norm {
            true => Some((
                norm("self_attn.q_norm", architecture.head_dim)?,
                norm("self_attn.k_norm", architecture.head_dim)?,
            )),
            false => None,
        };
        Ok(Layer {
            attention_norm: norm("input_layernorm", architecture.hidden_size)?,
            mlp_norm: norm("post_attention_layernorm", architecture.hidden_size)?,
            head_norms,
            projections: [q?, k?, v?, o?, gate?, up?, down?],
        })
    }
}
