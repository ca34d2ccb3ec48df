//! tokenizer.json and tokenizer_config.json for a model that has neither: of the parts that a GGUF file keeps.
//!
//! Every token stands in the vocabulary under its id, those of no use left out, and those with a meaning also among
//! the added ones, so that all ids are the file's.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::error::TextError;
use super::pre_tokenizers::{NAMES, steps};

const METADATA: &str = "metadata";
/// `token_type` of tokens that the model's own code writes, and of those that its maker added to the vocabulary.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;

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
/// [`TextError::Unsupported`] for another kind of tokenizer, or a pre-tokenizer that is not known.
pub fn assemble_tokenizer(parts: &VocabularyParts) -> Result<TokenizerFiles, TextError> {
    let unsupported = |what: &'static str, found: &str, supported: &'static str| TextError::Unsupported {
        file: METADATA,
        what,
        found: found.chars().take(60).collect(),
        supported,
    };
    if parts.model != "gpt2" {
        return Err(unsupported("tokenizer.ggml.model", parts.model, "gpt2"));
    }
    let name = parts.pre_tokenizer.unwrap_or("default");
    let steps = steps(name).ok_or_else(|| unsupported("tokenizer.ggml.pre", name, NAMES))?;
    let used =
        || (0_u32..).zip(parts.tokens.iter().zip(parts.kinds)).filter(|(_, (_, kind))| **kind != UNUSED);
    let vocabulary: BTreeMap<&str, u32> = used().map(|(id, (token, _))| (*token, id)).collect();
    if let Some((id, (token, _))) = used().find(|(id, (token, _))| vocabulary[**token] != *id) {
        let why = format!("token {token:.60?} has the ids {id} and {}", vocabulary[*token]);
        return Err(TextError::Damaged { file: METADATA, why });
    }
    let added: Vec<Value> = used()
        .filter(|(_, (token, kind))| [CONTROL, USER_DEFINED].contains(kind) && !token.is_empty())
        .map(|(id, (token, kind))| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind == CONTROL})
        })
        .collect();
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": steps.normalizer, "pre_tokenizer": steps.pre_tokenizer,
        "post_processor": null, "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": steps.ignore_merges, "vocab": vocabulary, "merges": parts.merges,
        },
    });
    Ok(TokenizerFiles { tokenizer: tokenizer.to_string().into_bytes(), config: config(parts) })
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
