//! tokenizer.json and tokenizer_config.json for a model that has neither: of the parts that a GGUF file keeps.
//!
//! Every token stands in the vocabulary under its id, those of no use left out, and those with a meaning also among
//! the added ones, so that all ids are the file's.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::error::TextError;
use super::pre_tokenizers::{NAMES, Steps, steps};
use super::score_merges::merges_of_scores;

const METADATA: &str = "metadata";
/// `token_type` of tokens that the model's own code writes, and of those that its maker added to the vocabulary.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;
const NORMAL: i64 = 1;
/// A byte, spelled `<0x0A>`.
const BYTE: i64 = 6;
/// Pairs of bytes, and SentencePiece with byte pairs.
const BYTE_PAIRS: &str = "gpt2";
const PIECES: &str = "llama";
/// What a SentencePiece vocabulary has for a space.
const SPACE: &str = "▁";
/// Tokens of Phi-3 behind which spaces count.
const KEEPS_SPACE: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// A vocabulary as a GGUF file has it.
#[derive(Debug, Clone, Default)]
pub struct VocabularyParts<'a> {
    /// The kind of tokenizer.
    pub model: &'a str,
    pub pre_tokenizer: Option<&'a str>,
    /// By id.
    pub tokens: &'a [&'a str],
    /// `token_type` by id, as many as tokens.
    pub kinds: &'a [i64],
    /// `left right` in order of rank.
    pub merges: &'a [&'a str],
    /// By id, as many as tokens: of SentencePiece.
    pub scores: &'a [f32],
    /// SentencePiece: a text begins with a space, as if one were there. Without a word of it it does.
    pub add_space_prefix: Option<bool>,
    /// Spaces behind tokens of the model's own are none, as in Phi-3's vocabulary.
    pub strips_behind: bool,
    /// bos_token, eos_token, …: names and ids.
    pub named_tokens: &'a [(&'a str, u32)],
    /// add_bos_token, …
    pub flags: &'a [(&'a str, bool)],
    pub chat_template: Option<&'a str>,
}

/// The bytes of both files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerFiles {
    pub tokenizer: Vec<u8>,
    pub config: Vec<u8>,
}

/// Writes both files.
///
/// # Errors
/// [`TextError::Unsupported`] for another kind of tokenizer, or a pre-tokenizer that is not known;
/// [`TextError::Damaged`] for SentencePiece without scores, and tokens that are there twice.
pub fn assemble_tokenizer(parts: &VocabularyParts) -> Result<TokenizerFiles, TextError> {
    let cutting = match parts.model {
        BYTE_PAIRS => of_byte_pairs(parts)?,
        PIECES => of_pieces(parts)?,
        other => return Err(unsupported("tokenizer.ggml.model", other, "gpt2, llama")),
    };
    let vocabulary: BTreeMap<&str, u32> = used(parts).map(|(id, token, _)| (token, id)).collect();
    if let Some((id, token, _)) = used(parts).find(|(id, token, _)| vocabulary[*token] != *id) {
        let why = format!("token {token:.60?} has the ids {id} and {}", vocabulary[token]);
        return Err(TextError::Damaged { file: METADATA, why });
    }
    let rstrip = |token: &str| parts.strips_behind && !KEEPS_SPACE.contains(&token);
    let added: Vec<Value> = used(parts)
        .filter(|(_, token, kind)| [CONTROL, USER_DEFINED].contains(kind) && !token.is_empty())
        .map(|(id, token, kind)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": rstrip(token),
                "normalized": false, "special": kind == CONTROL})
        })
        .collect();
    let Cutting { steps, decoder, merges, unknown, byte_fallback } = cutting;
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": steps.normalizer, "pre_tokenizer": steps.pre_tokenizer,
        "post_processor": null, "decoder": decoder,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": byte_fallback, "byte_fallback": byte_fallback,
            "ignore_merges": steps.ignore_merges, "vocab": vocabulary, "merges": merges,
        },
    });
    Ok(TokenizerFiles { tokenizer: tokenizer.to_string().into_bytes(), config: config(parts) })
}

/// What depends on the kind of tokenizer.
struct Cutting<'a> {
    steps: Steps,
    decoder: Value,
    merges: Value,
    unknown: Option<&'a str>,
    byte_fallback: bool,
}

fn of_byte_pairs<'a>(parts: &VocabularyParts<'a>) -> Result<Cutting<'a>, TextError> {
    let name = parts.pre_tokenizer.unwrap_or("default");
    let steps = steps(name).ok_or_else(|| unsupported("tokenizer.ggml.pre", name, NAMES))?;
    let decoder =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    Ok(Cutting { steps, decoder, merges: json!(parts.merges), unknown: None, byte_fallback: false })
}

/// As the tokenizer.json of Llama 2 and of Gemma has it.
fn of_pieces<'a>(parts: &VocabularyParts<'a>) -> Result<Cutting<'a>, TextError> {
    if parts.scores.len() != parts.tokens.len() {
        let why = format!("{} scores of {} tokens", parts.scores.len(), parts.tokens.len());
        return Err(TextError::Damaged { file: METADATA, why });
    }
    let whole = used(parts).filter(|(_, token, kind)| *kind == NORMAL && !token.is_empty());
    let pieces: Vec<(&str, f32)> = whole.map(|(id, token, _)| (token, parts.scores[id as usize])).collect();
    let replace =
        |found: &str, put: &str| json!({"type": "Replace", "pattern": {"String": found}, "content": put});
    let mut before = vec![replace(" ", SPACE)];
    let mut behind = vec![replace(SPACE, " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if parts.add_space_prefix.unwrap_or(true) {
        before.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        behind.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let steps = Steps {
        normalizer: json!({"type": "Sequence", "normalizers": before}),
        pre_tokenizer: Value::Null,
        ignore_merges: false,
    };
    let unknown = parts.named_tokens.iter().find(|(name, _)| *name == "unk_token");
    Ok(Cutting {
        steps,
        decoder: json!({"type": "Sequence", "decoders": behind}),
        merges: json!(merges_of_scores(&pieces)),
        unknown: unknown.and_then(|(_, id)| parts.tokens.get(*id as usize).copied()),
        byte_fallback: parts.kinds.contains(&BYTE),
    })
}

/// Ids, texts and kinds of the tokens that are of use.
fn used<'a>(parts: &VocabularyParts<'a>) -> impl Iterator<Item = (u32, &'a str, i64)> {
    let all = (0_u32..).zip(parts.tokens.iter().copied().zip(parts.kinds.iter().copied()));
    all.map(|(id, (token, kind))| (id, token, kind)).filter(|(_, _, kind)| *kind != UNUSED)
}

fn unsupported(what: &'static str, found: &str, supported: &'static str) -> TextError {
    TextError::Unsupported { file: METADATA, what, found: found.chars().take(60).collect(), supported }
}

fn config(parts: &VocabularyParts) -> Vec<u8> {
    let mut config = serde_json::Map::new();
    for (name, id) in parts.named_tokens {
        if let Some(token) = parts.tokens.get(*id as usize) {
            config.insert((*name).to_owned(), (*token).into());
        }
    }
    config.extend(parts.flags.iter().map(|(name, flag)| ((*name).to_owned(), (*flag).into())));
    if let Some(template) = parts.chat_template {
        config.insert("chat_template".to_owned(), template.into());
    }
    Value::Object(config).to_string().into_bytes()
}
