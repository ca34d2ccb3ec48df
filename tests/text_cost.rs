//! What strangers' text and files may cost: time for long prompts, refusals for tokenizers that blow text up.

use std::time::{Duration, Instant};

use jetspool::text::{
    ChatMessage, ChatTemplate, Prompt, RenderOptions, TemplateVariables, TextError, Tokenizer,
};
use serde_json::{Value, json};

const LONG: usize = 900_000;

/// A byte-level tokenizer that also knows `added`.
fn byte_level(added: &[Value], vocab: &[&str], merges: &[&str]) -> Tokenizer {
    Tokenizer::parse(&byte_level_json(added, vocab, merges)).unwrap()
}

fn byte_level_json(added: &[Value], more: &[&str], merges: &[&str]) -> Vec<u8> {
    let mut vocab = serde_json::Map::new();
    let visible = |byte: u32| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let hidden = (0..256).filter(|&byte| !visible(byte)).zip(256..).map(|(_, code)| code);
    for code in (0..256).filter(|&byte| visible(byte)).chain(hidden) {
        vocab.insert(char::from_u32(code).unwrap().to_string(), vocab.len().into());
    }
    for token in more {
        vocab.insert((*token).into(), vocab.len().into());
    }
    let whole = json!({"version": "1.0", "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges}});
    serde_json::to_vec(&whole).unwrap()
}

fn added(content: &str, special: bool, normalized: bool) -> Value {
    json!({"id": 0, "content": content, "special": special, "normalized": normalized})
}

fn time<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

/// Seconds under full optimization, with room for slow machines and other optimization.
fn patience(seconds: f64) -> Duration {
    Duration::from_secs_f64(if cfg!(debug_assertions) { 8.0 * seconds } else { seconds })
}

#[test]
fn a_thousand_added_tokens_cost_no_more_than_none() {
    let names = ["[x", "[", "]", "a["];
    for (special, normalized) in [(true, false), (false, false), (true, true), (false, true)] {
        let tokens: Vec<Value> = (0..1000)
            .map(|i| added(&format!("{}{i}", names[i % names.len()]), special, normalized))
            .collect();
        let tokenizer = byte_level(&tokens, &[], &[]);
        let source = "{{ messages[0].content }}";
        let template = ChatTemplate::from_jinja(
            source,
            TemplateVariables::default(),
            tokenizer.special_tokens().clone(),
        )
        .unwrap();
        for text in ["[".repeat(LONG), "[x1".repeat(LONG / 3), "a[x".repeat(LONG / 3)] {
            let (ids, plain) =
                time(|| tokenizer.encode(&Prompt::trusted(text.as_str()).unwrap()).unwrap().len());
            assert!(ids > 0 && plain < patience(1.0), "{:.9}: {plain:?}", text);
            let messages = [ChatMessage::new("user", text.as_str())];
            let (prompt, rendered) =
                time(|| template.render(&messages, &RenderOptions::default()).unwrap().prompt);
            let (_, encoded) = time(|| tokenizer.encode(&prompt).unwrap());
            println!("{special} {normalized} {:.9}: {plain:?} {rendered:?} {encoded:?}", text);
            assert!(rendered + encoded < patience(2.0), "{:.9}: {rendered:?} {encoded:?}", text);
        }
    }
}

#[test]
fn one_long_word_is_merged_in_time() {
    let mut vocab: Vec<String> = Vec::new();
    let mut merges: Vec<String> = Vec::new();
    for length in 1..10 {
        let half = "a".repeat(1 << (length - 1));
        merges.push(format!("{half} {half}"));
        vocab.push(format!("{half}{half}"));
    }
    let vocab: Vec<&str> = vocab.iter().map(String::as_str).collect();
    let merges: Vec<&str> = merges.iter().map(String::as_str).collect();
    let tokenizer = byte_level(&[], &vocab, &merges);
    let (ids, elapsed) =
        time(|| tokenizer.encode(&Prompt::trusted("a".repeat(LONG)).unwrap()).unwrap().len());
    println!("{ids} tokens: {elapsed:?}");
    assert!(elapsed < patience(2.0), "{elapsed:?}");
}

#[test]
fn tokenizers_that_blow_text_up_are_refused() {
    let whole: Value = serde_json::from_slice(&byte_level_json(&[], &[], &[])).unwrap();
    let with = |part: &str, value: Value| {
        let mut whole = whole.clone();
        whole[part] = value;
        Tokenizer::parse(&serde_json::to_vec(&whole).unwrap()).map(|_| ())
    };
    let replace = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let sequence = |key: &str, step: Value| json!({"type": "Sequence", key: vec![step; 30]});
    for (part, value) in [
        ("normalizer", sequence("normalizers", replace.clone())),
        ("normalizer", json!({"type": "Prepend", "prepend": "x".repeat(50 << 20)})),
        ("pre_tokenizer", sequence("pretokenizers", byte_level)),
        ("decoder", sequence("decoders", replace)),
        ("added_tokens", json!([added(&"x".repeat(1 << 20), true, false)])),
    ] {
        let (found, elapsed) = time(|| with(part, value));
        let Err(TextError::Damaged { why, .. }) = found else { panic!("{part}: {found:?}") };
        assert!(why.len() < 200 && why.contains("more than"), "{part}: {why}");
        assert!(elapsed < patience(2.0), "{part}: {elapsed:?}");
    }
}
