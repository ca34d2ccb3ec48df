//! The decoder that an ONNX directory's configuration and graph describe together: sizes and rotations are the
//! configuration's, everything that the graph computes is the graph's.

use crate::format::FormatError;
use crate::format::onnx::{Linear, Norm, OnnxDecoder, OnnxLayer, OnnxMixture, OnnxMlp};
use crate::numbers::Module;
use crate::numbers::architecture::{Architecture, Experts, Projection};
use crate::numbers::family::Norms;

const FILE: &str = "config.json";
/// Numbers of a graph are rounded to f16 at times.
const ROUNDING: f32 = 1e-3;

/// Both together; the head is taken as untied.
///
/// # Errors
/// [`FormatError`] where they differ, or layers do.
pub fn architecture(config: &Architecture, decoder: &OnnxDecoder) -> Result<Architecture, FormatError> {
    check_sizes(config, decoder)?;
    check_alike(decoder)?;
    check_scales(config, decoder)?;
    check_rotations(config, decoder)?;
    let first = &decoder.layers[0];
    let has_bias = |projection: Projection| {
        decoder.layers.iter().flat_map(|layer| of(layer, &[projection])).any(|linear| linear.bias.is_some())
    };
    Ok(Architecture {
        rms_norm_eps: decoder.final_norm.eps,
        qkv_bias: has_bias(Projection::Q),
        o_bias: has_bias(Projection::O),
        mlp_bias: has_bias(Projection::Gate),
        qk_norm: first.attention.q_norm.is_some(),
        sliding_window: first.attention.window.or(config.sliding_window),
        activation: first.mlp.activation(),
        norms: if first.after_norms.is_some() { Norms::BeforeAndAfter } else { Norms::Before },
        scaled_embedding: decoder.embedding_scale.is_some(),
        experts: experts(decoder)?,
        ..config.clone()
    })
}

/// The layer's projections among these, where it has them by themselves.
fn of<'d, 'a>(layer: &'d OnnxLayer<'a>, projections: &[Projection]) -> Vec<&'d Linear<'a>> {
    let linears = layer.linears().into_iter();
    let is_wanted = |module: Module| projections.iter().any(|projection| module == Module::One(*projection));
    linears.filter(|(module, _)| is_wanted(*module)).map(|(_, linear)| linear).collect()
}

fn differs(key: &str, found: impl ToString, wanted: String) -> FormatError {
    FormatError::Key { file: FILE, key: key.to_owned(), wanted, found: found.to_string() }
}

fn mixed(what: &'static str) -> FormatError {
    let (found, supported) = ("layers that differ".to_owned(), "the same in all layers".to_owned());
    FormatError::Unsupported { what, found, supported }
}

fn check_sizes(config: &Architecture, decoder: &OnnxDecoder) -> Result<(), FormatError> {
    let mut pairs = vec![("num_hidden_layers", config.n_layers, decoder.layers.len())];
    for heads in decoder.layers.iter().filter_map(|layer| layer.attention.heads) {
        pairs.extend([
            ("num_attention_heads", config.n_heads, heads.n_heads),
            ("num_key_value_heads", config.n_kv_heads, heads.n_kv_heads),
            ("head_dim", config.head_dim, heads.head_dim),
        ]);
    }
    match pairs.into_iter().find(|(_, found, wanted)| found != wanted) {
        Some((key, found, wanted)) => Err(differs(key, found, format!("{wanted}, as the graph has"))),
        None => Ok(()),
    }
}

/// What an engine has once for all layers must be the same in all of them.
fn check_alike(decoder: &OnnxDecoder) -> Result<(), FormatError> {
    let layers = &decoder.layers;
    let eps = decoder.final_norm.eps;
    if layers.iter().flat_map(norms).any(|norm| norm.eps != eps) {
        return Err(mixed("eps of norms"));
    }
    let groups: [&[Projection]; 3] = [
        &[Projection::Q, Projection::K, Projection::V],
        &[Projection::O],
        &[Projection::Gate, Projection::Up, Projection::Down],
    ];
    for group in groups {
        let all: Vec<bool> =
            layers.iter().flat_map(|layer| of(layer, group)).map(|linear| linear.bias.is_some()).collect();
        if all.iter().any(|has_bias| *has_bias != all[0]) {
            return Err(mixed("biases of projections"));
        }
    }
    let is_of_mixture = |module: &Module| matches!(module, Module::Router | Module::Expert { .. });
    let of_mixtures = layers.iter().flat_map(OnnxLayer::linears).filter(|(module, _)| is_of_mixture(module));
    let mut plain = of_mixtures.map(|(_, linear)| linear).chain([&decoder.head]);
    if let Some(linear) = plain.find(|linear| linear.bias.is_some()) {
        let (what, found) = ("a bias of the head, a router or an expert", linear.output.to_owned());
        return Err(FormatError::Unsupported { what, found, supported: "none there".to_owned() });
    }
    let has_norms = |layer: &OnnxLayer| (layer.attention.q_norm.is_some(), layer.attention.k_norm.is_some());
    let first = &layers[0];
    if layers.iter().any(|layer| has_norms(layer) != has_norms(first)) {
        return Err(mixed("norms of queries and keys"));
    }
    if layers.iter().any(|layer| layer.after_norms.is_some() != first.after_norms.is_some()) {
        return Err(mixed("norms behind attention and MLP"));
    }
    if layers.iter().any(|layer| layer.mlp.activation() != first.mlp.activation()) {
        return Err(mixed("activations"));
    }
    if layers.iter().any(|layer| layer.attention.window != first.attention.window) {
        return Err(mixed("windows of attention"));
    }
    Ok(())
}

fn norms<'d, 'a>(layer: &'d OnnxLayer<'a>) -> impl Iterator<Item = &'d Norm<'a>> {
    let heads = [&layer.attention.q_norm, &layer.attention.k_norm];
    let after = layer.after_norms.iter().flatten();
    [&layer.input_norm, &layer.post_norm].into_iter().chain(heads.into_iter().flatten()).chain(after)
}

/// Attention's scale is the configuration's, the embedding's the usual one.
fn check_scales(config: &Architecture, decoder: &OnnxDecoder) -> Result<(), FormatError> {
    let usual = 1.0 / (config.head_dim as f32).sqrt();
    let is_near = |found: f32, wanted: f32| (found / wanted - 1.0).abs() <= ROUNDING;
    let wanted = config.attention_scale();
    let mut scales = decoder.layers.iter().map(|layer| layer.attention.scale.unwrap_or(usual));
    if let Some(found) = scales.find(|scale| !is_near(*scale, wanted)) {
        let (what, found) = ("scale of attention", found.to_string());
        return Err(FormatError::Unsupported { what, found, supported: format!("{wanted}, by config.json") });
    }
    let wanted = (config.hidden_size as f32).sqrt();
    match decoder.embedding_scale.filter(|found| !is_near(*found, wanted)) {
        Some(found) => Err(FormatError::Unsupported {
            what: "scale of the embedding",
            found: found.to_string(),
            supported: format!("sqrt(hidden_size) = {wanted}"),
        }),
        None => Ok(()),
    }
}

fn check_rotations(config: &Architecture, decoder: &OnnxDecoder) -> Result<(), FormatError> {
    let rotated = decoder.layers.iter().filter_map(|layer| layer.attention.rotary_dims).flatten();
    let mut rotated = rotated.map(|dim| dim.unwrap_or(config.head_dim));
    match rotated.find(|found| *found != config.rotary_dim()) {
        Some(found) => {
            let wanted = format!("that of {found} elements of a head, as the graph has");
            Err(differs("partial_rotary_factor", config.rope.partial_factor, wanted))
        }
        None => Ok(()),
    }
}

/// The mixture of the layers that have one.
fn experts(decoder: &OnnxDecoder) -> Result<Option<Experts>, FormatError> {
    let mixture_of = |layer: &OnnxLayer| match &layer.mlp {
        OnnxMlp::Mixture(mixture) => Some(described(mixture)),
        OnnxMlp::Gated(_) => None,
    };
    let all: Vec<Option<Experts>> = decoder.layers.iter().map(mixture_of).collect();
    let Some(first) = all.iter().flatten().next() else { return Ok(None) };
    if all.iter().flatten().any(|found| found != first) {
        return Err(mixed("mixtures of experts"));
    }
    let dense_layers = (0..all.len()).filter(|layer| all[*layer].is_none()).collect();
    Ok(Some(Experts { dense_layers, ..first.clone() }))
}

/// A layer's mixture without the layers that have none.
fn described(mixture: &OnnxMixture) -> Experts {
    Experts {
        n_experts: mixture.experts.len(),
        n_used: mixture.n_used,
        intermediate_size: mixture.experts[0].gate.rows.len(),
        normalized: mixture.normalized,
        dense_layers: Vec::new(),
    }
}
