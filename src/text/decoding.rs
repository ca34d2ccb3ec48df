//! What bytes a token stands for: the decoder of tokenizer.json as steps on one token.
//!
//! Working on bytes lets an answer grow token by token with its UTF-8 joined rightly; the library's decoders cannot.

use serde::Deserialize;
use serde_json::Value;

use super::error::TextError;
use super::error::{damaged, unsupported};
use super::steps::check_steps;

const DECODERS: &str =
    "ByteLevel, ByteFallback, Fuse, Metaspace, Replace (of a string), Strip and a Sequence of them";

/// How tokens become bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Decoding {
    steps: Vec<Step>,
    /// A space stands between tokens: what the library does without a decoder.
    spaced: bool,
    /// The character taken away at the start of the whole text, and at most how often.
    pub strip_start: Option<(char, usize)>,
}

#[derive(Debug, Clone)]
enum Step {
    ByteLevel,
    ByteFallback,
    Replace { pattern: String, content: String },
    Metaspace { replacement: char, drops_in_first: bool },
    Strip { content: char, start: usize, stop: usize },
}

/// Where a token stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    First,
    Later,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum DecoderWire {
    ByteLevel {},
    ByteFallback {},
    Fuse {},
    Replace { pattern: PatternWire, content: String },
    Metaspace { replacement: char, prepend_scheme: Option<String>, add_prefix_space: Option<bool> },
    Strip { content: char, start: usize, stop: usize },
    Sequence { decoders: Vec<Value> },
}

#[derive(Deserialize)]
enum PatternWire {
    String(String),
    Regex(String),
}

impl Decoding {
    /// # Errors
    /// `Unsupported` for other decoders, or these in an order that makes no sense for one token; `Damaged`.
    pub fn parse(decoder: Option<&Value>) -> Result<Self, TextError> {
        let Some(decoder) = decoder else {
            return Ok(Self { spaced: true, ..Self::default() });
        };
        check_steps(decoder, "decoder", "decoders")?;
        let mut decoding = Self::default();
        let mut fused = false;
        decoding.add(decoder, &mut fused, 0)?;
        Ok(decoding)
    }

    fn add(&mut self, decoder: &Value, fused: &mut bool, depth: usize) -> Result<(), TextError> {
        let kind = decoder.get("type").and_then(Value::as_str).unwrap_or("without a type");
        let known = ["ByteLevel", "ByteFallback", "Fuse", "Replace", "Metaspace", "Strip", "Sequence"];
        if !known.contains(&kind) || depth > 8 {
            return Err(unsupported("decoder", kind, DECODERS));
        }
        let wire = DecoderWire::deserialize(decoder).map_err(|error| damaged(format!("decoder: {error}")))?;
        let step = match wire {
            DecoderWire::Sequence { decoders } => {
                return decoders.iter().try_for_each(|decoder| self.add(decoder, fused, depth + 1));
            }
            DecoderWire::Fuse {} => {
                *fused = true;
                return Ok(());
            }
            DecoderWire::Strip { content, start, stop: 0 } if *fused && self.strip_start.is_none() => {
                self.strip_start = Some((content, start));
                return Ok(());
            }
            _ if *fused => {
                return Err(unsupported("decoder", &format!("{kind} behind Fuse or ByteLevel"), DECODERS));
            }
            DecoderWire::ByteLevel {} => {
                *fused = true;
                Step::ByteLevel
            }
            DecoderWire::ByteFallback {} => Step::ByteFallback,
            DecoderWire::Replace { pattern: PatternWire::String(pattern), content } => {
                Step::Replace { pattern, content }
            }
            DecoderWire::Replace { pattern: PatternWire::Regex(pattern), .. } => {
                return Err(unsupported("decoder", &format!("Replace of the pattern {pattern:?}"), DECODERS));
            }
            DecoderWire::Metaspace { replacement, prepend_scheme, add_prefix_space } => {
                let never = prepend_scheme.as_deref() == Some("never") || add_prefix_space == Some(false);
                Step::Metaspace { replacement, drops_in_first: !never }
            }
            DecoderWire::Strip { content, start, stop } => Step::Strip { content, start, stop },
        };
        self.steps.push(step);
        Ok(())
    }

    /// The bytes of one token.
    pub fn bytes(&self, token: &str, place: Place) -> Vec<u8> {
        let mut text = token.to_owned();
        for step in &self.steps {
            text = match step {
                Step::ByteLevel => return byte_level(&text),
                Step::ByteFallback => match fallback_byte(&text) {
                    Some(byte) => return vec![byte],
                    None => text,
                },
                Step::Replace { pattern, .. } if pattern.is_empty() => text,
                Step::Replace { pattern, content } => text.replace(pattern.as_str(), content),
                Step::Metaspace { replacement, drops_in_first: true } if place == Place::First => {
                    text.replace(*replacement, "")
                }
                Step::Metaspace { replacement, .. } => text.replace(*replacement, " "),
                Step::Strip { content, start, stop } => strip(&text, *content, *start, *stop).to_owned(),
            };
        }
        if self.spaced && place == Place::Later {
            text.insert(0, ' ');
        }
        text.into_bytes()
    }
}

fn strip(text: &str, content: char, start: usize, stop: usize) -> &str {
    let mut text = text;
    for _ in 0..start {
        let Some(rest) = text.strip_prefix(content) else { break };
        text = rest;
    }
    for _ in 0..stop {
        let Some(rest) = text.strip_suffix(content) else { break };
        text = rest;
    }
    text
}

/// The byte of "<0x0A>".
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_hex { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// Bytes of a token of the byte-level alphabet; a token with another character stands for its own UTF-8.
fn byte_level(token: &str) -> Vec<u8> {
    token.chars().map(byte_of).collect::<Option<_>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte-level alphabet (GPT-2): printable Latin-1 stands for itself, the 68 other bytes follow from U+0100 on.
fn byte_of(character: char) -> Option<u8> {
    match u32::from(character) {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_byte_alphabet_is_whole() {
        let mut bytes: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        bytes.sort();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
    }

    #[test]
    fn one_token_gives_its_bytes() {
        let byte_level = json!({"type": "ByteLevel"});
        let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"});
        let llama = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        struct Case<'a> {
            decoder: Option<&'a Value>,
            token: &'static str,
            first: &'static [u8],
            later: &'static [u8],
        }
        let cases = [
            Case { decoder: Some(&byte_level), token: "ĠhÃ", first: b" h\xC3", later: b" h\xC3" },
            Case {
                decoder: Some(&byte_level), token: "世", first: "世".as_bytes(), later: "世".as_bytes()
            },
            Case { decoder: Some(&metaspace), token: "▁a▁b", first: b"ab", later: b" a b" },
            Case { decoder: Some(&llama), token: "▁a", first: b" a", later: b" a" },
            Case { decoder: Some(&llama), token: "<0xE4>", first: b"\xE4", later: b"\xE4" },
            Case { decoder: Some(&llama), token: "<0x+4>", first: b"<0x+4>", later: b"<0x+4>" },
            Case { decoder: None, token: "a", first: b"a", later: b" a" },
        ];
        for Case { decoder, token, first, later } in cases {
            let decoding = Decoding::parse(decoder).unwrap();
            assert_eq!(decoding.bytes(token, Place::First), first, "{token:?} first");
            assert_eq!(decoding.bytes(token, Place::Later), later, "{token:?} later");
        }
        assert_eq!(Decoding::parse(Some(&llama)).unwrap().strip_start, Some((' ', 1)));
    }

    #[test]
    fn other_decoders_are_refused_by_name() {
        for decoder in [json!({"type": "WordPiece"}), json!({"type": "CTC"}), json!({}), json!(3)] {
            let error = Decoding::parse(Some(&decoder)).unwrap_err();
            assert!(matches!(error, TextError::Unsupported { what: "decoder", .. }), "{error}");
        }
        let broken = json!({"type": "Strip", "content": "ab", "start": 1, "stop": 0});
        assert!(matches!(Decoding::parse(Some(&broken)), Err(TextError::Damaged { .. })));
    }
}
