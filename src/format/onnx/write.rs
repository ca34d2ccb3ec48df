//! Messages of a model, written (onnx.proto). Names and order are the caller's.

use super::tensor::ElementType;

/// A length of a value's dimension.
#[derive(Debug, Clone)]
pub enum Dim {
    Fixed(usize),
    /// Known when the graph runs; equal names are equal lengths.
    Named(String),
}

impl From<usize> for Dim {
    fn from(length: usize) -> Self {
        Self::Fixed(length)
    }
}

impl From<&str> for Dim {
    fn from(name: &str) -> Self {
        Self::Named(name.to_owned())
    }
}

/// An attribute's value.
#[derive(Debug, Clone)]
pub enum NewAttribute {
    Float(f32),
    Int(i64),
    Ints(Vec<i64>),
    Text(&'static str),
}

/// An operation of the standard.
#[derive(Debug, Clone)]
pub struct NewNode<'a> {
    pub op: &'a str,
    pub name: &'a str,
    pub inputs: &'a [&'a str],
    pub outputs: &'a [&'a str],
    pub attributes: &'a [(&'a str, NewAttribute)],
}

pub fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

pub fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn float(out: &mut Vec<u8>, field: u64, value: f32) {
    varint(out, field << 3 | 5);
    out.extend_from_slice(&value.to_le_bytes());
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// NodeProto.
pub fn node(node: &NewNode) -> Vec<u8> {
    let mut out = Vec::new();
    for input in node.inputs {
        bytes(&mut out, 1, input.as_bytes());
    }
    for output in node.outputs {
        bytes(&mut out, 2, output.as_bytes());
    }
    bytes(&mut out, 3, node.name.as_bytes());
    bytes(&mut out, 4, node.op.as_bytes());
    for (name, value) in node.attributes {
        bytes(&mut out, 5, &attribute(name, value));
    }
    out
}

/// AttributeProto with its kind (1 float, 2 int, 3 text, 7 ints).
fn attribute(name: &str, value: &NewAttribute) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, 1, name.as_bytes());
    let kind = match value {
        NewAttribute::Float(value) => {
            float(&mut out, 2, *value);
            1
        }
        NewAttribute::Int(value) => {
            number(&mut out, 3, value.cast_unsigned());
            2
        }
        NewAttribute::Text(text) => {
            bytes(&mut out, 4, text.as_bytes());
            3
        }
        NewAttribute::Ints(values) => {
            for value in values {
                number(&mut out, 8, value.cast_unsigned());
            }
            7
        }
    };
    number(&mut out, 20, kind);
    out
}

/// ValueInfoProto of a tensor.
pub fn value_info(name: &str, element: ElementType, dims: &[Dim]) -> Vec<u8> {
    let mut shape = Vec::new();
    for dim in dims {
        let mut message = Vec::new();
        match dim {
            Dim::Fixed(length) => number(&mut message, 1, *length as u64),
            Dim::Named(name) => bytes(&mut message, 2, name.as_bytes()),
        }
        bytes(&mut shape, 1, &message);
    }
    let mut tensor = Vec::new();
    number(&mut tensor, 1, element.number());
    bytes(&mut tensor, 2, &shape);
    let mut kind = Vec::new();
    bytes(&mut kind, 1, &tensor);
    let mut out = Vec::new();
    bytes(&mut out, 1, name.as_bytes());
    bytes(&mut out, 2, &kind);
    out
}

/// Where a new tensor's elements are.
#[derive(Debug, Clone, Copy)]
pub enum NewPlace<'a> {
    Inline(&'a [u8]),
    External { location: &'a str, offset: u64, length: u64 },
}

/// TensorProto.
pub fn tensor(name: &str, element: ElementType, dims: &[usize], place: NewPlace) -> Vec<u8> {
    let mut out = Vec::new();
    for dim in dims {
        number(&mut out, 1, *dim as u64);
    }
    number(&mut out, 2, element.number());
    bytes(&mut out, 8, name.as_bytes());
    match place {
        NewPlace::Inline(data) => bytes(&mut out, 9, data),
        NewPlace::External { location, offset, length } => {
            let pairs = [
                ("location", location.to_owned()),
                ("offset", offset.to_string()),
                ("length", length.to_string()),
            ];
            for (key, value) in pairs {
                let mut pair = Vec::new();
                bytes(&mut pair, 1, key.as_bytes());
                bytes(&mut pair, 2, value.as_bytes());
                bytes(&mut out, 13, &pair);
            }
            number(&mut out, 14, 1);
        }
    }
    out
}

/// The parts of a graph, each an encoded message, in order.
#[derive(Debug, Default)]
pub struct NewGraph {
    pub nodes: Vec<Vec<u8>>,
    pub initializers: Vec<Vec<u8>>,
    pub inputs: Vec<Vec<u8>>,
    pub outputs: Vec<Vec<u8>>,
}

impl NewGraph {
    /// ModelProto with this graph, of the standard operators alone.
    pub fn into_model(self, ir_version: u64, opset: u64) -> Vec<u8> {
        let mut graph = Vec::new();
        for node in &self.nodes {
            bytes(&mut graph, 1, node);
        }
        bytes(&mut graph, 2, b"main_graph");
        for (field, messages) in [(5, &self.initializers), (11, &self.inputs), (12, &self.outputs)] {
            for message in messages {
                bytes(&mut graph, field, message);
            }
        }
        let mut standard = Vec::new();
        bytes(&mut standard, 1, b"");
        number(&mut standard, 2, opset);
        let mut out = Vec::new();
        number(&mut out, 1, ir_version);
        bytes(&mut out, 2, b"jetspool");
        bytes(&mut out, 3, env!("CARGO_PKG_VERSION").as_bytes());
        bytes(&mut out, 7, &graph);
        bytes(&mut out, 8, &standard);
        out
    }
}
