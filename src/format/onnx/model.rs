//! A model looked at in place: nodes, initializers, inputs and outputs of its graph (onnx.proto).

use std::collections::{BTreeMap, BTreeSet};

use super::protobuf::{Fields, damaged};
use super::tensor::{ElementType, Place, StoredTensor};
use crate::format::FormatError;

/// Most nodes, initializers and values of a graph; each takes a hundred bytes here and two in a crafted file.
const MAX_PARTS: usize = 1 << 17;
/// Most inputs, outputs or attributes of a node.
const MAX_NODE_PARTS: usize = 1 << 10;

/// A model and its graph.
#[derive(Debug, Clone)]
pub struct Model<'a> {
    pub bytes: &'a [u8],
    pub graph: Graph<'a>,
    /// Where the graph's message stands in `bytes`.
    pub graph_message: &'a [u8],
}

/// The nodes in order, which is the order of computation.
#[derive(Debug, Clone, Default)]
pub struct Graph<'a> {
    pub nodes: Vec<Node<'a>>,
    pub initializers: Vec<StoredTensor<'a>>,
    pub inputs: Vec<ValueInfo<'a>>,
    pub outputs: Vec<ValueInfo<'a>>,
}

/// One operation.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    pub name: &'a str,
    pub op: &'a str,
    /// Empty for the operators of the standard.
    pub domain: &'a str,
    pub inputs: Vec<&'a str>,
    pub outputs: Vec<&'a str>,
    pub message: &'a [u8],
}

/// A named input or output of the graph.
#[derive(Debug, Clone)]
pub struct ValueInfo<'a> {
    pub name: &'a str,
    pub element: ElementType,
}

/// An attribute's value, where it is of a kind that is used.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute<'a> {
    Float(f32),
    Int(i64),
    Tensor(StoredTensor<'a>),
    Ints(Vec<i64>),
    Text(&'a str),
}

impl<'a> Model<'a> {
    /// Files with tensors of one element, and where the last of these ends: numbers of the graph's arithmetic, which
    /// recognition needs.
    pub fn scalar_files(&self) -> BTreeMap<&'a str, usize> {
        let mut files = BTreeMap::new();
        for (file, start, len) in self.graph.initializers.iter().filter_map(StoredTensor::external_scalar) {
            let end = files.entry(file).or_default();
            *end = start.saturating_add(len).max(*end);
        }
        files
    }

    /// Takes those elements from their files; what a file does not hold stays unknown.
    pub fn take_scalars(&mut self, file: impl Fn(&str) -> Option<&'a [u8]>) {
        for tensor in &mut self.graph.initializers {
            if let Some((name, start, len)) = tensor.external_scalar() {
                let element = file(name).and_then(|bytes| bytes.get(start..)?.get(..len));
                tensor.place = element.map_or(tensor.place, Place::Inline);
            }
        }
    }

    /// Reads the structure; tensors' elements are not touched.
    ///
    /// # Errors
    /// [`FormatError::Damaged`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let (mut found, mut domains) = (None, BTreeSet::new());
        for field in Fields::new(bytes) {
            let field = field?;
            match field.number {
                7 if found.is_some() => return Err(damaged("it has two graphs")),
                7 => found = Some(field.bytes()?),
                8 => _ = domains.insert(standard_domain(imported_domain(field.bytes()?)?)),
                _ => {}
            }
        }
        let graph_message = found.ok_or_else(|| damaged("it has no graph"))?;
        let graph = Graph::parse(graph_message)?;
        if graph.nodes.is_empty() || graph.outputs.is_empty() {
            return Err(damaged("its graph computes nothing"));
        }
        if let Some(node) = graph.nodes.iter().find(|node| !domains.contains(standard_domain(node.domain))) {
            return Err(damaged(format!("it imports no operators for node {}", node.described())));
        }
        Ok(Self { bytes, graph, graph_message })
    }
}

/// OperatorSetIdProto: its domain.
fn imported_domain(message: &[u8]) -> Result<&str, FormatError> {
    for field in Fields::new(message) {
        let field = field?;
        if field.number == 1 {
            return field.text();
        }
    }
    Ok("")
}

/// The standard's operators have two names for their domain.
fn standard_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

impl<'a> Graph<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, FormatError> {
        let mut graph = Self::default();
        let mut n_parts = 0;
        for field in Fields::new(message) {
            let field = field?;
            n_parts += 1;
            if n_parts > MAX_PARTS {
                return Err(damaged(format!("its graph has more than {MAX_PARTS} parts")));
            }
            match field.number {
                1 => graph.nodes.push(Node::parse(field.bytes()?)?),
                5 => graph.initializers.push(StoredTensor::parse(field.bytes()?)?),
                11 => graph.inputs.push(ValueInfo::parse(field.bytes()?)?),
                12 => graph.outputs.push(ValueInfo::parse(field.bytes()?)?),
                _ => {}
            }
        }
        Ok(graph)
    }
}

impl<'a> Node<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, FormatError> {
        let mut node = Self { name: "", op: "", domain: "", inputs: vec![], outputs: vec![], message };
        for field in Fields::new(message) {
            let field = field?;
            match field.number {
                1 => node.inputs.push(field.text()?),
                2 => node.outputs.push(field.text()?),
                3 => node.name = field.text()?,
                4 => node.op = field.text()?,
                7 => node.domain = field.text()?,
                _ => {}
            }
            if node.inputs.len() + node.outputs.len() > MAX_NODE_PARTS {
                return Err(damaged(format!("node {} has too many inputs", node.name)));
            }
        }
        if node.op.is_empty() {
            return Err(damaged(format!("node {} has no operator", node.name)));
        }
        Ok(node)
    }

    /// Whether it is an operator of the standard.
    pub fn is_standard(&self, op: &str) -> bool {
        self.op == op && matches!(self.domain, "" | "ai.onnx")
    }

    /// The attribute of that name; none where it is absent, damaged or of another kind.
    pub fn attribute(&self, name: &str) -> Option<Attribute<'a>> {
        Fields::new(self.message)
            .map_while(Result::ok)
            .filter(|field| field.number == 5)
            .filter_map(|field| parse_attribute(field.bytes().ok()?))
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        match self.attribute(name)? {
            Attribute::Int(value) => Some(value),
            _ => None,
        }
    }

    pub fn float(&self, name: &str) -> Option<f32> {
        match self.attribute(name)? {
            Attribute::Float(value) => Some(value),
            _ => None,
        }
    }

    pub fn text(&self, name: &str) -> Option<&'a str> {
        match self.attribute(name)? {
            Attribute::Text(value) => Some(value),
            _ => None,
        }
    }

    /// For messages: `name (domain::Op) with inputs a, b`.
    pub fn described(&self) -> String {
        const MOST: usize = 8;
        let domain = if self.domain.is_empty() { String::new() } else { format!("{}::", self.domain) };
        let mut inputs = self.inputs.iter().take(MOST).copied().collect::<Vec<_>>().join(", ");
        if self.inputs.len() > MOST {
            inputs.push_str(", …");
        }
        format!("{} ({domain}{}) with inputs {inputs}", self.name, self.op)
    }
}

fn parse_attribute(message: &[u8]) -> Option<(&str, Attribute<'_>)> {
    let (mut name, mut value) = ("", None);
    let mut ints = Vec::new();
    for field in Fields::new(message) {
        let field = field.ok()?;
        match field.number {
            1 => name = field.text().ok()?,
            2 => value = Some(Attribute::Float(field.float().ok()?)),
            3 => value = Some(Attribute::Int(field.number_value().ok()?.cast_signed())),
            4 => value = Some(Attribute::Text(field.text().ok()?)),
            5 => value = Some(Attribute::Tensor(StoredTensor::parse(field.bytes().ok()?).ok()?)),
            8 => ints.extend(field.numbers().ok()?.into_iter().map(u64::cast_signed)),
            _ => {}
        }
    }
    if !ints.is_empty() {
        value = Some(Attribute::Ints(ints));
    }
    Some((name, value?))
}

impl<'a> ValueInfo<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, FormatError> {
        let mut info = Self { name: "", element: ElementType::Other(0) };
        for field in Fields::new(message) {
            let field = field?;
            match field.number {
                1 => info.name = field.text()?,
                2 => info.element = element_of_type(field.bytes()?)?,
                _ => {}
            }
        }
        Ok(info)
    }
}

/// TypeProto, its tensor_type, its elem_type.
fn element_of_type(message: &[u8]) -> Result<ElementType, FormatError> {
    for field in Fields::new(message) {
        let field = field?;
        if field.number == 1 {
            for field in Fields::new(field.bytes()?) {
                let field = field?;
                if field.number == 1 {
                    return Ok(ElementType::from_number(field.number_value()?));
                }
            }
        }
    }
    Ok(ElementType::Other(0))
}
