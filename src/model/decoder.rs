//! The forward pass: tokens of some segments in, logits of the wanted rows out.

use crate::backend::{Attend, AttendRow, Backend, CacheElement, CacheShape, Output};
use crate::format::{Adapter, EngineConfig, FormatError, TensorFile};
use crate::numbers::Module;
use crate::numbers::Precision;
use crate::numbers::architecture::{Architecture, Projection};

use super::batch::{self, Segment};
use super::lora::{self, Lora, LoraGroup};
use super::mixture::Routing;
use super::rope::Rotation;
use super::weights::{Gated, Layer, Linear, Mlp, Weights};

/// Positions in a block of the key-value cache.
pub const BLOCK_LEN: usize = 16;

/// A pre-norm transformer with grouped-query attention and a gated MLP.
pub struct Decoder<B: Backend> {
    backend: B,
    architecture: Architecture,
    weights: Weights<B>,
    /// The kinds of attention that its layers have.
    kinds: Vec<AttentionKind>,
    /// `[n_layers]`: each one's index into `kinds`.
    kind_of_layer: Vec<usize>,
    cache_element: CacheElement,
}

/// How far layers see and how they turn queries and keys.
struct AttentionKind {
    window: Option<usize>,
    rotation: Rotation,
}

/// Activations of a step, reused by the next one.
pub struct Workspace<B: Backend> {
    /// The residual stream, `[n_rows, hidden_size]`.
    x: B::Rows,
    /// Input of the current block, `[n_rows, hidden_size]`.
    normed: B::Rows,
    /// Output of the current block, `[n_rows, hidden_size]`.
    update: B::Rows,
    /// `[n_rows, n_heads * head_dim]`
    q: B::Rows,
    /// `[n_rows, n_kv_heads * head_dim]`
    k: B::Rows,
    /// `[n_rows, n_kv_heads * head_dim]`
    v: B::Rows,
    /// `[n_rows, n_heads * head_dim]`
    attended: B::Rows,
    /// `[n_rows, intermediate_size]`
    gate: B::Rows,
    /// `[n_rows, intermediate_size]`
    up: B::Rows,
    /// Of layers with experts.
    mixture: Option<MixtureRows<B>>,
    /// Rows whose logits are wanted, `[n_logit_rows, hidden_size]`.
    last: B::Rows,
    /// `[n_logit_rows, vocab_size]`
    logits: B::Rows,
}

/// Activations of a mixture; a row stands `n_used` times in all but the first.
struct MixtureRows<B: Backend> {
    /// `[n_rows, n_experts]`
    logits: B::Rows,
    /// Inputs sorted by expert, `[n_rows * n_used, hidden_size]`.
    x: B::Rows,
    /// `[n_rows * n_used, intermediate_size of an expert]`
    gate: B::Rows,
    /// `[n_rows * n_used, intermediate_size of an expert]`
    up: B::Rows,
    /// `[n_rows * n_used, hidden_size]`
    update: B::Rows,
}

/// What all layers of a step share.
struct Step<'a, B: Backend> {
    /// One for each kind of attention.
    views: Vec<View<'a>>,
    groups: Vec<LoraGroup<'a, B>>,
}

/// What the rows of a step see in layers of one kind, and how far they are turned.
struct View<'a> {
    rows: Vec<AttendRow<'a>>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl<B: Backend> Decoder<B> {
    /// Takes the tensors of an engine.
    ///
    /// # Errors
    /// [`FormatError`] naming the first tensor that is missing or does not fit.
    pub fn new(backend: B, config: &EngineConfig, file: &TensorFile) -> Result<Self, FormatError> {
        let architecture = config.architecture.clone();
        let weights = Weights::new(&backend, &architecture, file)?;
        let (kinds, kind_of_layer) = attention_kinds(&architecture, config.limits.max_kv_cache_capacity);
        let cache_element = match config.precision {
            Precision::F32 => CacheElement::F32,
            Precision::F16 | Precision::Int8 | Precision::Int4 | Precision::Stored => CacheElement::F16,
        };
        Ok(Self { backend, architecture, weights, kinds, kind_of_layer, cache_element })
    }

    pub fn backend(&self) -> &B {
        &self.backend
    }

    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Makes an adapter usable for [`Segment::lora`].
    ///
    /// # Errors
    /// [`FormatError`] when the backend cannot use a tensor.
    pub fn lora(&self, adapter: &Adapter) -> Result<Lora<B>, FormatError> {
        Lora::new(&self.backend, &self.architecture, adapter)
    }

    /// A cache of `n_blocks` blocks of [`BLOCK_LEN`] positions.
    ///
    /// # Errors
    /// The system's, when the address space cannot be had.
    pub fn cache(&self, n_blocks: usize) -> std::io::Result<B::Cache> {
        self.backend.cache(self.cache_shape(n_blocks))
    }

    /// Memory that one block of the cache takes, in bytes.
    pub fn block_bytes(&self) -> usize {
        self.backend.block_bytes(&self.cache_shape(1))
    }

    /// About what a workspace for such steps takes, in bytes.
    pub fn workspace_bytes(&self, n_rows: usize, n_logit_rows: usize) -> usize {
        let shape = &self.architecture;
        let heads = 2 * shape.n_heads * shape.head_dim + 2 * shape.n_kv_heads * shape.head_dim;
        let changed = if self.weights.changes_inputs { shape.intermediate_size } else { 0 };
        let mixture = shape.experts.as_ref().map_or(0, |experts| {
            experts.n_experts + experts.n_used * 2 * (shape.hidden_size + experts.intermediate_size)
        });
        // Rows once more, as the device prepares them for a product.
        let prepared = shape.intermediate_size.max(shape.n_heads * shape.head_dim).max(shape.hidden_size);
        let row = 3 * shape.hidden_size + heads + 2 * shape.intermediate_size + changed + mixture + prepared;
        size_of::<f32>() * (n_rows * row + n_logit_rows * (shape.hidden_size + shape.vocab_size))
    }

    /// An empty workspace; it grows to the largest step it sees.
    pub fn workspace(&self) -> Workspace<B> {
        let shape = &self.architecture;
        let rows = |width| self.backend.rows(0, width);
        let (q_size, kv_size) = (shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);
        Workspace {
            x: rows(shape.hidden_size),
            normed: rows(shape.hidden_size),
            update: rows(shape.hidden_size),
            q: rows(q_size),
            k: rows(kv_size),
            v: rows(kv_size),
            attended: rows(q_size),
            gate: rows(shape.intermediate_size),
            up: rows(shape.intermediate_size),
            mixture: shape.experts.as_ref().map(|experts| MixtureRows {
                logits: rows(experts.n_experts),
                x: rows(shape.hidden_size),
                gate: rows(experts.intermediate_size),
                up: rows(experts.intermediate_size),
                update: rows(shape.hidden_size),
            }),
            last: rows(shape.hidden_size),
            logits: rows(shape.vocab_size),
        }
    }

    /// Computes the segments and writes their keys and values. Returns the number of rows with logits,
    /// which [`Decoder::logits`] reads in the order of the segments.
    ///
    /// Tokens lie in the vocabulary, and every segment has blocks for its last token.
    pub fn forward(
        &self,
        segments: &[Segment<'_, B>],
        cache: &mut B::Cache,
        workspace: &mut Workspace<B>,
    ) -> usize {
        let tokens = batch::tokens(segments);
        let view = |kind: &AttentionKind| {
            let rows = batch::attend_rows(segments, kind.window);
            let (cos, sin) = kind.rotation.angles(rows.iter().map(|row| row.position));
            View { rows, cos, sin }
        };
        let step =
            Step { views: self.kinds.iter().map(view).collect(), groups: batch::lora_groups(segments) };
        self.resize(workspace, tokens.len());
        self.backend.embed(&self.weights.embedding, &tokens, &mut workspace.x);
        if let Some(factor) = self.architecture.embedding_scale() {
            self.backend.scale(&mut workspace.x, factor);
        }
        for (layer_idx, layer) in self.weights.layers.iter().enumerate() {
            self.attention(layer_idx, layer, &step, cache, workspace);
            self.mlp(layer_idx, layer, &step, workspace);
        }
        self.head(&batch::logit_rows(segments), workspace)
    }

    /// Row `row_idx` of the last step's logits, `[vocab_size]`.
    pub fn logits<'a>(&self, workspace: &'a Workspace<B>, row_idx: usize) -> &'a [f32] {
        self.backend.read_row(&workspace.logits, row_idx)
    }

    fn cache_shape(&self, n_blocks: usize) -> CacheShape {
        CacheShape {
            n_layers: self.architecture.n_layers,
            n_kv_heads: self.architecture.n_kv_heads,
            head_dim: self.architecture.head_dim,
            block_len: BLOCK_LEN,
            n_blocks,
            element: self.cache_element,
        }
    }

    fn attention(
        &self,
        layer_idx: usize,
        layer: &Layer<B>,
        step: &Step<'_, B>,
        cache: &mut B::Cache,
        workspace: &mut Workspace<B>,
    ) {
        let Workspace { x, normed, update, q, k, v, attended, .. } = workspace;
        let (backend, head_dim, eps) =
            (&self.backend, self.architecture.head_dim, self.architecture.rms_norm_eps);
        let view = &step.views[self.kind_of_layer[layer_idx]];
        backend.rms_norm(x, &layer.attention_norm, eps, normed);
        let outputs = [(Projection::Q, &mut *q), (Projection::K, &mut *k), (Projection::V, &mut *v)];
        self.project(layer_idx, normed, step, outputs.map(|(part, y)| (part, layer.attention(part), y)));
        if let Some((q_norm, k_norm)) = &layer.head_norms {
            backend.rms_norm_heads(q, q_norm, eps);
            backend.rms_norm_heads(k, k_norm, eps);
        }
        backend.rotate(q, head_dim, &view.cos, &view.sin);
        backend.rotate(k, head_dim, &view.cos, &view.sin);
        backend.store(cache, layer_idx, k, v, &view.rows);
        let scale = self.architecture.attention_scale();
        backend.attend(q, cache, Attend { layer: layer_idx, scale, rows: &view.rows }, attended);
        self.project(
            layer_idx,
            attended,
            step,
            [(Projection::O, layer.attention(Projection::O), &mut *update)],
        );
        self.add_update(layer.attended_norm.as_ref(), workspace);
    }

    fn mlp(&self, layer_idx: usize, layer: &Layer<B>, step: &Step<'_, B>, workspace: &mut Workspace<B>) {
        let Workspace { x, normed, .. } = workspace;
        self.backend.rms_norm(x, &layer.mlp_norm, self.architecture.rms_norm_eps, normed);
        match &layer.mlp {
            Mlp::Dense(linears) => self.dense(layer_idx, linears, step, workspace),
            Mlp::Mixture { router, experts } => {
                self.mixture(layer_idx, (router, experts), step, workspace);
            }
        }
        self.add_update(layer.mlp_output_norm.as_ref(), workspace);
    }

    fn dense(
        &self,
        layer_idx: usize,
        linears: &Gated<Linear<B>>,
        step: &Step<'_, B>,
        workspace: &mut Workspace<B>,
    ) {
        let Workspace { normed, update, gate, up, .. } = workspace;
        let outputs =
            [(Projection::Gate, &linears.gate, &mut *gate), (Projection::Up, &linears.up, &mut *up)];
        self.project(layer_idx, normed, step, outputs);
        self.backend.activate(self.architecture.activation, gate, up);
        self.project(layer_idx, gate, step, [(Projection::Down, &linears.down, update)]);
    }

    /// Rows go through their experts sorted by them, so that a step reads an expert's matrices once.
    fn mixture(
        &self,
        layer_idx: usize,
        (router, experts): (&B::Weights, &Gated<B::Weights>),
        step: &Step<'_, B>,
        workspace: &mut Workspace<B>,
    ) {
        let backend = &self.backend;
        let Workspace { normed, update, mixture, .. } = workspace;
        let (Some(MixtureRows { logits, x, gate, up, update: parts }), Some(shape)) =
            (mixture, &self.architecture.experts)
        else {
            unreachable!("a workspace has rows for the mixtures of its architecture");
        };
        let loras = lora::entries(&step.groups, layer_idx, Module::Router);
        backend.project(normed, &mut [Output::new(router, &loras, &mut *logits)]);
        let n_rows = step.n_rows();
        let routing = Routing::new((0..n_rows).map(|row_idx| backend.read_row(logits, row_idx)), shape);
        backend.gather(normed, &routing.rows, x);
        for rows in [&mut *gate, &mut *up, &mut *parts] {
            backend.set_n_rows(rows, routing.rows.len());
        }
        let entries = |projection| routing.entries(&step.groups, layer_idx, projection);
        let loras = [Projection::Gate, Projection::Up, Projection::Down].map(entries);
        let mut outputs = [
            Output::new(&experts.gate, &loras[0], &mut *gate),
            Output::new(&experts.up, &loras[1], &mut *up),
        ];
        backend.project_experts(x, &routing.groups, &mut outputs);
        backend.activate(self.architecture.activation, gate, up);
        let mut outputs = [Output::new(&experts.down, &loras[2], &mut *parts)];
        backend.project_experts(gate, &routing.groups, &mut outputs);
        backend.combine(parts, &routing.parts, update);
    }

    /// Adds a block's output to the residual stream, normalized first where the layer has a norm for it.
    fn add_update(&self, norm: Option<&B::Vector>, workspace: &mut Workspace<B>) {
        let Workspace { x, normed, update, .. } = workspace;
        match norm {
            Some(norm) => {
                self.backend.rms_norm(update, norm, self.architecture.rms_norm_eps, normed);
                self.backend.add(normed, x);
            }
            None => self.backend.add(update, x),
        }
    }

    /// `y = x W^T + bias`, plus each group's adapter, for projections of one input.
    fn project<const N: usize>(
        &self,
        layer_idx: usize,
        x: &B::Rows,
        step: &Step<'_, B>,
        outputs: [(Projection, &Linear<B>, &mut B::Rows); N],
    ) {
        let loras: [_; N] =
            std::array::from_fn(|i| lora::entries(&step.groups, layer_idx, Module::One(outputs[i].0)));
        let mut loras = loras.iter();
        let mut outputs = outputs.map(|(_, linear, y)| Output {
            weights: &linear.weight,
            bias: linear.bias.as_ref(),
            loras: loras.next().expect("one for each output"),
            y,
        });
        self.backend.project(x, &mut outputs);
    }

    fn head(&self, row_idx: &[usize], workspace: &mut Workspace<B>) -> usize {
        let Workspace { x, normed, last, logits, .. } = workspace;
        let backend = &self.backend;
        backend.gather(x, row_idx, last);
        backend.set_n_rows(normed, row_idx.len());
        backend.set_n_rows(logits, row_idx.len());
        backend.rms_norm(last, &self.weights.final_norm, self.architecture.rms_norm_eps, normed);
        let head = self.weights.head.as_ref().unwrap_or(&self.weights.embedding);
        backend.project(normed, &mut [Output::new(head, &[], logits)]);
        row_idx.len()
    }

    fn resize(&self, workspace: &mut Workspace<B>, n_rows: usize) {
        let Workspace { x, normed, update, q, k, v, attended, gate, up, .. } = workspace;
        for rows in [x, normed, update, q, k, v, attended, gate, up] {
            self.backend.set_n_rows(rows, n_rows);
        }
        if let Some(mixture) = &mut workspace.mixture {
            self.backend.set_n_rows(&mut mixture.logits, n_rows);
        }
    }
}

impl<B: Backend> Step<'_, B> {
    fn n_rows(&self) -> usize {
        self.views[0].rows.len()
    }
}

/// The kinds of attention that layers have, and each layer's; `capacity` is for [`Rotation::new`].
fn attention_kinds(architecture: &Architecture, capacity: usize) -> (Vec<AttentionKind>, Vec<usize>) {
    let mut shapes = Vec::new();
    let kind_of_layer = (0..architecture.n_layers)
        .map(|layer| {
            let shape = (architecture.window_of(layer), architecture.rope_of(layer));
            shapes.iter().position(|known| *known == shape).unwrap_or_else(|| {
                shapes.push(shape);
                shapes.len() - 1
            })
        })
        .collect();
    let kinds = shapes.into_iter().map(|(window, rope)| AttentionKind {
        window,
        rotation: Rotation::new(&rope, architecture.rotary_dim(), capacity),
    });
    (kinds.collect(), kind_of_layer)
}
