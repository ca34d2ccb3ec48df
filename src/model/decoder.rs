//! The forward pass: tokens of some segments in, logits of the wanted rows out.

use crate::backend::{AttendRow, Backend, CacheElement, CacheShape};
use crate::format::architecture::{Architecture, Projection};
use crate::format::{Adapter, EngineConfig, FormatError, Precision, TensorFile};

use super::batch::{self, Segment};
use super::lora::{self, Lora, LoraGroup};
use super::rope::Rotation;
use super::weights::{Layer, Weights};

/// Positions in a block of the key-value cache.
pub const BLOCK_LEN: usize = 16;

/// A pre-norm transformer with grouped-query attention and a gated MLP.
pub struct Decoder<B: Backend> {
    backend: B,
    architecture: Architecture,
    weights: Weights<B>,
    rotation: Rotation,
    cache_element: CacheElement,
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
    /// Rows whose logits are wanted, `[n_logit_rows, hidden_size]`.
    last: B::Rows,
    /// `[n_logit_rows, vocab_size]`
    logits: B::Rows,
}

/// What all layers of a step share.
struct Step<'a, B: Backend> {
    rows: Vec<AttendRow<'a>>,
    groups: Vec<LoraGroup<'a, B>>,
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
        let rotation = Rotation::new(&architecture, config.limits.max_kv_cache_capacity);
        let cache_element = match config.precision {
            Precision::F32 => CacheElement::F32,
            Precision::F16 | Precision::Int8 | Precision::Int4 | Precision::Stored => CacheElement::F16,
        };
        Ok(Self { backend, architecture, weights, rotation, cache_element })
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
        let row = 3 * shape.hidden_size + heads + 2 * shape.intermediate_size + changed;
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
        let rows = batch::attend_rows(segments, self.architecture.sliding_window);
        let (cos, sin) = self.rotation.angles(rows.iter().map(|row| row.position));
        let step = Step { rows, groups: batch::lora_groups(segments), cos, sin };
        self.resize(workspace, tokens.len());
        self.backend.embed(&self.weights.embedding, &tokens, &mut workspace.x);
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
        backend.rms_norm(x, &layer.attention_norm, eps, normed);
        for (projection, y) in [(Projection::Q, &mut *q), (Projection::K, &mut *k), (Projection::V, &mut *v)]
        {
            self.project(layer_idx, layer, projection, step, (normed, y));
        }
        if let Some((q_norm, k_norm)) = &layer.head_norms {
            backend.rms_norm_heads(q, q_norm, eps);
            backend.rms_norm_heads(k, k_norm, eps);
        }
        backend.rotate(q, head_dim, &step.cos, &step.sin);
        backend.rotate(k, head_dim, &step.cos, &step.sin);
        backend.store(cache, layer_idx, k, v, &step.rows);
        backend.attend(q, cache, layer_idx, &step.rows, attended);
        self.project(layer_idx, layer, Projection::O, step, (attended, update));
        backend.add(update, x);
    }

    fn mlp(&self, layer_idx: usize, layer: &Layer<B>, step: &Step<'_, B>, workspace: &mut Workspace<B>) {
        let Workspace { x, normed, update, gate, up, .. } = workspace;
        self.backend.rms_norm(x, &layer.mlp_norm, self.architecture.rms_norm_eps, normed);
        self.project(layer_idx, layer, Projection::Gate, step, (normed, gate));
        self.project(layer_idx, layer, Projection::Up, step, (normed, up));
        self.backend.silu_mul(gate, up);
        self.project(layer_idx, layer, Projection::Down, step, (gate, update));
        self.backend.add(update, x);
    }

    /// `y = x W^T + bias`, plus each group's adapter.
    fn project(
        &self,
        layer_idx: usize,
        layer: &Layer<B>,
        projection: Projection,
        step: &Step<'_, B>,
        (x, y): (&B::Rows, &mut B::Rows),
    ) {
        let linear = layer.projection(projection);
        self.backend.matmul(x, &linear.weight, linear.bias.as_ref(), y);
        let entries = lora::entries(&step.groups, layer_idx, projection);
        if !entries.is_empty() {
            self.backend.add_lora(x, &entries, y);
        }
    }

    fn head(&self, row_idx: &[usize], workspace: &mut Workspace<B>) -> usize {
        let Workspace { x, normed, last, logits, .. } = workspace;
        let backend = &self.backend;
        backend.gather(x, row_idx, last);
        backend.set_n_rows(normed, row_idx.len());
        backend.set_n_rows(logits, row_idx.len());
        backend.rms_norm(last, &self.weights.final_norm, self.architecture.rms_norm_eps, normed);
        let head = self.weights.head.as_ref().unwrap_or(&self.weights.embedding);
        backend.matmul(normed, head, None, logits);
        row_idx.len()
    }

    fn resize(&self, workspace: &mut Workspace<B>, n_rows: usize) {
        let Workspace { x, normed, update, q, k, v, attended, gate, up, .. } = workspace;
        for rows in [x, normed, update, q, k, v, attended, gate, up] {
            self.backend.set_n_rows(rows, n_rows);
        }
    }
}
