//! Who computes a value, and what is constant: the questions that recognition asks of a graph.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::model::{Attribute, Graph, Node};
use super::protobuf::damaged;
use super::tensor::StoredTensor;
use crate::format::FormatError;

/// Operators that only move elements or change their type.
const MOVES: [&str; 7] = ["Cast", "Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"];
const CASTS: [&str; 2] = ["Cast", "Identity"];

/// A graph by the names of its values.
pub struct Index<'g, 'a> {
    pub graph: &'g Graph<'a>,
    producers: BTreeMap<&'a str, usize>,
    initializers: BTreeMap<&'a str, usize>,
    inputs: BTreeMap<&'a str, usize>,
    /// By node: whether recognition has looked at it.
    seen: RefCell<Vec<bool>>,
}

impl<'g, 'a> Index<'g, 'a> {
    /// # Errors
    /// [`FormatError::Damaged`] where a value has two sources.
    pub fn new(graph: &'g Graph<'a>) -> Result<Self, FormatError> {
        let mut producers = BTreeMap::new();
        for (node_idx, node) in graph.nodes.iter().enumerate() {
            for output in node.outputs.iter().filter(|output| !output.is_empty()) {
                if producers.insert(*output, node_idx).is_some() {
                    return Err(damaged(format!("value {output} is computed twice")));
                }
            }
        }
        let initializers: BTreeMap<_, _> =
            graph.initializers.iter().enumerate().map(|(i, tensor)| (tensor.name, i)).collect();
        let inputs = graph.inputs.iter().enumerate().map(|(i, input)| (input.name, i)).collect();
        let seen = RefCell::new(vec![false; graph.nodes.len()]);
        Ok(Self { graph, producers, initializers, inputs, seen })
    }

    /// The number of the node that computes a value.
    pub fn producer_idx(&self, value: &str) -> Option<usize> {
        let node_idx = *self.producers.get(value)?;
        self.seen.borrow_mut()[node_idx] = true;
        Some(node_idx)
    }

    pub fn producer(&self, value: &str) -> Option<&'g Node<'a>> {
        self.producer_idx(value).map(|node_idx| &self.graph.nodes[node_idx])
    }

    /// The node behind a value if it is this standard operator.
    pub fn standard(&self, value: &str, op: &str) -> Option<&'g Node<'a>> {
        self.producer(value).filter(|node| node.is_standard(op))
    }

    pub fn is_input(&self, value: &str) -> bool {
        self.inputs.contains_key(value) && !self.initializers.contains_key(value)
    }

    /// The tensor of an initializer or of a Constant node.
    pub fn constant(&self, value: &str) -> Option<StoredTensor<'a>> {
        if let Some(&i) = self.initializers.get(value) {
            return Some(self.graph.initializers[i].clone());
        }
        match self.standard(value, "Constant")?.attribute("value")? {
            Attribute::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// A constant of one element.
    pub fn scalar(&self, value: &str) -> Option<f32> {
        match self.constant(self.behind_casts(value)) {
            Some(tensor) => match tensor.small_values()?[..] {
                [value] => Some(value),
                _ => None,
            },
            None => {
                let node = self.standard(value, "Constant")?;
                node.float("value_float").or_else(|| node.int("value_int").map(|value| value as f32))
            }
        }
    }

    /// The value before changes of its type.
    pub fn behind_casts<'v>(&self, value: &'v str) -> &'v str
    where
        'a: 'v,
    {
        self.behind(value, &CASTS)
    }

    /// The value before changes of its type and shape.
    pub fn behind_moves<'v>(&self, value: &'v str) -> &'v str
    where
        'a: 'v,
    {
        self.behind(value, &MOVES)
    }

    fn behind<'v>(&self, value: &'v str, ops: &[&str]) -> &'v str
    where
        'a: 'v,
    {
        let mut value = value;
        // In a damaged graph a value may depend on itself.
        for _ in 0..self.graph.nodes.len() {
            match self.producer(value) {
                Some(node) if ops.iter().any(|op| node.is_standard(op)) && !node.inputs.is_empty() => {
                    value = node.inputs[0];
                }
                _ => break,
            }
        }
        value
    }

    /// The two operands of a binary operator, in both orders.
    pub fn both_ways(node: &Node<'a>) -> Option<[(&'a str, &'a str); 2]> {
        match node.inputs[..] {
            [a, b] => Some([(a, b), (b, a)]),
            _ => None,
        }
    }

    /// Nodes that recognition did not look at.
    pub fn unseen(&self) -> Vec<&'g Node<'a>> {
        let seen = self.seen.borrow();
        self.graph.nodes.iter().zip(seen.iter()).filter(|(_, seen)| !**seen).map(|(node, _)| node).collect()
    }

    /// The error for a value whose node is not what is wanted there.
    pub fn unrecognized(&self, value: &str, wanted: &str) -> FormatError {
        let found = match self.producer(value) {
            Some(node) => node.described(),
            None => format!("value {value}, which no node computes"),
        };
        FormatError::Unsupported { what: "graph node", found, supported: wanted.to_owned() }
    }
}
