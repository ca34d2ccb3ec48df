//! Which layers see only a window of positions, as configuration files tell it.
//!
//! Source: the configuration classes of transformers 4.57.

use crate::format::FormatError;
use crate::format::error::unsupported;
use crate::format::json::{Object, shown};
use crate::numbers::family::{Family, WindowRule};

/// The window, and the layers that have none though others do.
pub(super) fn read_windows(
    top: Object,
    family: Family,
    n_layers: usize,
) -> Result<(Option<usize>, Vec<usize>), FormatError> {
    /// The configuration classes' value where the key is absent.
    const DEFAULT_WINDOW: usize = 4096;
    /// Layers before the first with a window, where `max_window_layers` is absent: of Qwen2 and Qwen3, and of the
    /// backbone of Qwen2-VL and Qwen2.5-VL.
    const DEFAULT_FULL_LAYERS: usize = 28;
    const DEFAULT_FULL_LAYERS_OF_BACKBONE: usize = 80;
    let absent = !top.map.contains_key("sliding_window");
    let window = match top.optional_size("sliding_window")? {
        None if absent => Some(DEFAULT_WINDOW),
        other => other,
    };
    let row = family.row();
    let is_wanted = match row.window {
        WindowRule::Never => false,
        WindowRule::Written => !absent,
        WindowRule::Always => true,
        WindowRule::Asked => top.optional_flag("use_sliding_window")?.unwrap_or(false),
    };
    let Some(window) = window.filter(|_| is_wanted) else { return Ok((None, Vec::new())) };
    let windowed = match family {
        Family::Llama
        | Family::Qwen3Vl
        | Family::Phi3
        | Family::Phi4Multimodal
        | Family::Mistral
        | Family::Qwen3Moe => vec![true; n_layers],
        Family::Gemma3 => gemma_layers(top, n_layers)?,
        Family::Qwen2 | Family::Qwen3 | Family::Qwen2Vl | Family::Qwen2_5Vl => {
            match windowed_by_types(top, n_layers)? {
                Some(windowed) => windowed,
                None => {
                    let usual = match row.is_backbone {
                        true => DEFAULT_FULL_LAYERS_OF_BACKBONE,
                        false => DEFAULT_FULL_LAYERS,
                    };
                    let first = top.optional_size("max_window_layers")?.unwrap_or(usual);
                    (0..n_layers).map(|layer| layer >= first).collect()
                }
            }
        }
    };
    let full_layers: Vec<usize> = (0..n_layers).filter(|&layer| !windowed[layer]).collect();
    Ok(if full_layers.len() == n_layers { (None, Vec::new()) } else { (Some(window), full_layers) })
}

/// Which layers of Gemma have the window: by `layer_types`, else all but every `sliding_window_pattern`th.
fn gemma_layers(text: Object, n_layers: usize) -> Result<Vec<bool>, FormatError> {
    /// The configuration class's value where the key is absent.
    const DEFAULT_PATTERN: usize = 6;
    if let Some(windowed) = windowed_by_types(text, n_layers)? {
        return Ok(windowed);
    }
    let pattern = text.optional_size("sliding_window_pattern")?.unwrap_or(DEFAULT_PATTERN);
    if pattern == 0 {
        return Err(text.wrong("sliding_window_pattern", "a whole number above 0"));
    }
    Ok((1..=n_layers).map(|number| !number.is_multiple_of(pattern)).collect())
}

/// Which layers have the window by `layer_types`, where the key is there.
fn windowed_by_types(top: Object, n_layers: usize) -> Result<Option<Vec<bool>>, FormatError> {
    let Some(types) = top.get("layer_types") else { return Ok(None) };
    let types = types.as_array().filter(|types| types.len() == n_layers);
    let types = types.ok_or_else(|| top.wrong("layer_types", format!("{n_layers} names")))?;
    let is_windowed = |kind: &serde_json::Value| match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => {
            let found = shown(kind);
            Err(unsupported("layer_types", found, "full_attention, sliding_attention"))
        }
    };
    types.iter().map(is_windowed).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use crate::format::parse_checkpoint_config;

    #[test]
    fn some_layers_may_have_a_window() {
        let config = br#"{"architectures": ["Qwen2ForCausalLM"], "vocab_size": 9, "hidden_size": 8,
            "intermediate_size": 10, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 2,
            "max_position_embeddings": 16, "sliding_window": 9, "use_sliding_window": true, "max_window_layers": 2}"#;
        let architecture = parse_checkpoint_config(config).unwrap().architecture;
        assert_eq!((architecture.sliding_window, &architecture.full_layers[..]), (Some(9), &[0, 1][..]));
        assert_eq!((architecture.window_of(1), architecture.window_of(2)), (None, Some(9)));
    }
}
