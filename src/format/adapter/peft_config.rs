//! PEFT's `adapter_config.json`: rank and scale per module, and what else the adapter does.
//!
//! Source: peft 0.18, `LoraConfig`, `LoraLayer.update_layer` and `utils.other.get_pattern_key`.

use std::fmt;

use fancy_regex::{Regex, RegexBuilder};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::format::FormatError;
use crate::format::json::{Object, parse_object, shown};

const FILE: &str = "adapter_config.json";
/// Largest compiled regular expression, in bytes, and how many of them one file may have; plain names, of
/// which some tools write one per module, are matched without and not counted.
const MAX_PATTERN_BYTES: usize = 1 << 17;
const MAX_PATTERNS: usize = 64;
/// Steps that a pattern may take on a name before it counts as not matching anything usable.
const MAX_BACKTRACKS: usize = 100_000;

/// A LoRA adapter's configuration.
#[derive(Debug, Clone)]
pub struct PeftConfig {
    /// `LORA`, or another method's name.
    pub peft_type: String,
    pub rank: usize,
    pub alpha: f64,
    pub use_rslora: bool,
    /// `q_proj`, …; empty when `target_modules` is a pattern or absent.
    pub target_modules: Vec<String>,
    /// Names, or ends of names, of modules that are trained whole as copies of their own.
    pub modules_to_save: Vec<String>,
    /// `none`, `all` or `lora_only`: which biases were trained.
    pub bias: String,
    pub use_dora: bool,
    /// Whether a module trained whole that is tied to another one is that one too.
    pub ensure_weight_tying: bool,
    /// What a pair of low-rank matrices cannot say.
    pub obstacles: Vec<Obstacle>,
    ranks: Vec<(ModulePattern, usize)>,
    alphas: Vec<(ModulePattern, f64)>,
}

/// A key of the file with a value beyond plain LoRA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    pub key: &'static str,
    /// The value, shortened.
    pub found: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} is {}", self.key, self.found)
    }
}

/// A key of `rank_pattern` or `alpha_pattern`: a regular expression for a whole module path or for what
/// follows one of its dots.
#[derive(Debug, Clone)]
enum ModulePattern {
    /// Letters, digits, `_`, `-`; a dot is any character.
    Plain(String),
    /// The same after `^`: the whole path.
    Whole(String),
    Regex(Box<Regex>),
}

/// A JSON object in the file's order, for PEFT takes the first key that matches.
struct Ordered<T>(Vec<(String, T)>);

#[derive(serde::Deserialize)]
struct PatternsWire {
    rank_pattern: Option<Ordered<usize>>,
    alpha_pattern: Option<Ordered<f64>>,
}

impl PeftConfig {
    /// Reads the configuration.
    ///
    /// # Errors
    /// [`FormatError`] when it is not JSON, a rank is 0 or too large, or a pattern is no regular expression.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let map = parse_object(FILE, bytes)?;
        let top = Object { file: FILE, path: "", map: &map };
        let peft_type = top.optional_text("peft_type")?.unwrap_or("LORA").to_owned();
        if peft_type != "LORA" {
            return Err(FormatError::Unsupported {
                what: "peft_type",
                found: peft_type,
                supported: "LORA".to_owned(),
            });
        }
        let damaged = |error: serde_json::Error| FormatError::Damaged { what: FILE, why: error.to_string() };
        let patterns: PatternsWire = serde_json::from_slice(bytes).map_err(damaged)?;
        let config = Self {
            peft_type,
            rank: top.size("r")?,
            alpha: top.number("lora_alpha")?,
            use_rslora: top.optional_flag("use_rslora")?.unwrap_or(false),
            target_modules: strings(top.get("target_modules")),
            modules_to_save: strings(top.get("modules_to_save")),
            bias: top.optional_text("bias")?.unwrap_or("none").to_owned(),
            use_dora: top.optional_flag("use_dora")?.unwrap_or(false),
            ensure_weight_tying: top.optional_flag("ensure_weight_tying")?.unwrap_or(false),
            obstacles: obstacles(top)?,
            ranks: compile("rank_pattern", patterns.rank_pattern)?,
            alphas: compile("alpha_pattern", patterns.alpha_pattern)?,
        };
        for rank in config.ranks.iter().map(|(_, rank)| *rank).chain([config.rank]) {
            if !(1..=1 << 16).contains(&rank) {
                let wanted = "1 to 65536".to_owned();
                let found = rank.to_string();
                return Err(FormatError::Key { file: FILE, key: "r".to_owned(), wanted, found });
            }
        }
        Ok(config)
    }

    pub fn has_rank_pattern(&self) -> bool {
        !self.ranks.is_empty()
    }

    pub fn has_alpha_pattern(&self) -> bool {
        !self.alphas.is_empty()
    }

    /// The rank of a module, by its path in the base model (`model.layers.0.self_attn.q_proj`).
    pub fn rank_of(&self, module: &str) -> usize {
        first_match(&self.ranks, module).unwrap_or(self.rank)
    }

    /// What the product of a module's matrices is multiplied with: `alpha / r`, or `alpha / sqrt(r)`.
    pub fn scale_of(&self, module: &str) -> f64 {
        let rank = self.rank_of(module) as f64;
        let alpha = first_match(&self.alphas, module).unwrap_or(self.alpha);
        if self.use_rslora { alpha / rank.sqrt() } else { alpha / rank }
    }
}

fn first_match<T: Copy>(patterns: &[(ModulePattern, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.matches(module)).map(|(_, value)| *value)
}

impl ModulePattern {
    fn compile(text: &str) -> Result<Self, String> {
        let is_plain = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
        };
        match text.strip_prefix('^') {
            _ if is_plain(text) => Ok(Self::Plain(text.to_owned())),
            Some(rest) if is_plain(rest) => Ok(Self::Whole(rest.to_owned())),
            _ => RegexBuilder::new(&format!(r"^(.*\.)?({text})$"))
                .delegate_size_limit(MAX_PATTERN_BYTES)
                .backtrack_limit(MAX_BACKTRACKS)
                .build()
                .map(|regex| Self::Regex(Box::new(regex)))
                .map_err(|error| error.to_string()),
        }
    }

    fn matches(&self, module: &str) -> bool {
        let same = |text: &str, pattern: &str| {
            let pairs = || text.bytes().zip(pattern.bytes());
            text.len() == pattern.len() && pairs().all(|(byte, wanted)| wanted == b'.' || byte == wanted)
        };
        match self {
            Self::Plain(pattern) => match module.len().checked_sub(pattern.len()) {
                None => false,
                Some(start) => {
                    let starts_a_part = start == 0 || module.as_bytes()[start - 1] == b'.';
                    starts_a_part && module.get(start..).is_some_and(|end| same(end, pattern))
                }
            },
            Self::Whole(pattern) => same(module, pattern),
            Self::Regex(regex) => regex.is_match(module).unwrap_or(false),
        }
    }
}

fn compile<T>(
    key: &'static str,
    pattern: Option<Ordered<T>>,
) -> Result<Vec<(ModulePattern, T)>, FormatError> {
    let mut compiled = Vec::new();
    let mut n_regexes = 0;
    for (text, value) in pattern.map_or_else(Vec::new, |pattern| pattern.0) {
        let wrong = |wanted: &str, found: String| FormatError::Key {
            file: FILE,
            key: format!("{key}.{text}"),
            wanted: wanted.to_owned(),
            found,
        };
        let one = ModulePattern::compile(&text)
            .map_err(|error| wrong("a module name or a regular expression", error))?;
        n_regexes += usize::from(matches!(one, ModulePattern::Regex(_)));
        if n_regexes > MAX_PATTERNS {
            let wanted = format!("at most {MAX_PATTERNS} regular expressions; plain names are not limited");
            return Err(wrong(&wanted, "one more".to_owned()));
        }
        compiled.push((one, value));
    }
    Ok(compiled)
}

/// Keys whose effect does not fit into a pair of matrices on an unchanged base model.
fn obstacles(top: Object) -> Result<Vec<Obstacle>, FormatError> {
    let mut found = Vec::new();
    let mut add = |key: &'static str, value: &Value| found.push(Obstacle { key, found: shown(value) });
    for key in ["use_dora", "lora_bias", "use_qalora"] {
        if top.optional_flag(key)? == Some(true) {
            add(key, &top.map[key]);
        }
    }
    let lists = [
        "modules_to_save",
        "trainable_token_indices",
        "layer_replication",
        "alora_invocation_tokens",
        "target_parameters",
        "arrow_config",
        // Of peft after 0.18.
        "use_bdlora",
        "kasa_config",
        "monteclora_config",
    ];
    for key in lists {
        if let Some(value) = top.get(key)
            && !is_empty(value)
        {
            add(key, value);
        }
    }
    // These change the base weights when the adapter is loaded.
    if let Some(Value::String(init)) = top.get("init_lora_weights") {
        let init = init.to_lowercase();
        if ["pissa", "corda", "olora", "loftq", "lora_ga"].iter().any(|method| init.starts_with(method)) {
            add("init_lora_weights", &top.map["init_lora_weights"]);
        }
    }
    Ok(found)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(flag) => !flag,
        _ => false,
    }
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let values = value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    values.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Ordered<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Ordered<T>, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }

        deserializer.deserialize_map(InOrder(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &str) -> Result<PeftConfig, FormatError> {
        PeftConfig::parse(format!(r#"{{"peft_type": "LORA", "r": 8, "lora_alpha": 16{more}}}"#).as_bytes())
    }

    #[test]
    fn patterns_choose_rank_and_alpha() {
        let config = parse(
            r#", "rank_pattern": {"^model.layers.0.up": 3, "1.q_proj": 2, "q_proj": 4, "layers\\.\\d+\\.down": 16},
            "alpha_pattern": {"k_proj": 4.0, "(?<!x)gate": 8}"#,
        )
        .unwrap();
        struct Case {
            module: &'static str,
            rank: usize,
            scale: f64,
        }
        let cases = [
            Case { module: "model.layers.0.up", rank: 3, scale: 16.0 / 3.0 },
            Case { module: "a.model.layers.0.up", rank: 8, scale: 2.0 },
            Case { module: "model.layers.1.q_proj", rank: 2, scale: 8.0 },
            Case { module: "model.layers.2.q_proj", rank: 4, scale: 4.0 },
            Case { module: "model.layers.2.xq_proj", rank: 8, scale: 2.0 },
            Case { module: "q_proj", rank: 4, scale: 4.0 },
            Case { module: "model.layers.12.down", rank: 16, scale: 1.0 },
            Case { module: "model.layers.2.k_proj", rank: 8, scale: 0.5 },
            Case { module: "model.layers.2.gate", rank: 8, scale: 1.0 },
            Case { module: "model.layersx0.up", rank: 3, scale: 16.0 / 3.0 },
            Case { module: "layers.1xq_proj", rank: 2, scale: 8.0 },
            Case { module: "proj", rank: 8, scale: 2.0 },
        ];
        for case in cases {
            let found = (config.rank_of(case.module), config.scale_of(case.module));
            assert_eq!(found, (case.rank, case.scale), "{}", case.module);
        }
        assert_eq!(parse(r#", "use_rslora": true"#).unwrap().scale_of("x"), 16.0 / 8.0_f64.sqrt());
    }

    #[test]
    fn names_obstacles() {
        let cases = [
            (r#""use_dora": true"#, "use_dora"),
            (r#""modules_to_save": ["lm_head"]"#, "lm_head"),
            (r#""init_lora_weights": "pissa_niter_4""#, "init_lora_weights"),
            (r#""init_lora_weights": "lora_ga""#, "lora_ga"),
            (r#""use_bdlora": {"n": 2}"#, "use_bdlora"),
            (r#""kasa_config": {"beta": 1}"#, "kasa_config"),
            (r#""alora_invocation_tokens": [1]"#, "alora_invocation_tokens"),
        ];
        for (text, name) in cases {
            let config = parse(&format!(", {text}")).unwrap();
            let named = config.obstacles.iter().any(|obstacle| obstacle.to_string().contains(name));
            assert!(named, "{text}: {:?}", config.obstacles);
        }
        let harmless = r#", "use_dora": false, "modules_to_save": null, "bias": "lora_only", "loftq_config": {},
            "init_lora_weights": true, "layer_replication": [], "rank_pattern": null"#;
        assert!(parse(harmless).unwrap().obstacles.is_empty());
        for bad in
            [r#", "rank_pattern": {"(": 3}"#, r#", "rank_pattern": {"q": 0}"#, r#", "rank_pattern": [1]"#]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let ia3 = PeftConfig::parse(br#"{"peft_type": "IA3"}"#).unwrap_err().to_string();
        assert!(ia3.contains("peft_type") && ia3.contains("IA3"), "{ia3}");
    }
}
