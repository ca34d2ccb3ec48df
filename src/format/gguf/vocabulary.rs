//! The vocabulary in a GGUF file's metadata: tokens, their kinds, merges, the special ids, the chat template.

use super::metadata::{METADATA, Metadata, missing};
use crate::format::FormatError;

const TOKENS: &str = "tokenizer.ggml.tokens";
/// `token_type` of tokens of the model's own: begin, end, roles.
const CONTROL: i64 = 3;
/// Control tokens that end an answer whether `eos_token_id` names them or not, as in llama.cpp: Llama's and Phi's
/// files name only one of theirs.
const ENDS: [&str; 7] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
];

/// What the metadata says of text.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufVocabulary<'a> {
    /// `tokenizer.ggml.model`: gpt2, llama, …
    pub model: &'a str,
    /// `tokenizer.ggml.pre`
    pub pre_tokenizer: Option<&'a str>,
    /// By id.
    pub tokens: Vec<&'a str>,
    /// `token_type` by id, as many as tokens.
    pub kinds: Vec<i64>,
    /// `left right` in order of rank.
    pub merges: Vec<&'a str>,
    /// By id, as many as tokens, where the file has them.
    pub scores: Vec<f32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    pub padding: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    /// A text begins as if a space were before it.
    pub add_space_prefix: Option<bool>,
    pub chat_template: Option<&'a str>,
    /// Ids that end an answer: sorted, each once.
    pub ends: Vec<u32>,
}

/// Reads the vocabulary; none where the file has no tokens. `n_rows` is the embedding table's.
///
/// # Errors
/// [`FormatError::Key`] for lists that do not fit each other, and ids that are no tokens.
pub fn read_vocabulary<'a>(
    metadata: &Metadata<'a>,
    n_rows: usize,
) -> Result<Option<GgufVocabulary<'a>>, FormatError> {
    let Some(tokens) = metadata.texts(TOKENS)?.map(<[_]>::to_vec) else { return Ok(None) };
    if tokens.len() > n_rows {
        let (key, wanted) = (TOKENS.to_owned(), format!("at most {n_rows}, the rows of token_embd.weight"));
        return Err(FormatError::Key { file: METADATA, key, wanted, found: tokens.len().to_string() });
    }
    let kinds = match metadata.wholes("tokenizer.ggml.token_type")? {
        Some(kinds) => kinds.to_vec(),
        None => vec![1; tokens.len()],
    };
    if kinds.len() != tokens.len() {
        let (key, wanted) = ("tokenizer.ggml.token_type".to_owned(), format!("{}, as tokens", tokens.len()));
        return Err(FormatError::Key { file: METADATA, key, wanted, found: kinds.len().to_string() });
    }
    let scores = metadata.floats("tokenizer.ggml.scores")?.unwrap_or_default().to_vec();
    if !scores.is_empty() && scores.len() != tokens.len() {
        let (key, wanted) = ("tokenizer.ggml.scores".to_owned(), format!("{}, as tokens", tokens.len()));
        return Err(FormatError::Key { file: METADATA, key, wanted, found: scores.len().to_string() });
    }
    let id = |name: &str| {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let id = metadata.token_id(&key)?;
        match id.filter(|id| *id as usize >= tokens.len()) {
            Some(found) => {
                let wanted = format!("below the {} tokens", tokens.len());
                Err(FormatError::Key { file: METADATA, key, wanted, found: found.to_string() })
            }
            None => Ok(id),
        }
    };
    let mut ends: Vec<u32> = [id("eos")?, id("eot")?, id("eom")?].into_iter().flatten().collect();
    let by_text = (0_u32..).zip(tokens.iter().zip(&kinds));
    let by_text = by_text.filter(|(_, (token, kind))| **kind == CONTROL && ENDS.contains(token));
    ends.extend(by_text.map(|(id, _)| id));
    ends.sort_unstable();
    ends.dedup();
    let model = metadata.text("tokenizer.ggml.model")?.ok_or_else(|| missing("tokenizer.ggml.model"))?;
    Ok(Some(GgufVocabulary {
        model,
        pre_tokenizer: metadata.text("tokenizer.ggml.pre")?,
        merges: metadata.texts("tokenizer.ggml.merges")?.unwrap_or_default().to_vec(),
        scores,
        bos: id("bos")?,
        eos: id("eos")?,
        unknown: id("unknown")?,
        padding: id("padding")?,
        add_bos: metadata.flag("tokenizer.ggml.add_bos_token")?,
        add_eos: metadata.flag("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: metadata.flag("tokenizer.ggml.add_space_prefix")?,
        chat_template: metadata.text("tokenizer.chat_template")?,
        tokens,
        kinds,
        ends,
    }))
}
