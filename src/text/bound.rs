//! How much text so many tokens can hold at most: what is longer than that is refused before it is tokenized.
//!
//! Sound where every byte of a text ends up in some token. It is counted without white space where a step or a token
//! swallows that, and divided by what normalization can shrink a text by; where text can be dropped there is no bound.

use serde_json::Value;

use super::table::TableView;
use super::tokenizer_json::ModelOptions;

/// Most that a Unicode normal form shrinks text by: the Kelvin sign has three bytes and becomes one, a mathematical
/// letter with two marks has eight and becomes two.
const NORMAL_FORM: usize = 4;
/// The Kelvin sign again.
const LOWERCASE: usize = 3;

/// A bound on the text of one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ByteBound {
    /// Of normalized text.
    longest: usize,
    shrink: Shrink,
    skips_white_space: bool,
}

/// What normalization may divide the length of a text by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shrink {
    any: usize,
    /// Of text in ASCII.
    ascii: usize,
}

/// The parts of a tokenizer that matter here.
pub(super) struct Bounded<'a> {
    pub normalizer: Option<&'a Value>,
    pub pre_tokenizer: Option<&'a Value>,
    pub model: &'a ModelOptions,
    pub table: TableView<'a>,
    /// The added tokens' texts.
    pub added: Vec<&'a str>,
    /// Whether an added token takes white space along.
    pub strips: bool,
}

impl ByteBound {
    /// None where a token may hold any amount of text.
    pub fn of(parts: &Bounded) -> Option<Self> {
        let shrink = parts.normalizer.map_or(Some(Shrink::NONE), Shrink::of)?;
        let steps = parts.pre_tokenizer.map_or(Some(Steps::default()), Steps::of)?;
        let mut single = String::new();
        let mut is_known = |text: &str| {
            single.clear();
            single.push_str(text);
            parts.table.token_id(&single).is_some()
        };
        let has_unknown = parts.model.unknown_id.is_some() && !parts.model.fuse_unknown;
        let is_whole = if steps.is_byte_level {
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
                .iter()
                .all(|character| is_known(character.encode_utf8(&mut [0; 4])))
        } else {
            parts.model.byte_fallback && (0..=u8::MAX).all(|byte| is_known(&format!("<0x{byte:02X}>")))
        };
        if !is_whole && !has_unknown {
            return None;
        }
        // In the alphabet of bytes a character is a byte.
        let length = |text: &str| if steps.is_byte_level { text.chars().count() } else { text.len() };
        let of_model = parts.table.texts().map(length).max().unwrap_or(0);
        let of_added = parts.added.iter().map(|text| text.len()).max().unwrap_or(0);
        // An unknown character has up to four bytes.
        let longest = of_model.max(of_added).max(char::MAX.len_utf8());
        Some(Self { longest, shrink, skips_white_space: steps.drops_white_space || parts.strips })
    }

    /// Bytes of text that one token stands for at most.
    pub fn longest_token_bytes(&self) -> usize {
        self.longest.saturating_mul(self.shrink.any)
    }

    /// Bytes of `text` that count, and how many of them `n_tokens` can hold.
    pub fn compare(&self, text: &str, n_tokens: usize) -> (usize, usize) {
        let shrink = if text.is_ascii() { self.shrink.ascii } else { self.shrink.any };
        let held = n_tokens.saturating_mul(self.longest).saturating_mul(shrink);
        if text.len() <= held || !self.skips_white_space {
            return (text.len(), held);
        }
        let solid = text.chars().filter(|character| !character.is_whitespace());
        (solid.map(char::len_utf8).sum(), held)
    }
}

impl Shrink {
    const NONE: Self = Self { any: 1, ascii: 1 };

    /// None where text may vanish.
    fn of(normalizer: &Value) -> Option<Self> {
        let text = |pointer: &str| normalizer.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        match normalizer.get("type").and_then(Value::as_str)? {
            "NFC" | "NFD" | "NFKC" | "NFKD" => Some(Self { any: NORMAL_FORM, ascii: 1 }),
            "Lowercase" => Some(Self { any: LOWERCASE, ascii: 1 }),
            "Prepend" => Some(Self::NONE),
            "Replace" => {
                let (found, put) = (text("/pattern/String").len(), text("/content").len());
                let factor = found.checked_div(put)? + usize::from(found % put != 0);
                let factor = factor.max(1);
                Some(Self { any: factor, ascii: factor })
            }
            "Sequence" => {
                let members = normalizer.get("normalizers")?.as_array()?;
                let shrinks = members.iter().map(Self::of).collect::<Option<Vec<_>>>()?;
                let product =
                    |all: fn(&Self) -> usize| shrinks.iter().map(all).fold(1, usize::saturating_mul);
                let any = product(|shrink| shrink.any);
                // What is put in place of ASCII may be something else.
                let stays_ascii = members.iter().all(|member| member.to_string().is_ascii());
                Some(Self { any, ascii: if stays_ascii { product(|shrink| shrink.ascii) } else { any } })
            }
            _ => None,
        }
    }
}

/// What the pre-tokenizer's steps do to a text as a whole.
#[derive(Debug, Clone, Copy, Default)]
struct Steps {
    is_byte_level: bool,
    drops_white_space: bool,
}

impl Steps {
    fn of(pre_tokenizer: &Value) -> Option<Self> {
        let removes = pre_tokenizer.get("behavior").and_then(Value::as_str) == Some("Removed");
        match pre_tokenizer.get("type").and_then(Value::as_str)? {
            _ if removes => None,
            "ByteLevel" => Some(Self { is_byte_level: true, ..Self::default() }),
            "Metaspace" | "Split" | "Digits" | "Punctuation" => Some(Self::default()),
            "Whitespace" | "WhitespaceSplit" => Some(Self { drops_white_space: true, ..Self::default() }),
            "Sequence" => {
                let members = pre_tokenizer.get("pretokenizers")?.as_array()?;
                let steps = members.iter().map(Self::of).collect::<Option<Vec<_>>>()?;
                Some(Self {
                    is_byte_level: steps.iter().any(|step| step.is_byte_level),
                    drops_white_space: steps.iter().any(|step| step.drops_white_space),
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_normalizers_take_away() {
        let replace =
            |found: &str, put: &str| json!({"type": "Replace", "pattern": {"String": found}, "content": put});
        let sequence = |members: Value| json!({"type": "Sequence", "normalizers": members});
        struct Case {
            normalizer: Value,
            shrink: Option<(usize, usize)>,
        }
        let cases = [
            Case { normalizer: json!({"type": "NFC"}), shrink: Some((4, 1)) },
            Case { normalizer: replace(" ", "▁"), shrink: Some((1, 1)) },
            Case { normalizer: replace("▁", " "), shrink: Some((3, 3)) },
            Case { normalizer: replace("ab", "c"), shrink: Some((2, 2)) },
            Case { normalizer: replace("x", ""), shrink: None },
            Case {
                normalizer: sequence(json!([{"type": "NFC"}, {"type": "Lowercase"}])),
                shrink: Some((12, 1)),
            },
            Case { normalizer: sequence(json!([replace("a", "é"), {"type": "NFD"}])), shrink: Some((4, 4)) },
            Case { normalizer: sequence(json!([{"type": "NFC"}, replace("x", "")])), shrink: None },
        ];
        for Case { normalizer, shrink } in cases {
            let found = Shrink::of(&normalizer).map(|shrink| (shrink.any, shrink.ascii));
            assert_eq!(found, shrink, "{normalizer}");
        }
    }

    #[test]
    fn no_normal_form_shrinks_more() {
        use tokenizers::{NormalizedString, Normalizer, normalizers};
        for character in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            let mut text = NormalizedString::from(character.to_string());
            normalizers::NFKC.normalize(&mut text).unwrap();
            assert!(text.get().len() * NORMAL_FORM >= character.len_utf8(), "{character:?}");
            let lower = character.to_lowercase().map(char::len_utf8).sum::<usize>();
            assert!(lower * LOWERCASE >= character.len_utf8(), "{character:?}");
        }
    }
}
