//! tokenizer.json, checked part by part before the tokenizer library sees it.
//!
//! The library takes hostile files with panics (a truncated decoder, a Precompiled normalizer, an empty Prepend, a
//! merge shorter than the subword prefix), so its own reader gets only small values whose kind is on a list, and
//! never the vocabulary.

use std::collections::HashMap;

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper};

use super::error::{TextError, damaged, unsupported};
use super::steps::{MAX_TOKEN_BYTES, check_steps};

const NORMALIZERS: &str = "NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace (of a string), Sequence";
const PRE_TOKENIZERS: &str =
    "ByteLevel, Metaspace, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, Sequence";
/// Ids above this would not fit the int32 ids of the request format.
const MAX_ID: u32 = i32::MAX as u32;

/// The parts of a tokenizer.json that matter for inference; post-processors only add tokens that templates write.
#[derive(Deserialize)]
pub(super) struct TokenizerWire {
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<AddedTokenWire>,
    #[serde(default)]
    normalizer: Option<Value>,
    #[serde(default)]
    pre_tokenizer: Option<Value>,
    #[serde(default)]
    decoder: Option<Value>,
    model: ModelWire,
}

/// What a table keeps of tokenizer.json as JSON: all that matters but the vocabulary and the merges.
#[derive(Serialize, Deserialize)]
pub(super) struct PartsWire {
    added_tokens: Vec<AddedTokenWire>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    pub decoder: Option<Value>,
    pub model: ModelOptions,
}

/// How the byte-pair model treats what is not in its vocabulary, and what it puts around pieces.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct ModelOptions {
    /// The token of characters that have none.
    pub unknown_id: Option<u32>,
    /// Stands before every character of a word but the first.
    pub prefix: Option<String>,
    /// Stands behind the last character of a word.
    pub suffix: Option<String>,
    /// Unknown characters in a row are one token.
    pub fuse_unknown: bool,
    /// An unknown character becomes the tokens of its bytes.
    pub byte_fallback: bool,
    /// A word that is a token is that token, whatever the merges make of it.
    pub ignore_merges: bool,
}

/// The vocabulary, token to id, and the merges in order of rank.
pub(super) struct ModelBulk {
    pub vocab: Vocab,
    pub merges: Vec<MergeWire>,
}

type Vocab = HashMap<String, u32>;

#[derive(Serialize, Deserialize)]
struct AddedTokenWire {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct ModelWire {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: Option<bool>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    ignore_merges: Option<bool>,
    #[serde(deserialize_with = "vocabulary")]
    vocab: Option<Vocab>,
    #[serde(default)]
    merges: Vec<MergeWire>,
}

/// "a b", or ["a", "b"].
pub(super) struct MergeWire(pub String, pub String);

impl TokenizerWire {
    /// # Errors
    /// `Damaged` for what is not a tokenizer.json, `Unsupported` for another version.
    pub fn parse(tokenizer_json: &[u8]) -> Result<Self, TextError> {
        let wire: Self =
            serde_json::from_slice(tokenizer_json).map_err(|error| damaged(error.to_string()))?;
        match wire.version.as_deref() {
            None | Some("1.0") => Ok(wire),
            Some(version) => Err(unsupported("version", version, "1.0")),
        }
    }

    /// The small parts and the large ones. Dropout, a training device, is left off.
    ///
    /// # Errors
    /// `Unsupported` for another model than byte pairs, `Damaged` for one that contradicts itself.
    pub fn into_parts(self) -> Result<(PartsWire, ModelBulk), TextError> {
        let model = self.model;
        if let Some(kind) = model.kind.as_deref().filter(|&kind| kind != "BPE") {
            return Err(unsupported("model", kind, "BPE"));
        }
        let Some(vocab) = model.vocab else {
            return Err(unsupported("model", "without a token-to-id vocabulary", "BPE"));
        };
        if let Some((token, id)) = vocab.iter().find(|&(_, &id)| id > MAX_ID) {
            return Err(damaged(format!("token {token:?} has id {id}, more than {MAX_ID}")));
        }
        let added = self.added_tokens.iter().map(|token| &token.content);
        if let Some(token) = vocab.keys().chain(added).find(|token| token.len() > MAX_TOKEN_BYTES) {
            let (start, found) = (token.chars().take(20).collect::<String>(), token.len());
            return Err(damaged(format!(
                "token {start:?}… has {found} bytes, more than the limit of {MAX_TOKEN_BYTES}"
            )));
        }
        let find_unknown = |unknown: String| {
            let missing = || damaged(format!("unk_token {unknown:?} is not in the vocabulary"));
            vocab.get(&unknown).copied().ok_or_else(missing)
        };
        let unknown_id = model.unk_token.map(find_unknown).transpose()?;
        let prefix = model.continuing_subword_prefix.filter(|prefix| !prefix.is_empty());
        if let Some(prefix) = &prefix
            && let Some(MergeWire(_, right)) =
                model.merges.iter().find(|MergeWire(_, right)| !right.starts_with(prefix.as_str()))
        {
            return Err(damaged(format!("merge of {right:?}, which lacks the subword prefix {prefix:?}")));
        }
        let options = ModelOptions {
            unknown_id,
            prefix,
            suffix: model.end_of_word_suffix.filter(|suffix| !suffix.is_empty()),
            fuse_unknown: model.fuse_unk.unwrap_or(false),
            byte_fallback: model.byte_fallback.unwrap_or(false),
            ignore_merges: model.ignore_merges.unwrap_or(false),
        };
        let parts = PartsWire {
            added_tokens: self.added_tokens,
            normalizer: sorted(self.normalizer),
            pre_tokenizer: sorted(self.pre_tokenizer),
            decoder: sorted(self.decoder),
            model: options,
        };
        Ok((parts, ModelBulk { vocab, merges: model.merges }))
    }
}

/// Keys in their order, so that a table does not depend on how a map keeps them.
fn sorted(value: Option<Value>) -> Option<Value> {
    value.map(|mut value| {
        value.sort_all_objects();
        value
    })
}

impl PartsWire {
    /// # Errors
    /// `Unsupported` or `Damaged`.
    pub fn normalizer(&self) -> Result<Option<NormalizerWrapper>, TextError> {
        let Some(value) = present(&self.normalizer) else {
            return Ok(None);
        };
        check_kind(value, "normalizer", "normalizers", NORMALIZERS)?;
        check_steps(value, "normalizer", "normalizers")?;
        serde_json::from_value(value.clone())
            .map(Some)
            .map_err(|error| damaged(format!("normalizer: {error}")))
    }

    /// # Errors
    /// `Unsupported` or `Damaged`.
    pub fn pre_tokenizer(&self) -> Result<Option<PreTokenizerWrapper>, TextError> {
        let Some(value) = present(&self.pre_tokenizer) else {
            return Ok(None);
        };
        check_kind(value, "pre_tokenizer", "pretokenizers", PRE_TOKENIZERS)?;
        check_steps(value, "pre_tokenizer", "pretokenizers")?;
        serde_json::from_value(value.clone())
            .map(Some)
            .map_err(|error| damaged(format!("pre_tokenizer: {error}")))
    }

    pub fn normalizer_wire(&self) -> Option<&Value> {
        present(&self.normalizer)
    }

    pub fn pre_tokenizer_wire(&self) -> Option<&Value> {
        present(&self.pre_tokenizer)
    }

    pub fn added_tokens(&self) -> Vec<AddedToken> {
        let token = |wire: &AddedTokenWire| {
            AddedToken::from(wire.content.clone(), wire.special)
                .single_word(wire.single_word)
                .lstrip(wire.lstrip)
                .rstrip(wire.rstrip)
                .normalized(wire.normalized)
        };
        self.added_tokens.iter().map(token).collect()
    }
}

/// A JSON null is an absent part.
pub(super) fn present(value: &Option<Value>) -> Option<&Value> {
    value.as_ref().filter(|value| !value.is_null())
}

/// Refuses a component whose type, or whose members' type, is not in `supported`, and empty texts and patterns other
/// than strings in normalizers: the library's bookkeeping of positions breaks on them.
fn check_kind(
    value: &Value,
    what: &'static str,
    members_key: &str,
    supported: &'static str,
) -> Result<(), TextError> {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or("without a type");
    if !supported.split(", ").any(|known| known.split(' ').next() == Some(kind)) {
        return Err(unsupported(what, kind, supported));
    }
    let is_empty = |text: &Value| text.as_str() == Some("");
    let texts = ["/prepend", "/pattern/String", "/pattern/Regex"];
    if let Some(text) = texts.into_iter().find(|text| value.pointer(text).is_some_and(is_empty)) {
        return Err(damaged(format!("{what}: {text} of {kind} is empty")));
    }
    if kind == "Replace" && value.pointer("/pattern/String").is_none() {
        return Err(unsupported(what, "Replace of a regular expression", supported));
    }
    let members = value.get(members_key).and_then(Value::as_array);
    members.into_iter().flatten().try_for_each(|member| check_kind(member, what, members_key, supported))
}

fn vocabulary<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vocab>, D::Error> {
    struct VocabVisitor;
    impl<'de> Visitor<'de> for VocabVisitor {
        type Value = Option<Vocab>;

        fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
            formatter.write_str("an object of token: id")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut vocab = Vocab::new();
            while let Some((token, id)) = entries.next_entry::<String, u32>()? {
                vocab.insert(token, id);
            }
            Ok(Some(vocab))
        }

        /// Unigram models have a list here: the model's type is refused later, by its name.
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            while items.next_element::<de::IgnoredAny>()?.is_some() {}
            Ok(None)
        }
    }
    deserializer.deserialize_any(VocabVisitor)
}

impl<'de> Deserialize<'de> for MergeWire {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergeVisitor;
        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = MergeWire;

            fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
                formatter.write_str("a merge of two pieces")
            }

            fn visit_str<E: de::Error>(self, merge: &str) -> Result<MergeWire, E> {
                match merge.split_once(' ') {
                    Some((left, right)) if !right.contains(' ') => {
                        Ok(MergeWire(left.to_owned(), right.to_owned()))
                    }
                    _ => Err(E::custom(format!("merge {merge:?} is not two pieces"))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pieces: A) -> Result<MergeWire, A::Error> {
                match (
                    pieces.next_element()?,
                    pieces.next_element()?,
                    pieces.next_element::<de::IgnoredAny>()?,
                ) {
                    (Some(left), Some(right), None) => Ok(MergeWire(left, right)),
                    _ => Err(de::Error::custom("a merge is not two pieces")),
                }
            }
        }
        deserializer.deserialize_any(MergeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Tokenizer;
    use serde_json::json;

    /// A small tokenizer.json with one part replaced.
    fn parse_with(pointer: &str, part: Value) -> Result<(), TextError> {
        let mut whole = json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
            "model": {"type": "BPE", "unk_token": null, "continuing_subword_prefix": null,
                "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}});
        *whole.pointer_mut(pointer).expect("a part of the tokenizer above") = part;
        Tokenizer::parse(&serde_json::to_vec(&whole).unwrap()).map(|_| ())
    }

    #[test]
    fn good_parts_are_taken() {
        struct Case {
            pointer: &'static str,
            part: Value,
        }
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let cases = [
            Case { pointer: "/model/merges", part: json!(["a b"]) },
            Case { pointer: "/model/merges", part: json!([]) },
            Case { pointer: "/model/unk_token", part: json!("a") },
            Case {
                pointer: "/normalizer",
                part: json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, replace]}),
            },
            Case { pointer: "/pre_tokenizer", part: json!({"type": "Metaspace", "replacement": "▁"}) },
        ];
        for Case { pointer, part } in cases {
            assert_eq!(parse_with(pointer, part.clone()), Ok(()), "{pointer} {part}");
        }
    }

    #[test]
    fn bad_parts_are_errors() {
        struct Case {
            pointer: &'static str,
            part: Value,
            message: &'static str,
        }
        let sequence = |member: Value| json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, member]});
        let cases = [
            Case { pointer: "/version", part: json!("2.0"), message: "version 2.0 is not supported" },
            Case {
                pointer: "/model/type",
                part: json!("Unigram"),
                message: "model Unigram is not supported",
            },
            Case {
                pointer: "/model/vocab",
                part: json!([["a", -1.5]]),
                message: "without a token-to-id vocabulary",
            },
            Case { pointer: "/model/vocab", part: json!({"a": -1}), message: "damaged" },
            Case {
                pointer: "/model/vocab",
                part: json!({"a": 3_000_000_000_u32}),
                message: "has id 3000000000",
            },
            Case { pointer: "/model/vocab", part: json!({"a": 0}), message: "damaged" },
            Case { pointer: "/model/merges", part: json!(["a b c"]), message: "is not two pieces" },
            Case { pointer: "/model/merges", part: json!([["a"]]), message: "not two pieces" },
            Case {
                pointer: "/model/unk_token",
                part: json!("<unk>"),
                message: "unk_token \"<unk>\" is not in",
            },
            Case {
                pointer: "/model/continuing_subword_prefix",
                part: json!("##"),
                message: "lacks the subword prefix",
            },
            Case {
                pointer: "/normalizer",
                part: json!({"type": "Precompiled"}),
                message: "normalizer Precompiled",
            },
            Case {
                pointer: "/normalizer",
                part: json!({"type": "Prepend", "prepend": ""}),
                message: "is empty",
            },
            Case {
                pointer: "/normalizer",
                part: sequence(json!({"type": "Strip"})),
                message: "normalizer Strip",
            },
            Case {
                pointer: "/normalizer",
                part: sequence(json!({"type": "Prepend", "prepend": ""})),
                message: "is empty",
            },
            Case {
                pointer: "/pre_tokenizer",
                part: json!({"type": "FixedLength", "length": 0}),
                message: "FixedLength",
            },
            Case { pointer: "/pre_tokenizer", part: json!("ByteLevel"), message: "without a type" },
        ];
        for Case { pointer, part, message } in cases {
            let error = parse_with(pointer, part.clone()).expect_err(pointer).to_string();
            assert!(error.contains(message), "{pointer} {part}: {error}");
        }
    }
}
