//! The engine's tensors where the device can use them, by role.

use crate::device::Device;
use crate::format::engine::{
    EMBEDDING, FINAL_NORM, HEAD, experts_weight, projection_bias, projection_weight, router_weight,
};
use crate::format::{FormatError, StoredMatrix, TensorFile};
use crate::numbers::MatrixShape;
use crate::numbers::architecture::{Architecture, Experts, Projection};

/// All weights of a decoder.
pub struct Weights<D: Device> {
    /// `[vocab_size, hidden_size]`
    pub embedding: D::Weights,
    pub layers: Vec<Layer<D>>,
    /// `[hidden_size]`
    pub final_norm: D::Vector,
    /// `[vocab_size, hidden_size]`; none when the embedding serves.
    pub head: Option<D::Weights>,
    /// Some matrices take a changed copy of their inputs.
    pub changes_inputs: bool,
}

/// One layer.
pub struct Layer<D: Device> {
    /// `[hidden_size]`
    pub attention_norm: D::Vector,
    /// `[hidden_size]`, on the output of attention.
    pub attended_norm: Option<D::Vector>,
    /// `[hidden_size]`
    pub mlp_norm: D::Vector,
    /// `[hidden_size]`, on the output of the MLP.
    pub mlp_output_norm: Option<D::Vector>,
    /// `[head_dim]` each, for queries and keys.
    pub head_norms: Option<(D::Vector, D::Vector)>,
    /// q, k, v, o.
    attention: [Linear<D>; 4],
    pub mlp: Mlp<D>,
}

/// What stands behind attention.
pub enum Mlp<D: Device> {
    Dense(Box<Gated<Linear<D>>>),
    /// The router's matrix `[n_experts, hidden_size]`, and the experts' matrices, stacked.
    Mixture {
        router: D::Weights,
        experts: Gated<D::Weights>,
    },
}

/// The three matrices of a gated MLP.
pub struct Gated<T> {
    pub gate: T,
    pub up: T,
    pub down: T,
}

/// A projection and its bias.
pub struct Linear<D: Device> {
    pub weight: D::Weights,
    pub bias: Option<D::Vector>,
}

impl<D: Device> Layer<D> {
    /// One of attention's: q, k, v, o.
    pub fn attention(&self, projection: Projection) -> &Linear<D> {
        &self.attention[projection as usize]
    }
}

impl<D: Device> Weights<D> {
    /// Finds every tensor of the architecture in the file.
    ///
    /// # Errors
    /// [`FormatError`] naming the first tensor that is missing or does not fit.
    pub fn new(device: &D, architecture: &Architecture, file: &TensorFile) -> Result<Self, FormatError> {
        let source = WeightSource { device, file };
        let table = (architecture.vocab_size, architecture.hidden_size);
        let layers = (0..architecture.n_layers)
            .map(|layer| source.layer(architecture, layer))
            .collect::<Result<_, _>>()?;
        let is_change = |name: &str| name.ends_with(".pre_quant_scale") || name.ends_with(".input_order");
        Ok(Self {
            changes_inputs: file.names().any(is_change),
            embedding: source.plain(EMBEDDING, table)?,
            layers,
            final_norm: source.vector(FINAL_NORM, architecture.hidden_size)?,
            head: if architecture.tied_head { None } else { Some(source.matrix(HEAD, table)?) },
        })
    }
}

struct WeightSource<'a, D> {
    device: &'a D,
    file: &'a TensorFile,
}

impl<D: Device> WeightSource<'_, D> {
    fn matrix(&self, name: &str, shape: (usize, usize)) -> Result<D::Weights, FormatError> {
        self.device.weights(name, StoredMatrix::find(self.file, name, shape)?)
    }

    /// A matrix whose rows are looked up or stacked, for which no inputs are changed.
    fn plain(&self, name: &str, shape: impl Into<MatrixShape>) -> Result<D::Weights, FormatError> {
        let matrix = StoredMatrix::find(self.file, name, shape)?;
        if matrix.input_scale.is_some() || matrix.input_order.is_some() {
            return Err(FormatError::Unsupported {
                what: "a change of inputs",
                found: name.to_owned(),
                supported: "projections, routers and heads of their own".to_owned(),
            });
        }
        self.device.weights(name, matrix)
    }

    fn vector(&self, name: &str, len: usize) -> Result<D::Vector, FormatError> {
        self.device.vector(name, len, self.file.require(name)?)
    }

    fn linear(
        &self,
        architecture: &Architecture,
        layer: usize,
        projection: Projection,
    ) -> Result<Linear<D>, FormatError> {
        let shape = architecture.projection_shape(projection);
        let bias_name = projection_bias(layer, projection);
        let bias = architecture.has_bias(projection).then(|| self.vector(&bias_name, shape.0));
        let weight = self.matrix(&projection_weight(layer, projection), shape)?;
        Ok(Linear { weight, bias: bias.transpose()? })
    }

    fn layer(&self, architecture: &Architecture, layer: usize) -> Result<Layer<D>, FormatError> {
        let norm = |part: &str, len| self.vector(&format!("model.layers.{layer}.{part}.weight"), len);
        let hidden_size = architecture.hidden_size;
        let [q, k, v, o] = Projection::ATTENTION.map(|part| self.linear(architecture, layer, part));
        let head_norms = match architecture.qk_norm {
            true => Some((
                norm("self_attn.q_norm", architecture.head_dim)?,
                norm("self_attn.k_norm", architecture.head_dim)?,
            )),
            false => None,
        };
        let [attended_norm, mlp_output_norm] = match architecture.norms.after() {
            Some(parts) => parts.map(|part| norm(part, hidden_size).map(Some)),
            None => [Ok(None), Ok(None)],
        };
        Ok(Layer {
            attention_norm: norm("input_layernorm", hidden_size)?,
            attended_norm: attended_norm?,
            mlp_norm: norm(architecture.norms.before_mlp(), hidden_size)?,
            mlp_output_norm: mlp_output_norm?,
            head_norms,
            attention: [q?, k?, v?, o?],
            mlp: match architecture.experts_of(layer) {
                Some(experts) => self.mixture(hidden_size, experts, layer)?,
                None => {
                    let [gate, up, down] = Projection::MLP.map(|part| self.linear(architecture, layer, part));
                    Mlp::Dense(Box::new(Gated { gate: gate?, up: up?, down: down? }))
                }
            },
        })
    }

    fn mixture(&self, hidden_size: usize, experts: &Experts, layer: usize) -> Result<Mlp<D>, FormatError> {
        let (n, size) = (experts.n_experts, experts.intermediate_size);
        let stack = |projection, (rows, columns)| {
            self.plain(&experts_weight(layer, projection), MatrixShape { n_parts: n, rows, columns })
        };
        Ok(Mlp::Mixture {
            router: self.matrix(&router_weight(layer), (n, hidden_size))?,
            experts: Gated {
                gate: stack(Projection::Gate, (size, hidden_size))?,
                up: stack(Projection::Up, (size, hidden_size))?,
                down: stack(Projection::Down, (hidden_size, size))?,
            },
        })
    }
}
