//! Which module is quantized how: the first rule that names it.

use fancy_regex::Regex;

use super::algorithm::Algorithm;
use crate::numbers::Precision;

/// The algorithm of each module.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantization {
    /// The first that fits counts.
    pub(super) rules: Vec<Rule>,
    /// Of modules that no rule names; none: they are not quantized.
    pub(super) default: Option<Algorithm>,
    /// What the key-value cache was meant to be stored as, such as `FP8`.
    pub cache: Option<String>,
    /// What inputs of layers were meant to be rounded to, such as `8 bits int dynamic`.
    pub activations: Option<String>,
}

/// What some modules have; none: they are not quantized.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rule {
    pub names: Names,
    pub algorithm: Option<Algorithm>,
}

/// Which modules a rule is for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Names {
    /// One path.
    Path(String),
    /// Paths of modules or of what holds them; `*` stands for anything.
    Pattern(String),
    /// Any part of the path.
    Part(String),
    /// From the start of the path.
    Expression(Expression),
    /// Matrices that are multiplied with: all but the embedding table.
    Linear,
}

/// A regular expression; the usual one is tried from the start of a text, as `re.match` of Python does.
#[derive(Debug, Clone)]
pub(super) struct Expression(Regex);

impl Expression {
    /// None for what is no regular expression.
    pub fn new(source: &str) -> Option<Self> {
        Regex::new(&format!("^(?:{source})")).ok().map(Self)
    }

    /// The same, tried from every place, as `re.search` does.
    pub fn anywhere(source: &str) -> Option<Self> {
        Regex::new(source).ok().map(Self)
    }

    /// One that would take too long fits nothing.
    fn fits(&self, text: &str) -> bool {
        self.0.is_match(text).unwrap_or(false)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Names {
    fn fits(&self, module: &str) -> bool {
        match self {
            Names::Path(path) => path == module,
            Names::Pattern(pattern) => covers(pattern, module),
            Names::Part(part) => module.contains(part.as_str()),
            Names::Expression(expression) => expression.fits(module),
            Names::Linear => !module.ends_with("embed_tokens"),
        }
    }
}

impl Quantization {
    /// One algorithm for all modules that no rule names.
    pub(super) fn of(default: Option<Algorithm>, rules: Vec<Rule>) -> Self {
        Self { rules, default, cache: None, activations: None }
    }

    /// The algorithm of a module such as `model.layers.0.mlp.up_proj`; none where it is not quantized.
    pub fn algorithm(&self, module: &str) -> Option<Algorithm> {
        let rule = self.rules.iter().find(|rule| rule.names.fits(module));
        rule.map_or(self.default, |rule| rule.algorithm)
    }

    fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.rules.iter().filter_map(|rule| rule.algorithm).chain(self.default)
    }

    /// Whether all quantized modules are codes of sixteen numbers.
    pub fn has_levels(&self) -> bool {
        self.algorithms().all(|algorithm| matches!(algorithm, Algorithm::Levels(_)))
    }

    /// The precision that all quantized modules have, if it is one that `build` names.
    pub fn precision(&self) -> Option<Precision> {
        let mut all = self.algorithms().map(Algorithm::precision);
        let first = all.next()??;
        all.all(|precision| precision == Some(first)).then_some(first)
    }

    /// `int4_awq`, or all of several.
    pub fn name(&self) -> String {
        let mut names: Vec<&str> = self.algorithms().map(Algorithm::name).collect();
        names.sort_unstable();
        names.dedup();
        names.join(" and ")
    }
}

/// Whether a pattern names the module or something that holds it.
fn covers(pattern: &str, module: &str) -> bool {
    let holders = module.match_indices('.').map(|(at, _)| &module[..at]);
    holders.chain([module]).any(|path| matches(pattern, path))
}

/// `*` stands for any text. Each star takes as little as it can; what lies before it need not be tried again.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}
