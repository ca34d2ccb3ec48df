//! All tokens of a tokenizer: the model's in the table, and the added ones with the ids that the library gives them.

use std::collections::{HashMap, HashSet};

use tokenizers::{AddedToken, NormalizedString, Normalizer, NormalizerWrapper};

use super::added::{AddedPattern, AddedPatterns};
use super::error::TextError;
use super::special::SpecialTokens;
use super::table::TokenTable;

/// Tokens by text and by id.
pub(super) struct Vocabulary {
    pub table: TokenTable,
    ids: HashMap<String, u32>,
    tokens: HashMap<u32, AddedToken>,
    /// In the library's order: special ones first. An id's patterns all follow the flags of its last token.
    searched: Vec<AddedToken>,
    special: HashSet<String>,
}

/// What is looked for in the text as it is, and what in the normalized text.
pub(super) struct PatternPair {
    pub raw: AddedPatterns,
    pub normalized: AddedPatterns,
}

impl Vocabulary {
    /// Adds tokens as the library's `AddedVocabulary` does: their ids are those of the model where it has the text,
    /// else they count on from the model's size, whatever the file says.
    pub fn new(table: TokenTable, added: &[AddedToken]) -> Self {
        let mut searched: Vec<AddedToken> = Vec::new();
        let mut special = HashSet::new();
        let has_text = |token: &&AddedToken| !token.content.is_empty();
        for token in added.iter().filter(has_text).filter(|token| token.special) {
            if special.insert(token.content.clone()) {
                searched.push(token.clone());
            }
        }
        let (mut ids, mut tokens, mut known) = (HashMap::new(), HashMap::new(), HashSet::new());
        let mut next_id = table.n_tokens();
        for token in added.iter().filter(has_text) {
            if !known.insert(token) {
                continue;
            }
            let own_id = || table.view().token_id(&token.content);
            let id = ids.get(&token.content).copied().or_else(own_id).unwrap_or_else(|| {
                next_id = next_id.saturating_add(1);
                next_id - 1
            });
            ids.insert(token.content.clone(), id);
            tokens.insert(id, token.clone());
            if !special.contains(&token.content) {
                searched.push(token.clone());
            }
        }
        Self { table, ids, tokens, searched, special }
    }

    pub fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied().or_else(|| self.table.view().token_id(token))
    }

    pub fn text(&self, id: u32) -> Option<&str> {
        self.tokens.get(&id).map(|token| token.content.as_str()).or_else(|| self.table.view().text(id))
    }

    /// One more than the highest id.
    pub fn size(&self) -> usize {
        let highest = self.ids.values().copied().max().max(self.table.view().highest_id());
        highest.map_or(0, |id| id as usize + 1)
    }

    pub fn special_tokens(&self) -> SpecialTokens {
        SpecialTokens::new(self.special.iter().cloned())
    }

    /// The texts to look for, normalized where a token asks for that.
    ///
    /// # Errors
    /// `Encode` if a text cannot be normalized, `Damaged` for too many.
    pub fn patterns(&self, normalizer: Option<&NormalizerWrapper>) -> Result<PatternPair, TextError> {
        let (mut raw, mut normalized) = (Vec::new(), Vec::new());
        for token in &self.searched {
            let Some(flags) = self.ids.get(&token.content).and_then(|id| self.tokens.get(id)) else {
                continue;
            };
            let mut text = NormalizedString::from(token.content.as_str());
            if let Some(normalizer) = normalizer.filter(|_| token.normalized) {
                let cannot = |error: tokenizers::Error| TextError::Encode { why: error.to_string() };
                normalizer.normalize(&mut text).map_err(cannot)?;
            }
            let pattern = AddedPattern {
                text: text.get().to_owned(),
                id: self.ids[&token.content],
                special: self.special.contains(&flags.content),
                single_word: flags.single_word,
                lstrip: flags.lstrip,
                rstrip: flags.rstrip,
            };
            if token.normalized { normalized.push(pattern) } else { raw.push(pattern) }
        }
        Ok(PatternPair { raw: AddedPatterns::new(raw)?, normalized: AddedPatterns::new(normalized)? })
    }
}
