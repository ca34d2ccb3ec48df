//! The checkpoint's tokenizer: ids equal to the tokenizers library, decoding of our own.

use std::collections::HashMap;

use tokenizers::pre_tokenizer::Split;
use tokenizers::tokenizer::normalizer::Range;
use tokenizers::{
    Model, ModelWrapper, NormalizedString, Normalizer, OffsetType, PreTokenizedString, PreTokenizer, Token,
};

use super::added::{AddedPattern, AddedPatterns, slices};
use super::answer::AnswerDecoder;
use super::decoding::{Decoding, Place};
use super::error::TextError;
use super::prompt::Prompt;
use super::special::SpecialTokens;
use super::wire::{TokenizerWire, present};

/// Longer runs of white space than 1,000,000 characters make the library's patterns give up, and the ids go wrong in silence.
const MAX_SPACE_BYTES: usize = 900_000;

/// Text to ids and ids to text. Shared by reference between threads.
pub struct Tokenizer {
    library: tokenizers::Tokenizer,
    decoding: Decoding,
    special: SpecialTokens,
    /// Added tokens looked for in the text as it is.
    raw_patterns: AddedPatterns,
    /// Added tokens looked for in the normalized text.
    normalized_patterns: AddedPatterns,
    vocab_size: usize,
}

impl Tokenizer {
    /// Reads the bytes of a tokenizer.json (a byte-pair model of any kind).
    ///
    /// # Errors
    /// `Damaged` or `Unsupported`, never a panic.
    pub fn parse(tokenizer_json: &[u8]) -> Result<Self, TextError> {
        let mut wire = TokenizerWire::parse(tokenizer_json)?;
        let decoding = Decoding::parse(present(&wire.decoder))?;
        let highest_own_id = wire.highest_id();
        let mut library = tokenizers::Tokenizer::new(ModelWrapper::BPE(wire.take_model()?));
        library.with_normalizer(wire.normalizer()?);
        library.with_pre_tokenizer(wire.pre_tokenizer()?);
        library.add_tokens(&wire.added_tokens());
        let added = added_patterns(&library)?;
        let special = added.iter().filter(|(_, pattern)| pattern.special).map(|(content, _)| content.clone());
        let special = SpecialTokens::new(special);
        let is_normalized =
            |id: &u32| library.get_added_vocabulary().get_added_tokens_decoder()[id].normalized;
        let (normalized, raw): (Vec<_>, Vec<_>) =
            added.into_values().partition(|pattern| is_normalized(&pattern.id));
        let highest_id =
            library.get_added_vocabulary().get_vocab().values().copied().max().max(highest_own_id);
        Ok(Self {
            decoding,
            special,
            raw_patterns: AddedPatterns::new(raw),
            normalized_patterns: AddedPatterns::new(normalized),
            vocab_size: highest_id.map_or(0, |id| id as usize + 1),
            library,
        })
    }

    /// Ids of a prompt, without any that a post-processor would put in front: special tokens of the template are ids,
    /// those spelled in a message's content are ordinary text.
    ///
    /// # Errors
    /// `Encode` if the tokenizer cannot handle the text.
    pub fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, TextError> {
        let runs = prompt.text().split(|character: char| !character.is_whitespace());
        if runs.map(str::len).max().unwrap_or(0) > MAX_SPACE_BYTES {
            let why = format!("more than {MAX_SPACE_BYTES} bytes of white space in a row");
            return Err(TextError::Encode { why });
        }
        let encoding = if prompt.is_trusted() {
            self.library.encode_fast(prompt.text(), false)
        } else {
            self.encode_protected(prompt)
        };
        encoding
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| TextError::Encode { why: error.to_string() })
    }

    /// The id of a token by its text in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.library.token_to_id(token)
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// The bytes that a token stands for inside a text; a special token gives its name, an unknown id nothing.
    /// They may be a part of a UTF-8 character.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        match self.library.id_to_token(id) {
            Some(token) if self.special.contains(&token) => token.into_bytes(),
            Some(token) => self.decoding.bytes(&token, Place::Later),
            None => Vec::new(),
        }
    }

    /// The text of an answer: without special tokens and unknown ids, whole characters only.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut answer = AnswerDecoder::new(self);
        for &id in ids {
            answer.push(self, id);
        }
        answer.into_text()
    }

    pub(super) fn decoding(&self) -> &Decoding {
        &self.decoding
    }

    /// The token of an id that has text.
    pub(super) fn text_token(&self, id: u32) -> Option<String> {
        self.library.id_to_token(id).filter(|token| !self.special.contains(token))
    }

    /// The library's encoding, step by step, with our search for added tokens.
    fn encode_protected(&self, prompt: &Prompt) -> tokenizers::Result<tokenizers::Encoding> {
        let mut pieces = PreTokenizedString::from(prompt.text());
        pieces.split(|_, text: NormalizedString| {
            let splits =
                self.raw_patterns.split(text.get(), |range| prompt.breaks_token(range.start, range.end));
            Ok(slices(&text, splits).into_iter().map(into_split))
        })?;
        pieces.split(|_, mut text: NormalizedString| {
            if let Some(normalizer) = self.library.get_normalizer() {
                normalizer.normalize(&mut text)?;
            }
            let splits = self.normalized_patterns.split(text.get(), |range| {
                let (offset, _) = text.offsets_original();
                let original = text.convert_offsets(Range::Normalized(range)).unwrap_or_default();
                prompt.breaks_token(offset + original.start, offset + original.end)
            });
            Ok(slices(&text, splits).into_iter().map(into_split))
        })?;
        if let Some(pre_tokenizer) = self.library.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| self.tokenize_piece(piece.get()))?;
        pieces.into_encoding(None, 0, OffsetType::None)
    }

    /// Tokens of a piece that no added token is in. Where the model has a special token's text in its vocabulary, a piece
    /// that spells it is tokenized as two.
    fn tokenize_piece(&self, piece: &str) -> tokenizers::Result<Vec<Token>> {
        let model = self.library.get_model();
        let tokens = model.tokenize(piece)?;
        let spells_special = tokens.len() == 1 && tokens[0].value == piece && self.special.contains(piece);
        let Some((second, _)) = piece.char_indices().nth(1).filter(|_| spells_special) else {
            return Ok(tokens);
        };
        let mut tokens = model.tokenize(&piece[..second])?;
        tokens.extend(model.tokenize(&piece[second..])?);
        Ok(tokens)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size).finish_non_exhaustive()
    }
}

fn into_split((id, text): (Option<u32>, NormalizedString)) -> Split {
    let tokens = id.map(|id| {
        let value = text.get().to_owned();
        let end = value.len();
        vec![Token::new(id, value, (0, end))]
    });
    Split::from((text, tokens))
}

/// Added tokens by content, each with the pattern that finds it: its text, normalized if the token asks for that.
fn added_patterns(library: &tokenizers::Tokenizer) -> Result<HashMap<String, AddedPattern>, TextError> {
    let vocabulary = library.get_added_vocabulary();
    let mut patterns = HashMap::new();
    for (&id, token) in vocabulary.get_added_tokens_decoder() {
        let mut text = NormalizedString::from(token.content.as_str());
        if let Some(normalizer) = library.get_normalizer().filter(|_| token.normalized) {
            normalizer.normalize(&mut text).map_err(|error| TextError::Encode { why: error.to_string() })?;
        }
        let pattern = AddedPattern {
            text: text.get().to_owned(),
            id,
            special: vocabulary.is_special_token(&token.content),
            single_word: token.single_word,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
        };
        patterns.insert(token.content.clone(), pattern);
    }
    Ok(patterns)
}
