//! How a vocabulary's pre-tokenizer, which GGUF files have by name, cuts a text into words: as steps of tokenizer.json.
//!
//! Source: the tokenizer.json of the models, and `llama-vocab.cpp` of llama.cpp, which has the names.

use serde_json::{Value, json};

/// What stands in tokenizer.json besides the vocabulary.
pub(super) struct Steps {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    /// A word that is a token is that token.
    pub ignore_merges: bool,
}

/// The names that are known, for errors.
pub(super) const NAMES: &str = "llama-bpe, llama3, llama-v3, dbrx, smaug-bpe, qwen2, deepseek-r1-qwen, smollm, gpt-2, \
                                gpt-4o, tekken, default";

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// What llama.cpp cuts by, one after the other, where a file names nothing better.
const DEFAULT: [&str; 4] = [
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
];

/// The steps of a name of `tokenizer.ggml.pre`.
pub(super) fn steps(name: &str) -> Option<Steps> {
    let plain = |steps: Vec<Value>| Steps {
        normalizer: Value::Null,
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
        ignore_merges: false,
    };
    let cut = |pattern: &str| plain(vec![split(pattern), bytes(false)]);
    Some(match name {
        "llama-bpe" | "llama3" | "llama-v3" => Steps { ignore_merges: true, ..cut(LLAMA3) },
        "dbrx" | "smaug-bpe" => cut(LLAMA3),
        "qwen2" => Steps { normalizer: json!({"type": "NFC"}), ..cut(QWEN2) },
        "deepseek-r1-qwen" => cut(QWEN2),
        "smollm" => plain(vec![json!({"type": "Digits", "individual_digits": true}), bytes(true)]),
        "gpt-2" => plain(vec![bytes(true)]),
        "gpt-4o" => cut(GPT4O),
        "tekken" => Steps { ignore_merges: true, ..cut(TEKKEN) },
        "default" => plain(DEFAULT.into_iter().map(split).chain([bytes(false)]).collect()),
        _ => return None,
    })
}

fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

/// Bytes as letters; with GPT-2's own way to cut words first.
fn bytes(use_regex: impl Into<Value>) -> Value {
    let use_regex = use_regex.into();
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}
