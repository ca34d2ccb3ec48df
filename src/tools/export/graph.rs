//! The graph of an exported decoder: operators of the standard (opset 23) and no others.
//!
//! Matrices, what enters them, keys and values have the chosen type; everything between is computed in f32, for
//! norms, softmax and sums of many layers lose too much in f16. Keys and values of earlier steps come in and go out. A row of the batch may have fewer of them than the
//! others: `kvcache_start_index` says how many of its `past` positions count.

use std::collections::{BTreeMap, BTreeSet};

use super::data::{ExportPlan, module_weight};
use super::quantized::{Form, MatrixPart, part_name};
use crate::format::engine::{EMBEDDING, FINAL_NORM, HEAD, projection_bias};
use crate::format::onnx::ElementType;
use crate::format::onnx::write::{self, Dim, NewAttribute, NewGraph, NewNode, NewPlace};
use crate::numbers::Module;
use crate::numbers::architecture::{Architecture, Projection};

const IR_VERSION: u64 = 11;
const OPSET: u64 = 23;
/// Cosines and sines of each position, in this order side by side.
const ROPE: &str = "rope_rotary_cos_sin";
/// Those of layers with a window, where they are others (Gemma 3).
const LOCAL_ROPE: &str = "local_rope_rotary_cos_sin";
/// A position that no query sees.
const NOWHERE: i64 = i64::MAX / 4;

/// The model file for tensors that lie where they say.
pub fn export_graph(architecture: &Architecture, element: ElementType, plan: &ExportPlan) -> Vec<u8> {
    let mut builder = Builder {
        a: architecture,
        element,
        quantized: &plan.quantized,
        graph: NewGraph::default(),
        constants: BTreeSet::new(),
    };
    builder.add_inputs();
    for tensor in &plan.tensors {
        builder.graph.initializers.push(tensor.message());
    }
    builder.add_positions();
    builder.add_masks();
    let mut x = builder.add_embeddings();
    for layer in 0..architecture.n_layers {
        x = builder.add_layer(layer, &x);
    }
    builder.add_head(&x);
    builder.graph.into_model(IR_VERSION, OPSET)
}

/// What a norm gives: as it is computed, and in the type of the weights.
pub(super) struct Normed {
    pub wide: String,
    pub narrow: String,
}

pub(super) struct Builder<'a> {
    pub(super) a: &'a Architecture,
    /// Of weights and activations.
    element: ElementType,
    /// By the weight's name.
    quantized: &'a BTreeMap<String, Form>,
    graph: NewGraph,
    /// Names of the constants that are there.
    constants: BTreeSet<String>,
}

impl Builder<'_> {
    fn add_inputs(&mut self) {
        let (a, element) = (self.a, self.element);
        let cache = |length: &str| -> Vec<Dim> {
            vec!["batch_size".into(), 2.into(), a.n_kv_heads.into(), length.into(), a.head_dim.into()]
        };
        let mut inputs: Vec<(String, ElementType, Vec<Dim>)> = vec![(
            "inputs_embeds".to_owned(),
            element,
            vec!["batch_size".into(), "seq_len".into(), a.hidden_size.into()],
        )];
        inputs.extend((0..a.n_layers).map(|i| (format!("past_key_values_{i}"), element, cache("past_len"))));
        let table = || vec![1.into(), "max_position_embeddings".into(), a.rotary_dim().into()];
        inputs.push((ROPE.to_owned(), ElementType::F32, table()));
        if a.local_rope_theta.is_some() {
            inputs.push((LOCAL_ROPE.to_owned(), ElementType::F32, table()));
        }
        inputs.extend([
            ("last_token_ids".to_owned(), ElementType::I64, vec!["batch_size".into(), "num_tokens".into()]),
            ("kvcache_start_index".to_owned(), ElementType::I32, vec!["batch_size".into()]),
        ]);
        self.graph.inputs =
            inputs.iter().map(|(name, element, dims)| write::value_info(name, *element, dims)).collect();
        let logits = ["batch_size".into(), "num_tokens".into(), a.vocab_size.into()];
        self.graph.outputs.push(write::value_info("logits", ElementType::F32, &logits));
        for i in 0..a.n_layers {
            let name = format!("present_key_values_{i}");
            self.graph.outputs.push(write::value_info(&name, element, &cache("present_kv_cache_len")));
        }
    }

    /// A node whose one output has the node's name, with `_output` behind it.
    pub(super) fn node(
        &mut self,
        name: &str,
        op: &str,
        inputs: &[&str],
        attributes: &[(&str, NewAttribute)],
    ) -> String {
        let output = format!("{name}_output");
        self.node_to(name, op, inputs, &[&output], attributes);
        output
    }

    pub(super) fn node_to(
        &mut self,
        name: &str,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, NewAttribute)],
    ) {
        self.graph.nodes.push(write::node(&NewNode { op, name, inputs, outputs, attributes }));
    }

    /// A constant of whole numbers; a scalar where `dims` is empty. Equal ones are stored once.
    fn whole(&mut self, values: &[i64], dims: &[usize]) -> String {
        let numbers = values.iter().map(i64::to_string).collect::<Vec<_>>().join("_");
        let name = format!("constant{}_{numbers}", if dims.is_empty() { "" } else { "s" });
        if self.constants.insert(name.clone()) {
            let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let message = write::tensor(&name, ElementType::I64, dims, NewPlace::Inline(&data));
            self.graph.initializers.push(message);
        }
        name
    }

    pub(super) fn list(&mut self, values: &[i64]) -> String {
        self.whole(values, &[values.len()])
    }

    fn scalar(&mut self, value: i64) -> String {
        self.whole(&[value], &[])
    }

    /// `/positions`: where each new token stands, i64 `[batch_size, seq_len]`; `/cos`, `/sin`: f32
    /// `[max_position_embeddings, rotary_dim / 2]`.
    fn add_positions(&mut self) {
        let int = |value: i64| NewAttribute::Int(value);
        let (zero, one) = (self.scalar(0), self.scalar(1));
        let (first, second) = (self.list(&[0]), self.list(&[1]));
        for (name, of, axis) in [("/seq", "inputs_embeds", 1), ("/past", "past_key_values_0", 3)] {
            let shape = self.node(
                &format!("{name}/Shape"),
                "Shape",
                &[of],
                &[("start", int(axis)), ("end", int(axis + 1))],
            );
            let length = self.node(&format!("{name}/Squeeze"), "Squeeze", &[&shape, &first], &[]);
            self.node(&format!("{name}/Range"), "Range", &[&zero, &length, &one], &[]);
        }
        let start = self.node("/start/Cast", "Cast", &["kvcache_start_index"], &[to(ElementType::I64)]);
        let start = self.node("/start/Unsqueeze", "Unsqueeze", &[&start, &second], &[]);
        self.node_to("/positions/Add", "Add", &[&start, "/seq/Range_output"], &["/positions"], &[]);
        let halves = [("axis", int(-1)), ("num_outputs", int(2))];
        let local = self.a.local_rope_theta.map(|_| ("/local", LOCAL_ROPE));
        for (path, input) in [("", ROPE)].into_iter().chain(local) {
            let table = self.node(&format!("{path}/rope/Squeeze"), "Squeeze", &[input, &first], &[]);
            let outputs = [format!("{path}/cos"), format!("{path}/sin")];
            let outputs = outputs.each_ref().map(String::as_str);
            self.node_to(&format!("{path}/rope/Split"), "Split", &[&table], &outputs, &halves);
        }
    }

    /// What the layers begin with, f32.
    fn add_embeddings(&mut self) -> String {
        let x = self.widened("/inputs_embeds/Cast", "inputs_embeds");
        let Some(scale) = self.a.embedding_scale() else { return x };
        let name = "embedding_scale";
        let message = write::tensor(name, ElementType::F32, &[], NewPlace::Inline(&scale.to_le_bytes()));
        self.graph.initializers.push(message);
        self.node("/inputs_embeds/Mul", "Mul", &[&x, name], &[])
    }

    /// `/mask`, and `/window/mask` of layers with a window: which positions a new token sees, `[batch_size, 1, seq_len, past_len + seq_len]`.
    fn add_masks(&mut self) {
        let start = "/start/Unsqueeze_output";
        let nowhere = self.scalar(NOWHERE);
        let is_there = self.node("/mask/Less", "Less", &["/past/Range_output", start], &[]);
        let past = self.node("/mask/Where", "Where", &[&is_there, "/past/Range_output", &nowhere], &[]);
        let keys =
            self.node("/mask/Concat", "Concat", &[&past, "/positions"], &[("axis", NewAttribute::Int(1))]);
        let (key_axes, query_axes) = (self.list(&[1, 2]), self.list(&[1, 3]));
        let keys = self.node("/mask/Unsqueeze", "Unsqueeze", &[&keys, &key_axes], &[]);
        let queries = self.node("/mask/Unsqueeze_1", "Unsqueeze", &["/positions", &query_axes], &[]);
        self.node_to("/mask/LessOrEqual", "LessOrEqual", &[&keys, &queries], &["/mask"], &[]);
        let Some(window) = self.a.sliding_window else { return };
        let distance = self.node("/window/Sub", "Sub", &[&queries, &keys], &[]);
        let window = self.scalar(i64::try_from(window).unwrap_or(NOWHERE));
        let near = self.node("/window/Less", "Less", &[&distance, &window], &[]);
        self.node_to("/window/And", "And", &["/mask", &near], &["/window/mask"], &[]);
    }

    /// Returns the value after the layer.
    fn add_layer(&mut self, layer: usize, x: &str) -> String {
        let path = format!("/model/layers.{layer}");
        let weight = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let normed = self.block_norm(&format!("{path}/input_layernorm"), x, &weight("input_layernorm"));
        let attended = self.attention(layer, &normed.narrow);
        let update = self.linear(layer, Projection::O, &attended);
        let update = self.norm_behind(layer, 0, update);
        let x = self.node(&format!("{path}/Add"), "Add", &[x, &update], &[]);
        let before = self.a.norms.before_mlp();
        let normed = self.block_norm(&format!("{path}/{before}"), &x, &weight(before));
        let update = self.mlp(layer, &normed);
        let update = self.norm_behind(layer, 1, update);
        self.node(&format!("{path}/Add_1"), "Add", &[&x, &update], &[])
    }

    /// The norm of a block's output, where the model has one: of attention (0) or of the MLP (1).
    fn norm_behind(&mut self, layer: usize, block: usize, update: String) -> String {
        let Some(parts) = self.a.norms.after() else { return update };
        let part = parts[block];
        let weight = format!("model.layers.{layer}.{part}.weight");
        self.norm(&format!("/model/layers.{layer}/{part}"), &update, &weight)
    }

    /// The value in f32: the residual, norms and rotations are computed so.
    fn widened(&mut self, name: &str, x: &str) -> String {
        match self.element {
            ElementType::F32 => x.to_owned(),
            _ => self.node(name, "Cast", &[x], &[to(ElementType::F32)]),
        }
    }

    /// The f32 value in the type of the weights.
    pub(super) fn narrowed(&mut self, name: &str, x: &str) -> String {
        match self.element {
            ElementType::F32 => x.to_owned(),
            element => self.node(name, "Cast", &[x], &[to(element)]),
        }
    }

    /// From f32 to f32.
    fn norm(&mut self, path: &str, x: &str, weight: &str) -> String {
        let attributes =
            [("axis", NewAttribute::Int(-1)), ("epsilon", NewAttribute::Float(self.a.rms_norm_eps))];
        self.node(&format!("{path}/RMSNormalization"), "RMSNormalization", &[x, weight], &attributes)
    }

    /// The norm before a block.
    fn block_norm(&mut self, path: &str, x: &str, weight: &str) -> Normed {
        let wide = self.norm(path, x, weight);
        let narrow = self.narrowed(&format!("{path}/Cast"), &wide);
        Normed { wide, narrow }
    }

    /// The projections of a module: products of their own, or one that is cut, as the checkpoint has it.
    pub(super) fn side_by_side<const N: usize>(
        &mut self,
        layer: usize,
        module: Module,
        x: &str,
    ) -> [String; N] {
        let a = self.a;
        let parts: [_; N] = module.parts(a).try_into().expect("the caller knows how many a module has");
        if !a.family.row().has_fused_projections {
            return parts.map(|(projection, _)| self.linear(layer, projection, x));
        }
        let (path, product) = self.product(layer, module, x);
        let axis = self.list(&[-1]);
        parts.map(|(projection, outputs)| {
            let bounds = [self.list(&[whole(outputs.start)]), self.list(&[whole(outputs.end)])];
            let name = format!("{path}/Slice_{}", Module::One(projection).short_name());
            self.node(&name, "Slice", &[&product, &bounds[0], &bounds[1], &axis], &[])
        })
    }

    /// A module's path among the nodes, and its product, from the type of the weights to f32.
    pub(super) fn product(&mut self, layer: usize, module: Module, x: &str) -> (String, String) {
        let path = module_path(layer, module);
        let product = self.matmul(&path, x, &module_weight(layer, module));
        let product = self.widened(&format!("{path}/Cast"), &product);
        (path, product)
    }

    /// `x W^T`, in the type of the weights. A quantized weight lies `[n, k]` and is made numbers first.
    pub(super) fn matmul(&mut self, path: &str, x: &str, weight: &str) -> String {
        let product = format!("{path}/MatMul");
        let Some(&form) = self.quantized.get(weight) else {
            return self.node(&product, "MatMul", &[x, weight], &[]);
        };
        let part = |part: MatrixPart| part_name(weight, part);
        let mut x = x.to_owned();
        if form.has_input_scale {
            x = self.node(
                &format!("{path}/pre_quant_scale/Mul"),
                "Mul",
                &[&x, &part(MatrixPart::InputScale)],
                &[],
            );
        }
        let mut scale = part(MatrixPart::Scales);
        if form.has_outer_scale {
            let name = format!("{path}/weight_scale/DequantizeLinear");
            scale = self.node(&name, "DequantizeLinear", &[&scale, &part(MatrixPart::OuterScale)], &[]);
        }
        // Numbers have the type of their scale: it is widened first, and they are narrowed last.
        let mut element = form.scale_element;
        if element == ElementType::F16 && self.element == ElementType::F32 {
            element = ElementType::F32;
            let name = format!("{path}/weight_scale/Cast");
            scale = self.node(&name, "Cast", &[&scale], &[to(element)]);
        }
        let (zeros, mut inputs) = (part(MatrixPart::Zeros), vec![weight, &scale]);
        inputs.extend(form.has_zeros.then_some(zeros.as_str()));
        let mut attributes = vec![("axis", NewAttribute::Int(i64::from(form.block.is_some())))];
        attributes.extend(form.block.map(|block| ("block_size", NewAttribute::Int(whole(block)))));
        let name = format!("{path}/weight/DequantizeLinear");
        let mut numbers = self.node(&name, "DequantizeLinear", &inputs, &attributes);
        if element != self.element {
            let name = format!("{path}/weight/Cast");
            numbers = self.node(&name, "Cast", &[&numbers], &[to(self.element)]);
        }
        let columns = [("perm", NewAttribute::Ints(vec![1, 0]))];
        let numbers = self.node(&format!("{path}/weight/Transpose"), "Transpose", &[&numbers], &columns);
        self.node(&product, "MatMul", &[&x, &numbers], &[])
    }

    /// From the type of the weights to f32.
    pub(super) fn linear(&mut self, layer: usize, projection: Projection, x: &str) -> String {
        let (path, product) = self.product(layer, Module::One(projection), x);
        if !self.a.has_bias(projection) {
            return product;
        }
        let bias = projection_bias(layer, projection);
        self.node(&format!("{path}/Add"), "Add", &[&bias, &product], &[])
    }

    /// Returns `[batch_size, seq_len, n_heads * head_dim]`.
    fn attention(&mut self, layer: usize, x: &str) -> String {
        let a = self.a;
        let path = format!("/model/layers.{layer}/self_attn");
        let place = match a.window_of(layer) {
            Some(_) if a.local_rope_theta.is_some() => "/local",
            _ => "",
        };
        let mask = if a.window_of(layer).is_some() { "/window/mask" } else { "/mask" };
        let [q, k, v] = self.side_by_side(layer, Module::Qkv, x);
        let q = self.heads(
            &format!("{path}/q"),
            &q,
            a.n_heads,
            Some((place, format!("model.layers.{layer}.self_attn.q_norm.weight"))),
        );
        let k = self.heads(
            &format!("{path}/k"),
            &k,
            a.n_kv_heads,
            Some((place, format!("model.layers.{layer}.self_attn.k_norm.weight"))),
        );
        let v = self.heads(&format!("{path}/v"), &v, a.n_kv_heads, None);
        let cache = format!("past_key_values_{layer}");
        let along = [("axis", NewAttribute::Int(1))];
        let (zero, one, axis) = (self.scalar(0), self.scalar(1), self.list(&[1]));
        let past_k = self.node(&format!("{path}/past_k/Gather"), "Gather", &[&cache, &zero], &along);
        let past_v = self.node(&format!("{path}/past_v/Gather"), "Gather", &[&cache, &one], &along);
        let outputs = ["attended", "present_k", "present_v"].map(|name| format!("{path}/{name}"));
        let past_k = self.widened(&format!("{path}/past_k/Cast"), &past_k);
        let past_v = self.widened(&format!("{path}/past_v/Cast"), &past_v);
        let inputs = [&q, &k, &v, mask, &past_k, &past_v];
        let scale = [("scale", NewAttribute::Float(a.attention_scale()))];
        let attributes = if a.attention_scalar.is_some() { &scale[..] } else { &[] };
        self.node_to(
            &format!("{path}/Attention"),
            "Attention",
            &inputs,
            &outputs.each_ref().map(String::as_str),
            attributes,
        );
        let [attended, present_k, present_v] = &outputs;
        let attended = self.narrowed(&format!("{path}/Cast"), attended);
        let present_k = self.narrowed(&format!("{path}/present_k/Cast"), present_k);
        let present_v = self.narrowed(&format!("{path}/present_v/Cast"), present_v);
        let k = self.node(&format!("{path}/present_k/Unsqueeze"), "Unsqueeze", &[&present_k, &axis], &[]);
        let v = self.node(&format!("{path}/present_v/Unsqueeze"), "Unsqueeze", &[&present_v, &axis], &[]);
        let present = format!("present_key_values_{layer}");
        self.node_to(&format!("{path}/present/Concat"), "Concat", &[&k, &v], &[&present], &along);
        let attended = self.node(&format!("{path}/Transpose"), "Transpose", &[&attended], &[swap_heads()]);
        let shape = self.list(&[0, 0, whole(a.n_heads * a.head_dim)]);
        self.node(&format!("{path}/Reshape"), "Reshape", &[&attended, &shape], &[])
    }

    /// Splits heads, `[batch_size, n, seq_len, head_dim]`; queries and keys, which name the place of
    /// their cosines and their norm's weight, are normalized where the family does so, and rotated in f32.
    fn heads(&mut self, path: &str, x: &str, n: usize, rotation: Option<(&str, String)>) -> String {
        let shape = self.list(&[0, 0, whole(n), whole(self.a.head_dim)]);
        let mut x = self.node(&format!("{path}/Reshape"), "Reshape", &[x, &shape], &[]);
        if let Some((_, weight)) = rotation.as_ref().filter(|_| self.a.qk_norm) {
            x = self.norm(&format!("{path}_norm"), &x, weight);
        }
        x = self.node(&format!("{path}/Transpose"), "Transpose", &[&x], &[swap_heads()]);
        match rotation {
            Some((place, _)) => {
                let inputs = [&x, &format!("{place}/cos"), &format!("{place}/sin"), "/positions"];
                let (rotary_dim, head_dim) = (self.a.rotary_dim(), self.a.head_dim);
                let part = [
                    ("rotary_embedding_dim", NewAttribute::Int(whole(rotary_dim))),
                    ("num_heads", NewAttribute::Int(whole(n))),
                ];
                let attributes = if rotary_dim < head_dim { &part[..] } else { &[] };
                self.node(&format!("{path}/RotaryEmbedding"), "RotaryEmbedding", &inputs, attributes)
            }
            None => x,
        }
    }

    fn add_head(&mut self, x: &str) {
        let normed = self.block_norm("/model/norm", x, FINAL_NORM).narrow;
        let last = self.list(&[-1]);
        let rows = self.node("/Unsqueeze", "Unsqueeze", &["last_token_ids", &last], &[]);
        let chosen =
            self.node("/GatherND", "GatherND", &[&normed, &rows], &[("batch_dims", NewAttribute::Int(1))]);
        let product = match self.a.tied_head {
            true => self.tied_product(&chosen),
            false => self.matmul("/lm_head", &chosen, HEAD),
        };
        self.node_to("/Cast", "Cast", &[&product], &["logits"], &[to(ElementType::F32)]);
    }

    /// With the embedding table as it lies in its own file, `[vocab_size, hidden_size]`.
    fn tied_product(&mut self, x: &str) -> String {
        let flat = self.list(&[-1, whole(self.a.hidden_size)]);
        let x = self.node("/lm_head/Reshape", "Reshape", &[x, &flat], &[]);
        let inputs = [&x, EMBEDDING];
        let product = self.node("/lm_head/Gemm", "Gemm", &inputs, &[("transB", NewAttribute::Int(1))]);
        let rows = self.node("/lm_head/Shape", "Shape", &["last_token_ids"], &[]);
        let vocab = self.list(&[whole(self.a.vocab_size)]);
        let shape =
            self.node("/lm_head/Concat", "Concat", &[&rows, &vocab], &[("axis", NewAttribute::Int(0))]);
        self.node("/lm_head/Reshape_1", "Reshape", &[&product, &shape], &[])
    }
}

fn to(element: ElementType) -> (&'static str, NewAttribute) {
    ("to", NewAttribute::Int(element.number().cast_signed()))
}

/// `[batch, seq, heads, head_dim]` to `[batch, heads, seq, head_dim]` and back.
fn swap_heads() -> (&'static str, NewAttribute) {
    ("perm", NewAttribute::Ints(vec![0, 2, 1, 3]))
}

/// `/model/layers.0/mlp/up_proj`; experts have their number as their layer has.
fn module_path(layer: usize, module: Module) -> String {
    let path = match module {
        Module::Expert { expert, projection } => format!("mlp/experts.{expert}/{}", projection.short_name()),
        other => other.path().replace('.', "/"),
    };
    format!("/model/layers.{layer}/{path}")
}

pub(super) fn whole(size: usize) -> i64 {
    size.try_into().expect("an architecture's sizes are checked")
}
