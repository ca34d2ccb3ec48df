//! What a quantized checkpoint says of itself: `hf_quant_config.json` and `quantization_config` in config.json.
//!
//! Source: what ModelOpt's unified export writes, in both spellings.

use serde_json::{Map, Value, json};

use super::method::Method;

/// Who is quantized how.
pub struct Described {
    /// Modules with their method.
    pub quantized: Vec<(String, Method)>,
    /// Linear modules and the embedding that are not, sorted.
    pub excluded: Vec<String>,
    pub has_fp8_cache: bool,
}

impl Described {
    /// `hf_quant_config.json`.
    pub fn sidecar(&self) -> Value {
        json!({ "producer": producer(), "quantization": self.quantization() })
    }

    fn quantization(&self) -> Map<String, Value> {
        let mut quantization = match self.only_method() {
            Some(method) => {
                let mut about = of_module(method);
                about.insert("exclude_modules".into(), json!(self.excluded));
                about
            }
            None => {
                let layers: Map<String, Value> = self
                    .quantized
                    .iter()
                    .map(|(name, method)| (name.clone(), of_module(*method).into()))
                    .collect();
                let mixed = json!({ "quant_algo": "MIXED_PRECISION", "quantized_layers": layers });
                mixed.as_object().cloned().unwrap_or_default()
            }
        };
        let cache = if self.has_fp8_cache { json!("FP8") } else { Value::Null };
        quantization.insert("kv_cache_quant_algo".into(), cache);
        quantization
    }

    /// `quantization_config` of config.json.
    pub fn embedded(&self) -> Value {
        let mut config = Map::new();
        let mut groups: Vec<(Method, Vec<&str>)> = Vec::new();
        for (name, method) in &self.quantized {
            match groups.iter_mut().find(|(known, _)| known == method) {
                Some((_, names)) => names.push(name),
                None => groups.push((*method, vec![name])),
            }
        }
        let only = self.only_method();
        let groups = groups.into_iter().enumerate().map(|(index, (method, names))| {
            let mut group = group_of(method);
            group.insert("targets".into(), if only.is_some() { json!(["Linear"]) } else { json!(names) });
            (format!("group_{index}"), group.into())
        });
        config.insert("config_groups".into(), Value::Object(groups.collect()));
        config.insert("ignore".into(), json!(self.excluded));
        let algorithm = only.map_or("MIXED_PRECISION", Method::algorithm);
        config.insert("quant_algo".into(), json!(algorithm));
        if only.is_none() {
            let layers: Map<String, Value> = self
                .quantized
                .iter()
                .map(|(name, method)| (name.clone(), of_module(*method).into()))
                .collect();
            config.insert("quantized_layers".into(), layers.into());
        }
        if self.has_fp8_cache {
            config.insert(
                "kv_cache_scheme".into(),
                json!({ "dynamic": false, "num_bits": 8, "type": "float" }),
            );
        }
        config.insert("producer".into(), producer());
        config.insert("quant_method".into(), json!("modelopt"));
        config.into()
    }

    fn only_method(&self) -> Option<Method> {
        let (_, first) = self.quantized.first()?;
        self.quantized.iter().all(|(_, method)| method == first).then_some(*first)
    }
}

fn producer() -> Value {
    json!({ "name": "jetspool", "version": env!("CARGO_PKG_VERSION") })
}

fn of_module(method: Method) -> Map<String, Value> {
    let mut about = Map::new();
    about.insert("quant_algo".into(), json!(method.algorithm()));
    if let Some(block) = method.block() {
        about.insert("group_size".into(), json!(block));
    }
    if method.is_int4_awq() {
        about.insert("has_zero_point".into(), json!(false));
        about.insert("pre_quant_scale".into(), json!(true));
    }
    about
}

fn group_of(method: Method) -> Map<String, Value> {
    let (n_bits, kind) = match method {
        Method::Fp8 | Method::Mxfp8 => (8, "float"),
        Method::Nvfp4 => (4, "float"),
        Method::Int8Sq => (8, "int"),
        Method::Int4Awq { .. } => (4, "int"),
    };
    let mut numbers = Map::new();
    numbers.insert("dynamic".into(), json!(false));
    numbers.insert("num_bits".into(), json!(n_bits));
    numbers.insert("type".into(), json!(kind));
    if let Some(block) = method.block() {
        numbers.insert("group_size".into(), json!(block));
    }
    let mut group = Map::new();
    if !method.is_int4_awq() {
        group.insert("input_activations".into(), numbers.clone().into());
    }
    if method == Method::Int8Sq {
        numbers.insert("strategy".into(), json!("channel"));
    }
    group.insert("weights".into(), numbers.into());
    group
}
