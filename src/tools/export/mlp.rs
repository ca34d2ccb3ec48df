//! The MLP of an exported layer: gated, or a mixture of experts that are.
//!
//! The standard has no operator for a mixture. Every expert computes every token, and its output is multiplied by its
//! share of the token, which is 0 where the router chose others.

use super::data::module_weight;
use super::graph::{Builder, Normed, whole};
use crate::format::onnx::write::NewAttribute;
use crate::numbers::Module;
use crate::numbers::architecture::{Experts, Projection};
use crate::numbers::family::Activation;

impl Builder<'_> {
    /// What is added to the residual, f32.
    pub(super) fn mlp(&mut self, layer: usize, x: &Normed) -> String {
        if let Some(experts) = self.a.experts_of(layer) {
            return self.mixture(layer, experts, x);
        }
        let [gate, up] = self.side_by_side(layer, Module::GateUp, &x.narrow);
        let gated = self.gated(&format!("/model/layers.{layer}/mlp"), &gate, &up);
        self.linear(layer, Projection::Down, &gated)
    }

    /// `activation(gate) * up`, in the type of the weights.
    fn gated(&mut self, path: &str, gate: &str, up: &str) -> String {
        let activated = match self.a.activation {
            Activation::Silu => {
                let sigmoid = self.node(&format!("{path}/act_fn/Sigmoid"), "Sigmoid", &[gate], &[]);
                self.node(&format!("{path}/act_fn/Mul"), "Mul", &[gate, &sigmoid], &[])
            }
            Activation::GeluTanh => {
                let approximate = [("approximate", NewAttribute::Text("tanh"))];
                self.node(&format!("{path}/act_fn/Gelu"), "Gelu", &[gate], &approximate)
            }
        };
        let gated = self.node(&format!("{path}/Mul"), "Mul", &[&activated, up], &[]);
        self.narrowed(&format!("{path}/Cast"), &gated)
    }

    fn mixture(&mut self, layer: usize, experts: &Experts, x: &Normed) -> String {
        let path = format!("/model/layers.{layer}/mlp");
        let shares = self.shares(layer, experts, &x.wide);
        let mut sum: Option<String> = None;
        for (expert, share) in shares.iter().enumerate() {
            let path = format!("{path}/experts.{expert}");
            let mut product = |projection, x: &str| {
                let module = Module::Expert { expert, projection };
                self.product(layer, module, x).1
            };
            let (gate, up) = (product(Projection::Gate, &x.narrow), product(Projection::Up, &x.narrow));
            let gated = self.gated(&path, &gate, &up);
            let module = Module::Expert { expert, projection: Projection::Down };
            let (_, down) = self.product(layer, module, &gated);
            let part = self.node(&format!("{path}/share/Mul"), "Mul", &[&down, share], &[]);
            sum = Some(match sum {
                None => part,
                Some(sum) => self.node(&format!("{path}/Add"), "Add", &[&sum, &part], &[]),
            });
        }
        sum.expect("a mixture has experts")
    }

    /// How much of each expert a token takes, f32 `[batch_size, seq_len, 1]` each.
    fn shares(&mut self, layer: usize, experts: &Experts, x: &str) -> Vec<String> {
        let path = format!("/model/layers.{layer}/mlp/gate");
        let last = [("axis", NewAttribute::Int(-1))];
        let logits = self.matmul(&path, x, &module_weight(layer, Module::Router));
        let all = self.node(&format!("{path}/Softmax"), "Softmax", &[&logits], &last);
        let n_used = self.list(&[whole(experts.n_used)]);
        let (mut largest, chosen) = (format!("{path}/largest"), format!("{path}/chosen"));
        self.node_to(&format!("{path}/TopK"), "TopK", &[&all, &n_used], &[&largest, &chosen], &last);
        if experts.normalized {
            let axis = self.list(&[-1]);
            let sum = self.node(&format!("{path}/ReduceSum"), "ReduceSum", &[&largest, &axis], &[]);
            largest = self.node(&format!("{path}/Div"), "Div", &[&largest, &sum], &[]);
        }
        let shape = self.node(&format!("{path}/Shape"), "Shape", &[&all], &[]);
        let zeros = self.node(&format!("{path}/ConstantOfShape"), "ConstantOfShape", &[&shape], &[]);
        let inputs = [&zeros[..], &chosen, &largest];
        let sparse = self.node(&format!("{path}/ScatterElements"), "ScatterElements", &inputs, &last);
        let n = experts.n_experts;
        let shares: Vec<String> = (0..n).map(|expert| format!("{path}/share_{expert}")).collect();
        let names: Vec<&str> = shares.iter().map(String::as_str).collect();
        let attributes = [("axis", NewAttribute::Int(-1)), ("num_outputs", NewAttribute::Int(whole(n)))];
        self.node_to(&format!("{path}/Split"), "Split", &[&sparse], &names, &attributes);
        shares
    }
}
