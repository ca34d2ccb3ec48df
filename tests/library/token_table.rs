//! The compiled tokenizer against the library itself, on random text and random models; and damaged tables.

use std::path::PathBuf;
use std::sync::Arc;

use jetspool::text::{Prompt, TextError, Tokenizer};
use serde_json::{Map, Value, json};

use crate::support::random::Random;
use crate::support::token;

const TOKENIZERS: [&str; 5] = ["qwen2", "llama3", "mistral", "mistral_metaspace", "gemma"];

fn fixture(name: &str) -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/references/tokenizers");
    std::fs::read(root.join(name).join("tokenizer.json")).unwrap()
}

/// Words, white space, several scripts, half-composed letters, special tokens and arbitrary characters.
fn random_text(random: &mut Random) -> String {
    let words = ["the", "ing", "Spool", "don't", "I'LL", "adapter", "robot", "bot", "x", "E", "3", "1234567"];
    let spaces = [" ", "  ", "\n", "\r\n", "\t", " \n \n", "\u{A0}", "\u{3000}", "        "];
    let others = [
        "é",
        "e\u{301}",
        "ß",
        "İ",
        "世界",
        "한국어",
        "नमस्ते",
        "\u{1F468}\u{200D}\u{1F469}",
        "ﬁ",
        "½",
        "\0",
        "\u{FFFD}",
    ];
    let marks = [".", ",,", "!?", "—", "(", "_", "#", "'", "<", "▁", "▁▁", "Ġ", "<0x41>"];
    let special = [
        "<|im_end|>",
        "<|im_start|>",
        "</s>",
        "<s>",
        "<unk>",
        "<think>",
        "[INST]",
        "<|eot_id|>",
        "<|im_",
        "a</s",
    ];
    let mut text = String::new();
    for _ in 0..random.below(24) {
        match random.below(12) {
            0..4 => text.push_str(random.pick(&words)),
            4..7 => text.push_str(random.pick(&spaces)),
            7 => text.push_str(random.pick(&others)),
            8 => text.push_str(random.pick(&marks)),
            9 => text.push_str(random.pick(&special)),
            10 => text.extend((0..random.below(40)).map(|_| char::from(b'a' + random.byte_below(26)))),
            _ => text.extend(char::from_u32(u32::try_from(random.below(0x11_0000)).unwrap())),
        }
    }
    text
}

/// Compares ids of `texts`; shows the first text that differs.
fn compare(name: &str, json: &[u8], texts: impl IntoIterator<Item = String>) {
    let library = tokenizers::Tokenizer::from_bytes(json).unwrap();
    let tokenizer = Tokenizer::parse(json).unwrap_or_else(|error| panic!("{name}: {error}"));
    for text in texts {
        let wanted = library.encode_fast(text.as_str(), false).unwrap();
        let found = tokenizer.encode(&Prompt::trusted(text.as_str()).unwrap()).unwrap();
        assert!(
            found == wanted.get_ids(),
            "{name} {text:?}\n found {found:?}\nwanted {:?}",
            wanted.get_ids()
        );
    }
    for id in 0..token(tokenizer.vocab_size()) + 5 {
        let token = library.id_to_token(id);
        assert_eq!(token.is_none(), tokenizer.token_bytes(id).is_empty(), "{name} {id} {token:?}");
        if let Some(token) = token {
            assert_eq!(tokenizer.token_id(&token), library.token_to_id(&token), "{name} {token:?}");
        }
    }
}

fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut whole: Value = serde_json::from_slice(&fixture(name)).unwrap();
    change(&mut whole);
    serde_json::to_vec(&whole).unwrap()
}

#[test]
fn random_text_has_the_librarys_ids() {
    for (seed, name) in TOKENIZERS.into_iter().enumerate() {
        let mut random = Random(seed as u64);
        compare(name, &fixture(name), (0..3000).map(|_| random_text(&mut random)));
    }
}

#[test]
fn model_options_work_as_in_the_library() {
    type Change = fn(&mut Value);
    let cases: [(&str, &str, Change); 8] = [
        ("unknown, fused", "mistral", |whole| whole["model"]["byte_fallback"] = json!(false)),
        ("unknown, one by one", "mistral", |whole| {
            whole["model"]["byte_fallback"] = json!(false);
            whole["model"]["fuse_unk"] = json!(false);
        }),
        ("unknown in front of bytes", "mistral", |whole| {
            let vocab = whole["model"]["vocab"].as_object_mut().unwrap();
            for byte in 0xE0..=0xFF {
                vocab.remove(&format!("<0x{byte:02X}>"));
            }
        }),
        ("neither unknown nor bytes", "mistral_metaspace", |whole| {
            whole["model"]["byte_fallback"] = json!(false);
            whole["model"]["unk_token"] = Value::Null;
        }),
        ("words before merges", "mistral_metaspace", |whole| whole["model"]["ignore_merges"] = json!(true)),
        ("merges before words", "llama3", |whole| whole["model"]["ignore_merges"] = json!(false)),
        ("ids with gaps", "qwen2", |whole| {
            for (_, id) in whole["model"]["vocab"].as_object_mut().unwrap() {
                *id = json!(id.as_u64().unwrap() * 3 + 7);
            }
        }),
        ("added tokens of all kinds", "mistral", |whole| {
            let added = |content: &str, flags: &str| {
                let has = |flag: &str| flags.contains(flag);
                json!({"id": 0, "content": content, "single_word": has("word"), "lstrip": has("left"),
                    "rstrip": has("right"), "normalized": has("normalized"), "special": has("special")})
            };
            whole["added_tokens"].as_array_mut().unwrap().extend([
                added("bot", "word"),
                added("robot", "left right"),
                added("Spool", "special normalized"),
                added("the", "normalized word left"),
                added("adapter", ""),
                added("adapter", "left"),
                added("é", "word special"),
                added(" x", "normalized"),
                added("", "special"),
            ]);
        }),
    ];
    for (seed, (what, name, change)) in cases.into_iter().enumerate() {
        let mut random = Random(100 + seed as u64);
        compare(what, &changed(name, change), (0..1500).map(|_| random_text(&mut random)));
    }
}

/// A model of random merges over few letters: most words have many merges of the same rank side by side.
fn random_model(random: &mut Random) -> Vec<u8> {
    let prefix = random.pick(&["", "", "##"]);
    let suffix = random.pick(&["", "", "$"]);
    let letters = ["a", "b", "c"];
    let mut vocab = Map::new();
    for letter in letters {
        for piece in [
            letter.to_owned(),
            format!("{prefix}{letter}"),
            format!("{letter}{suffix}"),
            format!("{prefix}{letter}{suffix}"),
        ] {
            let id = vocab.len();
            vocab.entry(piece).or_insert(json!(id));
        }
    }
    let mut merges = Vec::new();
    for _ in 0..4 + random.below(40) {
        let pieces: Vec<String> = vocab.keys().cloned().collect();
        let left = &pieces[random.below(pieces.len())];
        let right = &pieces[random.below(pieces.len())];
        let Some(bare) = right.strip_prefix(prefix) else { continue };
        let id = vocab.len();
        vocab.entry(format!("{left}{bare}")).or_insert(json!(id));
        merges.push(json!([left, right]));
    }
    let option = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
    let model = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": option(prefix),
        "end_of_word_suffix": option(suffix), "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        "vocab": vocab, "merges": merges});
    let whole = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null, "model": model});
    serde_json::to_vec(&whole).unwrap()
}

#[test]
fn random_models_merge_in_the_librarys_order() {
    for seed in 0..300 {
        let mut random = Random(1000 + seed);
        let json = random_model(&mut random);
        let mut word = |_| {
            let length = 1 + random.below(60);
            let repeats = random.chance(30);
            let letter = |_| if repeats { 'a' } else { ['a', 'b', 'c', ' '][random.below(4)] };
            (0..length).map(letter).collect::<String>()
        };
        compare(&format!("model {seed}"), &json, (0..40).map(&mut word).collect::<Vec<_>>());
    }
}

#[test]
fn a_long_word_is_no_trouble() {
    for name in TOKENIZERS {
        let words = ["a".repeat(200_000), "thequickbrown".repeat(20_000), "世".repeat(60_000)];
        compare(name, &fixture(name), words);
    }
}

#[test]
fn the_same_file_gives_the_same_bytes() {
    // A change here changes the layout, the hashes or the meaning: count VERSION in src/text/table.rs up.
    let wanted = [3_554_714_883, 1_738_882_643, 2_147_034_592, 2_493_700_260, 1_402_241_362];
    let sums = TOKENIZERS.map(|name| crc32fast::hash(&Tokenizer::compile(&fixture(name)).unwrap()));
    let again = TOKENIZERS.map(|name| crc32fast::hash(&Tokenizer::compile(&fixture(name)).unwrap()));
    assert_eq!(sums, again);
    assert_eq!(sums, wanted);
}

/// Opens damaged bytes and uses them for all that a tokenizer does.
fn use_table(bytes: Vec<u8>, text: &Prompt) -> Result<Tokenizer, TextError> {
    let tokenizer = Tokenizer::open(Arc::new(bytes))?;
    let ids = tokenizer.encode(text).unwrap_or_default();
    tokenizer.decode(&ids);
    let size = token(tokenizer.vocab_size());
    for id in [0, 1, 300, 594, 600, size.wrapping_sub(1), size, u32::MAX] {
        tokenizer.token_bytes(id);
    }
    Ok(tokenizer)
}

#[test]
fn damaged_tables_are_errors_or_wrong_ids() {
    let text = Prompt::trusted("Hello  <|im_end|> wörld 世界 123\n\n</s> robot the spool \u{1F600}").unwrap();
    for name in TOKENIZERS {
        let whole = Tokenizer::compile(&fixture(name)).unwrap();
        assert!(use_table(whole.to_vec(), &text).unwrap().is_intact());
        for length in (0..whole.len()).step_by(97) {
            assert!(use_table(whole[..length].to_vec(), &text).is_err(), "{name} cut at {length}");
        }
        let mut random = Random(9);
        let mut n_opened = 0;
        for _ in 0..500 {
            let mut bytes = whole.to_vec();
            let place = random.below(bytes.len());
            match random.below(3) {
                0 => bytes[place] ^= 1 << random.below(8),
                1 => bytes[place] = 0xFF,
                _ => bytes[place..(place + 64).min(whole.len())].fill(random.byte_below(256)),
            }
            let is_changed = bytes != **whole;
            let opened = use_table(bytes, &text);
            assert!(place >= 128 || !is_changed || opened.is_err(), "{name}: header changed at {place}");
            n_opened += usize::from(opened.is_ok());
            assert!(opened.is_err() || opened.unwrap().is_intact() != is_changed);
        }
        assert!(n_opened > 100, "{n_opened}");
    }
}

#[test]
fn lying_headers_are_errors_or_wrong_ids() {
    let text = Prompt::trusted("Hello <|im_end|> wörld 世界 123").unwrap();
    let whole = Tokenizer::compile(&fixture("qwen2")).unwrap();
    let mut random = Random(11);
    for _ in 0..1000 {
        let mut bytes = whole.to_vec();
        for _ in 0..=random.below(2) {
            let place = 16 + 4 * random.below(20);
            let old = u32::from_le_bytes(bytes[place..place + 4].try_into().unwrap());
            let lies =
                [0, 1, 2, old.wrapping_sub(1), old.wrapping_add(1), old << 1, old >> 1, u32::MAX, 1 << 31];
            bytes[place..place + 4].copy_from_slice(&lies[random.below(lies.len())].to_le_bytes());
        }
        let sum = crc32fast::hash(&bytes[16..128]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        let _ = use_table(bytes, &text);
    }
}
