//! A graph with inputs for adapters: at each projection `(x A) B` is added to the product, before the bias.
//!
//! Everything that is not changed is copied as it stands, and a changed node keeps the order of its inputs.
//! Inputs are named after the modules, whatever the exporter called its nodes; a product for queries, keys
//! and values together gets three pairs, but one where the model itself has one layer for them (Phi-3).

use std::collections::BTreeMap;

use crate::format::FormatError;
use crate::format::onnx::protobuf::Fields;
use crate::format::onnx::write::{self, Dim, NewAttribute, NewNode};
use crate::format::onnx::{ElementType, Linear, LinearWeight, Model, OnnxDecoder};
use crate::numbers::Module;

/// A projection of a layer.
struct Slot<'a> {
    layer: usize,
    module: Module,
    linear: Linear<'a>,
}

impl Slot<'_> {
    /// `model.layers.0.self_attn.q_proj`
    fn path(&self) -> String {
        format!("model.layers.{}.{}", self.layer, self.module.path_in_layer())
    }
}

/// What was made.
pub struct Inserted {
    pub model: Vec<u8>,
    /// Pairs of inputs.
    pub n_pairs: usize,
    pub n_layers: usize,
}

/// Adds the inputs to a model.
///
/// # Errors
/// [`FormatError`] where the decoder is not recognized or has such inputs already.
pub fn insert_adapters(model: &Model) -> Result<Inserted, FormatError> {
    if let Some(input) = model.graph.inputs.iter().find(|input| input.name.contains(".lora_A.")) {
        return Err(FormatError::Unsupported {
            what: "a graph with inputs for adapters",
            found: input.name.to_owned(),
            supported: "a graph without them".to_owned(),
        });
    }
    let decoder = OnnxDecoder::recognize(&model.graph)?;
    let mut products: BTreeMap<usize, Vec<Slot>> = BTreeMap::new();
    for (layer_idx, layer) in decoder.layers.iter().enumerate() {
        for (module, linear) in layer.linears() {
            let slot = Slot { layer: layer_idx, module, linear: linear.clone() };
            products.entry(slot.linear.node_idx).or_default().push(slot);
        }
    }
    products.values_mut().for_each(join_cuts);
    let mut edit = Edit::default();
    for (node_idx, slots) in &products {
        edit.add_product(model, *node_idx, slots)?;
    }
    let graph = edit.apply(model)?;
    let mut bytes = Vec::with_capacity(model.bytes.len() + graph.len() - model.graph_message.len());
    for field in Fields::new(model.bytes) {
        let field = field?;
        match field.number {
            7 => write::bytes(&mut bytes, 7, &graph),
            _ => bytes.extend_from_slice(field.raw),
        }
    }
    let n_pairs = products.values().map(Vec::len).sum();
    let n_layers = decoder.layers.len();
    Ok(Inserted { model: bytes, n_pairs, n_layers })
}

/// Makes one of the slots of a layer that the graph cuts into projections.
fn join_cuts(slots: &mut Vec<Slot>) {
    let modules: Vec<Module> = slots.iter().map(|slot| slot.module).collect();
    let parts_of = |module: Module| module.projections().into_iter().map(Module::One).collect::<Vec<_>>();
    let joined = [Module::Qkv, Module::GateUp].into_iter().find(|module| parts_of(*module) == modules);
    if let Some(module) = joined.filter(|_| slots.iter().all(|slot| slot.linear.is_cut)) {
        slots.truncate(1);
        let all = slots[0].linear.weight.shape().map_or(0, |(n, _)| n);
        slots[0].module = module;
        slots[0].linear.rows = 0..all;
    }
}

/// What changes in a graph.
#[derive(Default)]
struct Edit<'a> {
    /// ValueInfoProto of each new input.
    inputs: Vec<Vec<u8>>,
    /// By the node that they come behind.
    nodes: BTreeMap<usize, Vec<Vec<u8>>>,
    /// A product's value and the sum that its readers read instead.
    renamed: BTreeMap<&'a str, String>,
}

impl<'a> Edit<'a> {
    fn add_product(
        &mut self,
        model: &Model<'a>,
        node_idx: usize,
        slots: &[Slot<'a>],
    ) -> Result<(), FormatError> {
        let node = &model.graph.nodes[node_idx];
        let output = slots[0].linear.output;
        if model.graph.outputs.iter().any(|found| found.name == output) {
            return Err(FormatError::Unsupported {
                what: "graph node",
                found: node.described(),
                supported: "a projection whose product stays inside the graph".to_owned(),
            });
        }
        let name = if node.name.is_empty() { output } else { node.name };
        let nodes = self.nodes.entry(node_idx).or_default();
        let mut updates = Vec::new();
        for slot in slots {
            let path = match slots.len() {
                1 => name.to_owned(),
                _ => format!("{name}/{}", slot.module.short_name()),
            };
            updates.push(add_pair(slot, &path, nodes, &mut self.inputs)?);
        }
        let update = match &updates[..] {
            [update] => update.clone(),
            parts => {
                let (concat, joined) = (format!("{name}/lora_concat"), format!("{name}/lora_concat_output"));
                let inputs: Vec<&str> = parts.iter().map(String::as_str).collect();
                let axis = [("axis", NewAttribute::Int(-1))];
                nodes.push(new_node("Concat", &concat, &inputs, &joined, &axis));
                joined
            }
        };
        let sum = format!("{name}/lora_add_output");
        nodes.push(new_node("Add", &format!("{name}/lora_add"), &[output, &update], &sum, &[]));
        self.renamed.insert(output, sum);
        Ok(())
    }

    /// The whole graph's message.
    fn apply(&self, model: &Model) -> Result<Vec<u8>, FormatError> {
        let mut graph = Vec::with_capacity(model.graph_message.len());
        let mut node_idx = 0;
        for field in Fields::new(model.graph_message) {
            let field = field?;
            if field.number != 1 {
                graph.extend_from_slice(field.raw);
                continue;
            }
            if model.graph.nodes[node_idx].inputs.iter().any(|input| self.renamed.contains_key(input)) {
                write::bytes(&mut graph, 1, &self.rewired(field.bytes()?)?);
            } else {
                graph.extend_from_slice(field.raw);
            }
            for node in self.nodes.get(&node_idx).into_iter().flatten() {
                write::bytes(&mut graph, 1, node);
            }
            node_idx += 1;
        }
        for input in &self.inputs {
            write::bytes(&mut graph, 11, input);
        }
        Ok(graph)
    }

    /// The node with its inputs renamed, each at its place.
    fn rewired(&self, node: &[u8]) -> Result<Vec<u8>, FormatError> {
        let mut message = Vec::with_capacity(node.len());
        for field in Fields::new(node) {
            let field = field?;
            match field.number {
                1 if self.renamed.contains_key(field.text()?) => {
                    write::bytes(&mut message, 1, self.renamed[field.text()?].as_bytes());
                }
                _ => message.extend_from_slice(field.raw),
            }
        }
        Ok(message)
    }
}

/// The two products of a pair; returns the value that they give.
fn add_pair(
    slot: &Slot,
    path: &str,
    nodes: &mut Vec<Vec<u8>>,
    inputs: &mut Vec<Vec<u8>>,
) -> Result<String, FormatError> {
    let Some((_, k)) = slot.linear.weight.shape() else {
        let (name, found) = (slot.path(), Vec::new());
        return Err(FormatError::Shape { name, wanted: vec![0, 0], found });
    };
    let n = slot.linear.rows.len();
    let module = slot.path();
    let rank = || Dim::Named(format!("{module}.rank"));
    let pairs = [("A", [Dim::Fixed(k), rank()]), ("B", [rank(), Dim::Fixed(n)])];
    let (element, is_input_cast) = element(&slot.linear);
    let mut factors = Vec::new();
    for (half, dims) in pairs {
        let value = format!("{module}.lora_{half}.weight");
        inputs.push(write::value_info(&value, ElementType::F16, &dims));
        // Adapters are f16; activations may be wider.
        factors.push(match element {
            ElementType::F16 => value,
            wider => add_cast(nodes, &format!("{path}/lora_cast_{half}"), &value, wider),
        });
    }
    let (middle, update) = (format!("{path}/lora_mid"), format!("{path}/lora_gemm_out"));
    let (first, second) = (format!("{path}/lora_matmul_A"), format!("{path}/lora_matmul_B"));
    let x = match is_input_cast {
        true => add_cast(nodes, &format!("{path}/lora_cast_input"), slot.linear.input, element),
        false => slot.linear.input.to_owned(),
    };
    nodes.push(new_node("MatMul", &first, &[&x, &factors[0]], &middle, &[]));
    nodes.push(new_node("MatMul", &second, &[&middle, &factors[1]], &update, &[]));
    Ok(update)
}

/// A cast node; returns what it gives.
fn add_cast(nodes: &mut Vec<Vec<u8>>, name: &str, value: &str, to: ElementType) -> String {
    let output = format!("{name}_output");
    let to = NewAttribute::Int(to.number().cast_signed());
    nodes.push(new_node("Cast", name, &[value], &output, &[("to", to)]));
    output
}

/// The type of a layer's product, and whether what enters it may have another one.
fn element(linear: &Linear) -> (ElementType, bool) {
    match &linear.weight {
        LinearWeight::Columns(tensor) | LinearWeight::Rows(tensor) => (tensor.element, false),
        LinearWeight::Int4(weight) => (weight.scales.element, false),
        LinearWeight::Scaled(weight) => (weight.element, true),
    }
}

fn new_node(
    op: &str,
    name: &str,
    inputs: &[&str],
    output: &str,
    attributes: &[(&str, NewAttribute)],
) -> Vec<u8> {
    write::node(&NewNode { op, name, inputs, outputs: &[output], attributes })
}
