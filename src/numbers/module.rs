//! The linear layers that checkpoints and adapters name.

use std::ops::Range;

use super::architecture::{Architecture, Projection};
use super::family::Family;

/// A linear layer as checkpoints and adapters have it: one projection, or several whose outputs stand one
/// behind another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Module {
    One(Projection),
    /// q, k, v.
    Qkv,
    /// Gate, up.
    GateUp,
    /// Chooses the experts of a mixture.
    Router,
    /// Gate, up or down of one expert.
    Expert {
        expert: usize,
        projection: Projection,
    },
}

impl Module {
    /// Path inside a layer; of an expert's projection, inside the expert.
    pub fn path(self) -> &'static str {
        match self {
            Module::One(projection) => projection.path(),
            Module::Qkv => "self_attn.qkv_proj",
            Module::GateUp => "mlp.gate_up_proj",
            Module::Router => "mlp.gate",
            Module::Expert { projection, .. } => projection.short_name(),
        }
    }

    /// Path inside a layer, an expert's too: `mlp.experts.3.up_proj`.
    pub fn path_in_layer(self) -> String {
        match self {
            Module::Expert { expert, projection } => {
                format!("mlp.experts.{expert}.{}", projection.short_name())
            }
            other => other.path().to_owned(),
        }
    }

    /// The module with that path inside a layer.
    pub fn at(path: &str) -> Option<Self> {
        if let Some((number, name)) = path.strip_prefix("mlp.experts.").and_then(|rest| rest.split_once('.'))
        {
            let expert: usize = number.parse().ok()?;
            let projection =
                Projection::MLP.into_iter().find(|projection| projection.short_name() == name)?;
            // "07" and "+7" are other names than "7".
            return (expert.to_string() == number).then_some(Module::Expert { expert, projection });
        }
        let named = Self::all(Family::Phi3).into_iter().chain([Module::Router]);
        named.into_iter().find(|module| module.path() == path)
    }

    /// The linear layers of a family's checkpoints.
    pub fn of_layer(family: Family) -> Vec<Self> {
        if !family.row().has_fused_projections {
            return Projection::ALL.map(Module::One).to_vec();
        }
        vec![Module::Qkv, Module::One(Projection::O), Module::GateUp, Module::One(Projection::Down)]
    }

    /// The linear layers of one layer's checkpoint; experts one by one behind their router.
    pub fn in_layer(architecture: &Architecture, layer: usize) -> Vec<Self> {
        let usual = Self::of_layer(architecture.family).into_iter();
        let mut modules: Vec<Self> = usual.filter(|module| module.is_in(architecture, layer)).collect();
        if let Some(experts) = architecture.experts_of(layer) {
            modules.push(Module::Router);
            modules.extend(
                (0..experts.n_experts).flat_map(|expert| {
                    Projection::MLP.map(|projection| Module::Expert { expert, projection })
                }),
            );
        }
        modules
    }

    /// Those that adapters of a family may change.
    pub fn all(family: Family) -> Vec<Self> {
        let fused = [Module::Qkv, Module::GateUp];
        let fused = if family.row().has_fused_projections { &fused[..] } else { &[] };
        Projection::ALL.map(Module::One).into_iter().chain(fused.iter().copied()).collect()
    }

    /// The last part of the path.
    pub fn short_name(self) -> &'static str {
        self.path().rsplit_once('.').map_or(self.path(), |(_, last)| last)
    }

    pub fn is_fused(self) -> bool {
        matches!(self, Module::Qkv | Module::GateUp)
    }

    /// Whether that layer has it.
    pub fn is_in(self, architecture: &Architecture, layer: usize) -> bool {
        let experts = architecture.experts_of(layer);
        let is_dense = |projection: &Projection| experts.is_none() || !Projection::MLP.contains(projection);
        layer < architecture.n_layers
            && match self {
                Module::One(projection) => is_dense(&projection),
                Module::Qkv | Module::GateUp => architecture.family.row().has_fused_projections,
                Module::Router => experts.is_some(),
                Module::Expert { expert, .. } => experts.is_some_and(|experts| expert < experts.n_experts),
            }
    }

    /// `(out_features, in_features)`
    pub fn shape(self, architecture: &Architecture) -> (usize, usize) {
        let hidden_size = architecture.hidden_size;
        match (self, &architecture.experts) {
            (Module::Router, Some(experts)) => return (experts.n_experts, hidden_size),
            (Module::Expert { projection, .. }, Some(experts)) => {
                return experts.shape(projection, hidden_size).unwrap_or_default();
            }
            _ => {}
        }
        let parts = self.parts(architecture);
        let n_outputs = parts.last().map_or(0, |(_, columns)| columns.end);
        let n_inputs = parts.first().map_or(0, |(part, _)| architecture.projection_shape(*part).1);
        (n_outputs, n_inputs)
    }

    /// Its projections, in the order of their outputs; those of a mixture are none of the layer's seven.
    pub fn projections(self) -> Vec<Projection> {
        match self {
            Module::One(projection) => vec![projection],
            Module::Qkv => vec![Projection::Q, Projection::K, Projection::V],
            Module::GateUp => vec![Projection::Gate, Projection::Up],
            Module::Router | Module::Expert { .. } => Vec::new(),
        }
    }

    /// Its projections with their outputs.
    pub fn parts(self, architecture: &Architecture) -> Vec<(Projection, Range<usize>)> {
        let mut first = 0;
        let mut part = |projection: Projection| {
            let outputs = first..first + architecture.projection_shape(projection).0;
            first = outputs.end;
            (projection, outputs)
        };
        self.projections().into_iter().map(&mut part).collect()
    }
}
