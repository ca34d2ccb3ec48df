//! What texts and files of others may cost: time for long prompts, refusals for tokenizers that blow text up.

use std::time::Instant;

use jetspool::text::{
    ChatMessage, ChatTemplate, Prompt, RenderOptions, TemplateVariables, TextError, Tokenizer,
};
use serde_json::{Value, json};

/// The shorter of two texts, in bytes.
fn long() -> usize {
    if std::env::var_os("JETSPOOL_TEST_RUNNER").is_some() { 4_000 } else { 24_000 }
}

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

/// How much longer eight times the text may take. The square would be 64 times.
const MAX_GROWTH: f64 = 20.0;
/// How much longer a hundred times the added tokens may take. To try each of them everywhere would be 100 times.
const MAX_GROWTH_OF_ADDED: f64 = 8.0;

/// Seconds of the shortest of several runs, for others run beside it.
fn shortest(work: impl Fn()) -> f64 {
    let one = || {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..3).map(|_| one()).min().unwrap().as_secs_f64()
}

/// `work` on a text eight times as long takes about eight times as long, whatever the machine.
fn check_is_linear(what: &str, n_bytes: usize, work: impl Fn(usize)) {
    check_growth(MAX_GROWTH, || {
        let [short, long] = [n_bytes, 8 * n_bytes].map(|n_bytes| shortest(|| work(n_bytes)));
        (long / short, format!("{what}: {short} s for {n_bytes} bytes, {long} s for 8 times as many"))
    });
}

/// Measures until the growth is below the limit: a busy machine spoils some tries, and what grows too fast spoils all.
fn check_growth(limit: f64, measure: impl Fn() -> (f64, String)) {
    let mut tries = Vec::new();
    while tries.len() < 5 {
        let (growth, said) = measure();
        if growth < limit {
            return;
        }
        tries.push(said);
    }
    panic!("{tries:#?}");
}

/// A tokenizer with so many added tokens, and a template that prints the content alone.
fn with_added(n_added: usize, special: bool, normalized: bool) -> (Tokenizer, ChatTemplate) {
    let names = ["[x", "[", "]", "a["];
    let tokens: Vec<Value> =
        (0..n_added).map(|i| added(&format!("{}{i}", names[i % names.len()]), special, normalized)).collect();
    let tokenizer = byte_level(&tokens, &[], &[]);
    let special_tokens = tokenizer.special_tokens().clone();
    let source = "{{ messages[0].content }}";
    let template = ChatTemplate::from_jinja(source, TemplateVariables::default(), special_tokens).unwrap();
    (tokenizer, template)
}

#[test]
fn a_thousand_added_tokens_cost_no_more_than_few() {
    for (special, normalized) in [(true, false), (false, false), (true, true), (false, true)] {
        let [few, many] = [10, 1000].map(|n_added| with_added(n_added, special, normalized));
        for word in ["[", "[x1", "a[x"] {
            let what = format!("{word:?}, special {special}, normalized {normalized}");
            let text = |n_bytes: usize| word.repeat(n_bytes / word.len());
            let encode = |(tokenizer, _): &(Tokenizer, ChatTemplate), n_bytes: usize| {
                let prompt = Prompt::trusted(text(n_bytes).as_str()).unwrap();
                assert!(!tokenizer.encode(&prompt).unwrap().is_empty());
            };
            let render = |(tokenizer, template): &(Tokenizer, ChatTemplate), n_bytes: usize| {
                let messages = [ChatMessage::new("user", text(n_bytes).as_str())];
                let prompt = template.render(&messages, &RenderOptions::default()).unwrap().prompt;
                assert!(!tokenizer.encode(&prompt).unwrap().is_empty());
            };
            check_is_linear(&what, long(), |n_bytes| encode(&many, n_bytes));
            check_is_linear(&format!("a template, {what}"), long(), |n_bytes| render(&many, n_bytes));
            type Work<'a> = &'a dyn Fn(&(Tokenizer, ChatTemplate));
            let works: [(&str, Work<'_>); 2] = [
                ("tokens alone", &|of| encode(of, 8 * long())),
                ("a template", &|of| render(of, 8 * long())),
            ];
            for (how, work) in works {
                check_growth(MAX_GROWTH_OF_ADDED, || {
                    let [few, many] = [&few, &many].map(|of| shortest(|| work(of)));
                    let said = format!("{how}, {what}: {few} s with 10 added tokens, {many} s with 1000");
                    (many / few, said)
                });
            }
        }
    }
}

#[test]
fn one_long_word_is_merged_in_linear_time() {
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
    check_is_linear("one word", long(), |n_bytes| {
        let prompt = Prompt::trusted("a".repeat(n_bytes)).unwrap();
        assert!(!tokenizer.encode(&prompt).unwrap().is_empty());
    });
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
        let found = with(part, value);
        let Err(TextError::Damaged { why, .. }) = found else { panic!("{part}: {found:?}") };
        assert!(why.len() < 200 && why.contains("more than"), "{part}: {why}");
    }
}
