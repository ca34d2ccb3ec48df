//! The forward pass: tokens of some segments in, logits of the wanted rows out.

use crate::device::{Attend, CacheElement, CacheShape, Device, DeviceFault, Output, Pairs};
use crate::format::{Adapter, EngineConfig, FormatError, TensorFile};
use crate::numbers::Module;
use crate::numbers::architecture::{Architecture, Projection};
use crate::numbers::{KvCacheDtype, Precision};

use super::batch::{AttentionKind, Segment, plan};
use super::rope::Rotation;
use super::weights::{Gated, Layer, Linear, Mlp, Weights};

/// Positions in a block of the key-value cache.
pub const BLOCK_LEN: usize = 16;

/// A pre-norm transformer with grouped-query attention and a gated MLP.
pub struct Decoder<D: Device> {
    device: D,
    architecture: Architecture,
    weights: Weights<D>,
    /// The kinds of attention that its layers have.
    kinds: Vec<AttentionKind>,
    /// `[n_layers]`: each one's index into `kinds`.
    kind_of_layer: Vec<usize>,
    cache_element: CacheElement,
}

/// Activations of a step, reused by the next one.
pub struct Workspace<D: Device> {
    /// The residual stream, `[n_rows, hidden_size]`.
    x: D::Rows,
    /// Input of the current block, `[n_rows, hidden_size]`.
    normed: D::Rows,
    /// Output of the current block, `[n_rows, hidden_size]`.
    update: D::Rows,
    /// `[n_rows, n_heads * head_dim]`
    q: D::Rows,
    /// `[n_rows, n_kv_heads * head_dim]`
    k: D::Rows,
    /// `[n_rows, n_kv_heads * head_dim]`
    v: D::Rows,
    /// `[n_rows, n_heads * head_dim]`
    attended: D::Rows,
    /// `[n_rows, intermediate_size]`
    gate: D::Rows,
    /// `[n_rows, intermediate_size]`
    up: D::Rows,
    /// Of layers with experts.
    mixture: Option<MixtureRows<D>>,
    /// Rows whose logits are wanted, `[n_logit_rows, hidden_size]`.
    last: D::Rows,
    /// The same, normalized.
    last_normed: D::Rows,
    /// `[n_logit_rows, vocab_size]`
    logits: D::Rows,
}

/// Activations of a mixture; a row stands `n_used` times in all but the first.
struct MixtureRows<D: Device> {
    /// `[n_rows, n_experts]`
    logits: D::Rows,
    routing: D::Routing,
    /// Inputs sorted by expert, `[n_rows * n_used, hidden_size]`.
    x: D::Rows,
    /// `[n_rows * n_used, intermediate_size of an expert]`
    gate: D::Rows,
    /// `[n_rows * n_used, intermediate_size of an expert]`
    up: D::Rows,
    /// `[n_rows * n_used, hidden_size]`
    update: D::Rows,
}

impl<D: Device> Decoder<D> {
    /// Takes the tensors of an engine.
    ///
    /// # Errors
    /// [`FormatError`] naming the first tensor that is missing or does not fit.
    pub fn new(device: D, config: &EngineConfig, file: &TensorFile) -> Result<Self, FormatError> {
        let architecture = config.architecture.clone();
        device.see_file(file);
        let weights = Weights::new(&device, &architecture, file)?;
        let (kinds, kind_of_layer) = attention_kinds(&architecture, config.limits.max_kv_cache_capacity);
        let cache_element = match config.precision {
            Precision::F32 => CacheElement::F32,
            Precision::F16 | Precision::Int8 | Precision::Int4 | Precision::Stored => CacheElement::F16,
        };
        Ok(Self { device, architecture, weights, kinds, kind_of_layer, cache_element })
    }

    /// The same with keys and values kept as wanted.
    #[must_use]
    pub fn with_kv_cache(mut self, dtype: KvCacheDtype) -> Self {
        self.cache_element = match dtype {
            KvCacheDtype::Auto => self.cache_element,
            KvCacheDtype::F32 => CacheElement::F32,
            KvCacheDtype::F16 => CacheElement::F16,
            KvCacheDtype::Int8 => CacheElement::I8,
        };
        self
    }

    pub fn device(&self) -> &D {
        &self.device
    }

    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Makes an adapter usable for [`Segment::loras`].
    ///
    /// # Errors
    /// [`FormatError`] when the device cannot use a tensor.
    pub fn lora(&self, adapter: &Adapter) -> Result<D::Lora, FormatError> {
        self.device.lora(adapter)
    }

    /// A cache of `n_blocks` blocks of [`BLOCK_LEN`] positions.
    ///
    /// # Errors
    /// The system's, when the address space cannot be had.
    pub fn cache(&self, n_blocks: usize) -> std::io::Result<D::Cache> {
        self.device.cache(self.cache_shape(n_blocks))
    }

    /// Memory that one block of the cache takes, in bytes.
    pub fn block_bytes(&self) -> usize {
        self.cache_shape(1).block_bytes()
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
        let logits = 2 * shape.hidden_size + shape.vocab_size;
        size_of::<f32>() * (n_rows * row + n_logit_rows * logits)
            + n_logit_rows * self.device.draw_bytes(shape.vocab_size)
    }

    /// An empty workspace; it grows to the largest step it sees.
    pub fn workspace(&self) -> Workspace<D> {
        let shape = &self.architecture;
        let rows = |width| self.device.rows(0, width);
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
                routing: self.device.routing(),
                x: rows(shape.hidden_size),
                gate: rows(experts.intermediate_size),
                up: rows(experts.intermediate_size),
                update: rows(shape.hidden_size),
            }),
            last: rows(shape.hidden_size),
            last_normed: rows(shape.hidden_size),
            logits: self.device.host_rows(shape.vocab_size),
        }
    }

    /// Computes the segments and writes their keys and values. Returns the number of rows with logits,
    /// which [`Decoder::logits`] reads in the order of the segments.
    ///
    /// Tokens lie in the vocabulary, and every segment has blocks for its last token.
    ///
    /// # Errors
    /// [`DeviceFault`] when the device has not computed them; nothing of the step is of use.
    pub fn forward(
        &self,
        segments: &[Segment<'_, D>],
        cache: &mut D::Cache,
        workspace: &mut Workspace<D>,
    ) -> Result<usize, DeviceFault> {
        let plan = plan(segments, &self.kinds);
        let (n_rows, n_logit_rows) = (plan.n_rows(), plan.logit_rows.len());
        let step = &self.device.upload(plan);
        self.resize(workspace, n_rows, n_logit_rows);
        self.device.embed(step, &self.weights.embedding, &mut workspace.x);
        if let Some(factor) = self.architecture.embedding_scale() {
            self.device.scale(&mut workspace.x, factor);
        }
        for (layer_idx, layer) in self.weights.layers.iter().enumerate() {
            self.attention(layer_idx, layer, step, cache, workspace);
            self.mlp(layer_idx, layer, step, workspace);
        }
        self.head(step, workspace);
        self.device.finish()?;
        Ok(n_logit_rows)
    }

    /// Row `row_idx` of the last step's logits, `[vocab_size]`.
    pub fn logits<'a>(&self, workspace: &'a Workspace<D>, row_idx: usize) -> &'a [f32] {
        self.device.read_row(&workspace.logits, row_idx)
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
        layer: &Layer<D>,
        step: &D::Step,
        cache: &mut D::Cache,
        workspace: &mut Workspace<D>,
    ) {
        let Workspace { x, normed, update, q, k, v, attended, .. } = workspace;
        let (device, head_dim, eps) =
            (&self.device, self.architecture.head_dim, self.architecture.rms_norm_eps);
        let view = self.kind_of_layer[layer_idx];
        device.rms_norm(x, &layer.attention_norm, eps, normed);
        let outputs = [(Projection::Q, &mut *q), (Projection::K, &mut *k), (Projection::V, &mut *v)];
        self.project(layer_idx, normed, step, outputs.map(|(part, y)| (part, layer.attention(part), y)));
        if let Some((q_norm, k_norm)) = &layer.head_norms {
            device.rms_norm_heads(q, q_norm, eps);
            device.rms_norm_heads(k, k_norm, eps);
        }
        device.rotate(step, view, head_dim, q);
        device.rotate(step, view, head_dim, k);
        device.store(step, cache, layer_idx, k, v);
        let scale = self.architecture.attention_scale();
        device.attend(step, q, cache, Attend { layer: layer_idx, view, scale }, attended);
        self.project(
            layer_idx,
            attended,
            step,
            [(Projection::O, layer.attention(Projection::O), &mut *update)],
        );
        self.add_update(layer.attended_norm.as_ref(), workspace);
    }

    fn mlp(&self, layer_idx: usize, layer: &Layer<D>, step: &D::Step, workspace: &mut Workspace<D>) {
        let Workspace { x, normed, .. } = workspace;
        self.device.rms_norm(x, &layer.mlp_norm, self.architecture.rms_norm_eps, normed);
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
        linears: &Gated<Linear<D>>,
        step: &D::Step,
        workspace: &mut Workspace<D>,
    ) {
        let Workspace { normed, update, gate, up, .. } = workspace;
        let outputs =
            [(Projection::Gate, &linears.gate, &mut *gate), (Projection::Up, &linears.up, &mut *up)];
        self.project(layer_idx, normed, step, outputs);
        self.device.activate(self.architecture.activation, gate, up);
        self.project(layer_idx, gate, step, [(Projection::Down, &linears.down, update)]);
    }

    /// Rows go through their experts sorted by them, so that a step reads an expert's matrices once.
    fn mixture(
        &self,
        layer_idx: usize,
        (router, experts): (&D::Weights, &Gated<D::Weights>),
        step: &D::Step,
        workspace: &mut Workspace<D>,
    ) {
        let device = &self.device;
        let Workspace { normed, update, mixture, .. } = workspace;
        let (Some(MixtureRows { logits, routing, x, gate, up, update: parts }), Some(shape)) =
            (mixture, &self.architecture.experts)
        else {
            unreachable!("a workspace has rows for the mixtures of its architecture");
        };
        let pairs = Pairs::Of { layer: layer_idx, module: Module::Router };
        let router = Output { weights: router, bias: None, pairs, y: &mut *logits };
        device.project(step, normed, &mut [router]);
        device.route(logits, shape, routing);
        device.gather_routed(routing, normed, x);
        let mut outputs = [
            Output::routed(layer_idx, Projection::Gate, &experts.gate, gate),
            Output::routed(layer_idx, Projection::Up, &experts.up, up),
        ];
        device.project_routed(step, routing, x, &mut outputs);
        device.activate(self.architecture.activation, gate, up);
        let mut outputs = [Output::routed(layer_idx, Projection::Down, &experts.down, parts)];
        device.project_routed(step, routing, gate, &mut outputs);
        device.combine(routing, parts, update);
    }

    /// Adds a block's output to the residual stream, normalized first where the layer has a norm for it.
    fn add_update(&self, norm: Option<&D::Vector>, workspace: &mut Workspace<D>) {
        let Workspace { x, normed, update, .. } = workspace;
        match norm {
            Some(norm) => {
                self.device.rms_norm(update, norm, self.architecture.rms_norm_eps, normed);
                self.device.add(normed, x);
            }
            None => self.device.add(update, x),
        }
    }

    /// `y = x W^T + bias`, plus each group's adapter, for projections of one input.
    fn project<const N: usize>(
        &self,
        layer_idx: usize,
        x: &D::Rows,
        step: &D::Step,
        outputs: [(Projection, &Linear<D>, &mut D::Rows); N],
    ) {
        let mut outputs = outputs.map(|(projection, linear, y)| Output {
            weights: &linear.weight,
            bias: linear.bias.as_ref(),
            pairs: Pairs::Of { layer: layer_idx, module: Module::One(projection) },
            y,
        });
        self.device.project(step, x, &mut outputs);
    }

    fn head(&self, step: &D::Step, workspace: &mut Workspace<D>) {
        let Workspace { x, last, last_normed, logits, .. } = workspace;
        let device = &self.device;
        device.gather_wanted(step, x, last);
        device.rms_norm(last, &self.weights.final_norm, self.architecture.rms_norm_eps, last_normed);
        let head = self.weights.head.as_ref().unwrap_or(&self.weights.embedding);
        device.project(step, last_normed, &mut [Output::plain(head, &mut *logits)]);
        device.draw(logits);
    }

    fn resize(&self, workspace: &mut Workspace<D>, n_rows: usize, n_logit_rows: usize) {
        let Workspace { x, normed, update, q, k, v, attended, gate, up, last_normed, logits, .. } = workspace;
        for rows in [x, normed, update, q, k, v, attended, gate, up] {
            self.device.set_n_rows(rows, n_rows);
        }
        for rows in [last_normed, logits] {
            self.device.set_n_rows(rows, n_logit_rows);
        }
        if let Some(mixture) = &mut workspace.mixture {
            self.device.set_n_rows(&mut mixture.logits, n_rows);
        }
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
