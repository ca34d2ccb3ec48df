//! Which program processed an adapter, by the configuration beside it.
//!
//! The workflow's own process-lora writes the same two files as ours and in most cases the same numbers. Where it
//! does not (TensorRT Edge-LLM 0.5 and 0.10: one scale for all modules, never that of rsLoRA; orientation guessed from
//! the shape; what it does not know left out or passed on), nothing in the tensors tells. So ours puts a key into
//! config.json, and a file without it is taken only where both programs write the same.

use serde_json::{Map, Value, json};

use super::peft_config::PeftConfig;
use super::processed::{Adapter, AdapterError, listed};
use crate::format::TensorFile;
use crate::format::json::parse_object;
use crate::numbers::architecture::Architecture;

/// The key of config.json that is ours.
const KEY: &str = "jetspool";

/// What process-lora made of an adapter.
pub struct Mark<'a> {
    /// `jetspool 1.0.0 process-lora`.
    pub producer: &'a str,
    /// Modules whose tensors were left out as asked.
    pub dropped: &'a [String],
}

impl Mark<'_> {
    /// PEFT's configuration with the mark at its end, all else as it was: the order of its patterns has a meaning.
    pub fn put_into(&self, config: &PeftConfig, config_json: &[u8]) -> Vec<u8> {
        let scaling = if config.use_rslora { "alpha / sqrt(r)" } else { "alpha / r" };
        let mut mark =
            json!({ "producer": self.producer, "scaling": scaling, "orientation": "A [in, r], B [r, out]" });
        if !self.dropped.is_empty() {
            mark["dropped"] = json!(self.dropped);
        }
        let text = config_json.trim_ascii_end();
        // Behind other keys, because a configuration has `r` at least.
        let Some(open) = text.strip_suffix(b"}") else { return config_json.to_vec() };
        let mut marked = open.trim_ascii_end().to_vec();
        marked.extend(format!(",\n  \"{KEY}\": {mark}\n}}\n").bytes());
        marked
    }
}

/// Whether a processed file may be used, by the config.json beside it.
///
/// # Errors
/// [`AdapterError::Foreign`] for one without our mark whose adapter other programs get wrong.
pub fn check_origin(config_json: &[u8], file: &TensorFile) -> Result<(), AdapterError> {
    let Ok(map) = parse_object("config.json", config_json) else { return Ok(()) };
    let is_of_adapter = map.contains_key("peft_type") || map.contains_key("lora_alpha");
    if !is_of_adapter || is_marked(&map) {
        return Ok(());
    }
    let reasons = match PeftConfig::parse(config_json) {
        Ok(config) => risks(&config, file),
        Err(error) => vec![error.to_string()],
    };
    if reasons.is_empty() { Ok(()) } else { Err(AdapterError::Foreign { why: reasons.join("; ") }) }
}

/// Binds an adapter with its directory's config.json, if there is one.
///
/// # Errors
/// Those of [`check_origin`] and of [`Adapter::bind`].
pub fn bind_with_config(
    file: &TensorFile,
    config_json: Option<&[u8]>,
    architecture: &Architecture,
    max_rank: usize,
) -> Result<Adapter, AdapterError> {
    if let Some(config_json) = config_json {
        check_origin(config_json, file)?;
    }
    Adapter::bind(file.clone(), architecture, max_rank)
}

fn is_marked(map: &Map<String, Value>) -> bool {
    map.get(KEY).is_some_and(|mark| mark["producer"].is_string())
}

fn risks(config: &PeftConfig, file: &TensorFile) -> Vec<String> {
    let mut risks: Vec<String> = config.obstacles.iter().map(ToString::to_string).collect();
    if config.use_rslora {
        risks.push("use_rslora is true".to_owned());
    }
    if config.has_rank_pattern() {
        risks.push("rank_pattern is not empty".to_owned());
    }
    if config.has_alpha_pattern() {
        risks.push("alpha_pattern is not empty".to_owned());
    }
    let is_left_out = |name: &&String| name.contains("norm") || name.contains("lm_head");
    let left_out: Vec<&str> = config.target_modules.iter().filter(is_left_out).map(String::as_str).collect();
    if !left_out.is_empty() {
        risks.push(format!("target_modules names {}", listed(&left_out)));
    }
    let is_square = |name: &&str| file.get(name).is_some_and(|tensor| tensor.shape() == [config.rank; 2]);
    if let Some(name) = file.names().find(is_square) {
        risks.push(format!(
            "{name} is as wide as the rank {}, so that its shape tells no orientation",
            config.rank
        ));
    }
    risks
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;

    fn file(shape: [usize; 2]) -> TensorFile {
        let bytes = vec![0; shape[0] * shape[1] * 2];
        let view = TensorView::new(Dtype::F16, shape.to_vec(), &bytes).unwrap();
        let name = "model.layers.0.self_attn.q_proj.lora_A.weight";
        TensorFile::parse(Arc::new(safetensors::serialize([(name, view)], None).unwrap())).unwrap()
    }

    fn config(more: &str) -> String {
        format!("{{\"peft_type\": \"LORA\", \"r\": 8, \"lora_alpha\": 16{more}}}\n")
    }

    #[test]
    fn only_what_others_get_wrong_needs_the_mark() {
        let (wide, square) = ([64, 8], [8, 8]);
        let cases = [
            (config(""), wide, None),
            (config(r#", "rank_pattern": {}, "alpha_pattern": null, "use_dora": false"#), wide, None),
            (config(r#", "target_modules": ["q_proj"], "bias": "all""#), wide, None),
            (config(r#", "use_rslora": true"#), wide, Some("use_rslora")),
            (config(r#", "rank_pattern": {"q_proj": 8}"#), wide, Some("rank_pattern")),
            (config(r#", "alpha_pattern": {"x": 4}"#), wide, Some("alpha_pattern")),
            (config(r#", "use_dora": true"#), wide, Some("use_dora")),
            (config(r#", "init_lora_weights": "pissa""#), wide, Some("pissa")),
            (config(r#", "target_modules": ["lm_head", "q_proj"]"#), wide, Some("lm_head")),
            (config(r#", "modules_to_save": ["lm_head"]"#), wide, Some("lm_head")),
            (config(r#", "rank_pattern": {"(": 8}"#), wide, Some("rank_pattern")),
            (config(""), square, Some("as wide as the rank")),
            (config(r#", "jetspool": true"#), square, Some("as wide as the rank")),
            // Other configurations say nothing about adapters.
            (r#"{"use_rslora": true}"#.to_owned(), wide, None),
            ("no JSON".to_owned(), square, None),
        ];
        for (config, shape, said) in cases {
            let checked = check_origin(config.as_bytes(), &file(shape));
            match said {
                None => assert_eq!(checked, Ok(()), "{config}"),
                Some(said) => {
                    let message = checked.expect_err(&config).to_string();
                    assert!(message.contains(said) && message.contains("jetspool process-lora"), "{message}");
                }
            }
        }
    }

    #[test]
    fn the_mark_makes_it_ours_and_changes_nothing_else() {
        let plain = config(r#", "use_rslora": true, "rank_pattern": {"z": 1, "a": 2}"#);
        let parsed = PeftConfig::parse(plain.as_bytes()).unwrap();
        let dropped = ["lm_head".to_owned()];
        let mark = Mark { producer: "jetspool 1 process-lora", dropped: &dropped };
        let marked = mark.put_into(&parsed, plain.as_bytes());
        assert_eq!(check_origin(&marked, &file([8, 8])), Ok(()));
        assert!(marked.starts_with(plain.trim_end().strip_suffix('}').unwrap().as_bytes()));
        let mut value: Value = serde_json::from_slice(&marked).unwrap();
        assert_eq!(value[KEY]["scaling"], "alpha / sqrt(r)");
        assert_eq!(value[KEY]["dropped"][0], "lm_head");
        value.as_object_mut().unwrap().remove(KEY);
        assert_eq!(value, serde_json::from_str::<Value>(&plain).unwrap());
    }
}
