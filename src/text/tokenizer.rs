//! The checkpoint's tokenizer: ids equal to the tokenizers library, over a table that is mapped.
//!
//! The library normalizes and cuts text into pieces; vocabulary, added tokens, merges and decoding are ours.

use std::sync::{Arc, OnceLock};

use tokenizers::pre_tokenizer::Split;
use tokenizers::tokenizer::normalizer::Range;
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, PreTokenizerWrapper, Token,
};

use super::added::{AddedPatterns, Foreign, slices};
use super::bound::{Bounded, ByteBound};
use super::bpe::{Bpe, PieceEncoder};
use super::compile::compile;
use super::decoding::{Decoding, Place};
use super::error::TextError;
use super::prompt::Prompt;
use super::special::SpecialTokens;
use super::table::{SharedBytes, TableSource, TokenTable, wrong};
use super::tokenizer_json::{PartsWire, present};
use super::vocabulary::{PatternPair, Vocabulary};

/// Runs of white space of 1,000,000 characters make the library's patterns give up: ids go wrong in silence.
const MAX_SPACE_BYTES: usize = 900_000;

/// Text to ids and ids to text. Shared by reference between threads.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    bpe: Bpe,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    decoding: Decoding,
    special: SpecialTokens,
    /// Added tokens looked for in the text as it is.
    raw_patterns: AddedPatterns,
    /// Added tokens looked for in the normalized text.
    normalized_patterns: AddedPatterns,
    vocab_size: usize,
    /// Found when it is first asked for: it takes a look at the whole vocabulary.
    bound: OnceLock<Option<ByteBound>>,
}

impl Tokenizer {
    /// Compiles the bytes of a tokenizer.json (a byte-pair model of any kind) in memory.
    ///
    /// # Errors
    /// `Damaged` or `Unsupported`, never a panic.
    pub fn parse(tokenizer_json: &[u8]) -> Result<Self, TextError> {
        Self::open(Arc::new(compile(tokenizer_json)?))
    }

    /// The bytes of a table, for `open`: the same for the same tokenizer.json.
    ///
    /// # Errors
    /// As `parse`: what compiles can be opened.
    pub fn compile(tokenizer_json: &[u8]) -> Result<Arc<Vec<u8>>, TextError> {
        let table = Arc::new(compile(tokenizer_json)?);
        Self::open(Arc::clone(&table) as SharedBytes)?;
        Ok(table)
    }

    /// Opens a compiled table, which is looked up where it lies.
    ///
    /// # Errors
    /// `Table` for damaged bytes; damage that this does not find gives wrong ids, never a panic.
    pub fn open(table: SharedBytes) -> Result<Self, TextError> {
        let table = TokenTable::open(table)?;
        let parts: PartsWire =
            serde_json::from_slice(table.parts()).map_err(|error| wrong(error.to_string()))?;
        let decoding = Decoding::parse(present(&parts.decoder))?;
        let normalizer = parts.normalizer()?;
        let pre_tokenizer = parts.pre_tokenizer()?;
        let vocabulary = Vocabulary::new(table, &parts.added_tokens());
        let PatternPair { raw, normalized } = vocabulary.patterns(normalizer.as_ref())?;
        Ok(Self {
            bpe: Bpe::new(parts.model, vocabulary.table.view()),
            normalizer,
            pre_tokenizer,
            decoding,
            special: vocabulary.special_tokens(),
            raw_patterns: raw,
            normalized_patterns: normalized,
            vocab_size: vocabulary.size(),
            vocabulary,
            bound: OnceLock::new(),
        })
    }

    /// The tokenizer.json that the table was compiled from.
    pub fn source(&self) -> TableSource {
        self.vocabulary.table.source()
    }

    /// Whether all bytes of the table are as they were written. Reads the whole table.
    pub fn is_intact(&self) -> bool {
        self.vocabulary.table.is_intact()
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
        let pieces = self.cut(prompt).map_err(|error| TextError::Encode { why: error.to_string() })?;
        let mut encoder = self.bpe.encoder(self.vocabulary.table.view());
        let mut ids = Vec::new();
        for (piece, _, added) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            match added {
                Some(added) => ids.extend(added.iter().map(|token| token.id)),
                None if prompt.is_trusted() => encoder.encode(piece, &mut ids),
                None => self.encode_protected(piece, &mut encoder, &mut ids),
            }
        }
        Ok(ids)
    }

    /// Bytes of text that one token stands for at most; none where that has no bound.
    pub fn longest_token_bytes(&self) -> Option<usize> {
        self.bound().map(ByteBound::longest_token_bytes)
    }

    /// Whether a prompt may have no more than `max_tokens` tokens, as far as its bytes tell: what this refuses has more.
    ///
    /// # Errors
    /// `TooManyBytes`.
    pub fn check_bytes(&self, prompt: &Prompt, max_tokens: usize) -> Result<(), TextError> {
        let Some(bound) = self.bound() else { return Ok(()) };
        match bound.compare(prompt.text(), max_tokens) {
            (found, max_bytes) if found > max_bytes => {
                Err(TextError::TooManyBytes { found, max_bytes, max_tokens })
            }
            _ => Ok(()),
        }
    }

    fn bound(&self) -> Option<&ByteBound> {
        let find = || {
            let table = &self.vocabulary.table;
            // Read once already, when it was opened.
            let parts: PartsWire = serde_json::from_slice(table.parts()).ok()?;
            let added = parts.added_tokens();
            ByteBound::of(&Bounded {
                normalizer: parts.normalizer_wire(),
                pre_tokenizer: parts.pre_tokenizer_wire(),
                model: &parts.model,
                table: table.view(),
                added: added.iter().map(|token| token.content.as_str()).collect(),
                strips: added.iter().any(|token| token.lstrip || token.rstrip),
            })
        };
        self.bound.get_or_init(find).as_ref()
    }

    /// The id of a token by its text in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.vocabulary.id(token)
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
        match self.vocabulary.text(id) {
            Some(token) if self.special.contains(token) => token.as_bytes().to_vec(),
            Some(token) => self.decoding.bytes(token, Place::Later),
            None => Vec::new(),
        }
    }

    pub(super) fn decoding(&self) -> &Decoding {
        &self.decoding
    }

    /// The token of an id that has text.
    pub(super) fn text_token(&self, id: u32) -> Option<&str> {
        self.vocabulary.text(id).filter(|token| !self.special.contains(token))
    }

    /// The library's steps up to its model, with our search for added tokens: pieces, and added tokens with their ids.
    fn cut(&self, prompt: &Prompt) -> tokenizers::Result<PreTokenizedString> {
        let mut pieces = PreTokenizedString::from(prompt.text());
        pieces.split(|_, text: NormalizedString| {
            let splits = self.raw_patterns.split(text.get(), prompt);
            Ok(slices(&text, splits).into_iter().map(into_split))
        })?;
        pieces.split(|_, mut text: NormalizedString| {
            if let Some(normalizer) = &self.normalizer {
                normalizer.normalize(&mut text)?;
            }
            let foreign = NormalizedPart { prompt, special: &self.special, text: &text };
            let splits = self.normalized_patterns.split(text.get(), &foreign);
            Ok(slices(&text, splits).into_iter().map(into_split))
        })?;
        if let Some(pre_tokenizer) = &self.pre_tokenizer {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        Ok(pieces)
    }

    /// Tokens of a piece that no added token is in. Where the model has a special token's text in its vocabulary, a
    /// piece that spells it is tokenized as two.
    fn encode_protected(&self, piece: &str, encoder: &mut PieceEncoder, ids: &mut Vec<u32>) {
        let start = ids.len();
        encoder.encode(piece, ids);
        let is_piece = |id: &u32| self.vocabulary.table.view().text(*id) == Some(piece);
        let spells_special =
            ids.len() == start + 1 && ids.last().is_some_and(is_piece) && self.special.contains(piece);
        if let Some((second, _)) = piece.char_indices().nth(1).filter(|_| spells_special) {
            ids.truncate(start);
            encoder.encode(&piece[..second], ids);
            encoder.encode(&piece[second..], ids);
        }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size).finish_non_exhaustive()
    }
}

/// A normalized piece of a prompt.
struct NormalizedPart<'a> {
    prompt: &'a Prompt,
    special: &'a SpecialTokens,
    text: &'a NormalizedString,
}

impl Foreign for NormalizedPart<'_> {
    /// A character that no special token has carries no colour, so that it cannot be told whose it is: normalization
    /// may have made it one that they have.
    fn part(&self, range: &std::ops::Range<usize>) -> Option<std::ops::Range<usize>> {
        if self.prompt.is_trusted() {
            return None;
        }
        let (offset, _) = self.text.offsets_original();
        let original = self.text.convert_offsets(Range::Normalized(range.clone()));
        let original = original.map(|original| offset + original.start..offset + original.end);
        let is_own = original.is_some_and(|original| {
            let text = self.prompt.text().get(original.clone());
            self.prompt.part(&original).is_none() && text.is_some_and(|text| self.special.spells(text))
        });
        (!is_own).then_some(range.end..range.end)
    }
}

fn into_split((id, text): (Option<u32>, NormalizedString)) -> Split {
    Split::from((text, id.map(|id| vec![Token::new(id, String::new(), (0, 0))])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{ChatMessage, ChatTemplate, RenderOptions, TemplateVariables};
    use serde_json::{Value, json};

    /// Single characters and "<s>" (7), which the model itself knows, "[x]" (8), which is looked for in normalized
    /// text.
    fn small() -> Tokenizer {
        let vocab: Value = json!({"<": 0, "s": 1, ">": 2, "[": 3, "x": 4, "]": 5, "▁": 6, "<s>": 7});
        let added = |content: &str, normalized: bool| {
            json!({"id": 7, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": normalized, "special": true})
        };
        let whole = json!({"version": "1.0", "added_tokens": [added("<s>", false), added("[x]", true)],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]},
            "pre_tokenizer": {"type": "Split", "pattern": {"String": "▁"}, "behavior": "Isolated", "invert": false},
            "decoder": {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            "model": {"type": "BPE", "ignore_merges": true, "vocab": vocab, "merges": []}});
        Tokenizer::parse(&serde_json::to_vec(&whole).unwrap()).unwrap()
    }

    #[test]
    fn special_tokens_of_the_model_itself_are_text_in_contents() {
        struct Case {
            content: &'static str,
            ids: &'static [u32],
        }
        let cases = [
            Case { content: "x", ids: &[7, 4, 8] },
            Case { content: "<s>", ids: &[7, 0, 1, 2, 8] },
            Case { content: "▁<s>▁", ids: &[7, 6, 0, 1, 2, 6, 8] },
            Case { content: "[x]", ids: &[7, 3, 4, 5, 8] },
            Case { content: "x<s", ids: &[7, 4, 0, 1, 8] },
        ];
        let tokenizer = small();
        let source = "<s>{{ messages[0].content }}[x]";
        let special = tokenizer.special_tokens().clone();
        let template = ChatTemplate::from_jinja(source, TemplateVariables::default(), special).unwrap();
        for Case { content, ids } in cases {
            let messages = [ChatMessage::new("user", content)];
            let prompt = template.render(&messages, &RenderOptions::default()).unwrap().prompt;
            assert_eq!(tokenizer.encode(&prompt).unwrap(), ids, "{content:?}");
        }
        assert_eq!(tokenizer.encode(&Prompt::trusted("<s>▁[X]").unwrap()).unwrap(), [7, 6, 8]);
        assert_eq!(tokenizer.vocab_size(), 9);
    }

    #[test]
    fn token_bytes_are_those_inside_a_text() {
        let tokenizer = small();
        assert_eq!(tokenizer.token_bytes(6), b" ");
        assert_eq!(tokenizer.token_bytes(7), b"<s>");
        assert_eq!(tokenizer.decode(&[7, 6, 4, 99, 8]), " x");
    }
}
