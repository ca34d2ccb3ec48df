//! GGUF files against the package gguf and against the checkpoints they are made from (scripts/make_gguf_fixtures.py).

use std::fs;
use std::path::{Path, PathBuf};

use jetspool::format::StoredMatrix;
use jetspool::format::engine::{Item, items};
use jetspool::format::gguf::{GgufFile, Value, gguf_place, read_decoder, read_vocabulary};
use jetspool::format::parse_checkpoint_config;
use jetspool::numbers::Precision;
use jetspool::numbers::architecture::RopeScaling;
use jetspool::numbers::gguf::BlockKind;
use jetspool::store::Engine;
use jetspool::text::{Prompt, TextError, Tokenizer, VocabularyParts, assemble_tokenizer};
use jetspool::tools::{
    BuildOptions, ProcessInput, ProcessOptions, ToolError, build, build_gguf, inspect, process_lora,
};

use crate::support::random::Random;
use crate::support::{Built, build_options, contents, data, json, matrix_numbers, reference};

const MODELS: [&str; 7] = ["llama_gqa", "llama_bias", "qwen2", "qwen3", "phi3", "phi3_short", "gemma3"];

fn gguf(name: &str) -> PathBuf {
    data(&format!("gguf/{name}.gguf"))
}

fn options(source: &Path, engine_dir: &Path, precision: Precision) -> BuildOptions {
    build_options(source, engine_dir, precision, 8)
}

/// The weights of a reference model with the configuration that its GGUF file stands for.
fn checkpoint(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(data(&format!("gguf/{name}.json")), folder.path().join("config.json")).unwrap();
    let weights = reference(&format!("models/{name}/model.safetensors"));
    fs::copy(weights, folder.path().join("model.safetensors")).unwrap();
    folder
}

#[test]
fn blocks_decode_to_the_bits_of_the_package() {
    for kind in BlockKind::ALL {
        let read = |end: &str| fs::read(data(&format!("gguf/blocks/{}.{end}", kind.name()))).unwrap();
        let (stored, wanted) = (read("bin"), read("f32"));
        let mut found = vec![f32::NAN; wanted.len() / 4];
        assert_eq!(kind.row_bytes(found.len()), Some(stored.len()), "{}", kind.name());
        kind.decode(&stored, &mut found);
        let wanted = wanted.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four));
        let different = found.iter().map(|value| value.to_bits()).zip(wanted).position(|(a, b)| a != b);
        assert_eq!(different, None, "{}", kind.name());
    }
}

#[test]
fn engines_are_those_of_the_checkpoints() {
    for name in MODELS {
        for precision in [Precision::F32, Precision::F16, Precision::Int8, Precision::Int4] {
            let (scratch, source) = (tempfile::tempdir().unwrap(), checkpoint(name));
            let (wanted_dir, found_dir) = (scratch.path().join("wanted"), scratch.path().join("engine"));
            let wanted = build(&options(source.path(), &wanted_dir, precision)).unwrap().config.architecture;
            let found = build_gguf(&options(&gguf(name), &found_dir, precision)).unwrap().config.architecture;
            // Llama 3's rule comes as factors.
            let mut same = found.clone();
            if let RopeScaling::Llama3 { .. } = wanted.rope.scaling {
                same.rope.scaling = wanted.rope.scaling.clone();
                assert_ne!(found, wanted);
            } else if let (
                RopeScaling::LongRope { short, .. },
                RopeScaling::LongRope { short: wanted_short, .. },
            ) = (&found.rope.scaling, &wanted.rope.scaling)
            {
                let pairs = short.factors.iter().zip(&wanted_short.factors);
                assert!(
                    pairs.into_iter().all(|(a, b)| (a / b - 1.0).abs() < 1e-7),
                    "{short:?} {wanted_short:?}"
                );
                assert!((short.attention_factor / wanted_short.attention_factor - 1.0).abs() < 1e-7);
                same.rope.scaling = wanted.rope.scaling.clone();
            }
            assert_eq!(same, wanted, "{name}");
            let (wanted, found) = (contents(&wanted_dir), contents(&found_dir));
            assert!(found.keys().eq(wanted.keys()), "{name}");
            let names = wanted.keys().filter(|name| found[*name] != wanted[*name]);
            assert_eq!(names.collect::<Vec<_>>(), Vec::<&String>::new(), "{name} {precision}");
        }
    }
}

#[test]
fn logits_are_those_of_the_checkpoints() {
    for name in MODELS {
        let scratch = tempfile::tempdir().unwrap();
        build_gguf(&options(&gguf(name), &scratch.path().join("engine"), Precision::F32)).unwrap();
        let found = Built::open(scratch, 2);
        let wanted = Built::new(checkpoint(name).path(), Precision::F32, 2);
        let tokens: Vec<u32> = (0..96).map(|at| (at * 37 + 5) % 150).collect();
        let (found, wanted) = (found.logits(&tokens, None, 96), wanted.logits(&tokens, None, 96));
        let pairs = found.iter().flatten().zip(wanted.iter().flatten());
        let largest = pairs.fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(largest < 1e-4, "{name}: {largest}");
        assert!(found[95].iter().any(|value| value.abs() > 1e-2), "{name}");
    }
}

/// What each matrix of the files is kept as, others than q4_0.
const KEPT: [(&str, &[(&str, &str)]); 2] = [
    (
        "llama_blocks",
        &[("gate_proj", "int8 in groups of 32"), ("embed", "int8 in groups of 32"), ("up_proj", "q5_0")],
    ),
    (
        "llama_k_blocks",
        &[
            ("embed", "q6_k"),
            ("q_proj", "q4_k"),
            ("k_proj", "q5_k"),
            ("v_proj", "q6_k"),
            ("o_proj", "q5_1"),
            ("gate_proj", "q4_k"),
            ("up_proj", "q5_k"),
            ("down_proj", "q4_1"),
        ],
    ),
];

/// Every block is that of the file, to the bits of its numbers, in about its bytes.
#[test]
fn blocks_are_kept() {
    KEPT.iter().for_each(|(name, kinds)| assert_kept(name, kinds));
}

fn assert_kept(file: &str, kinds: &[(&str, &str)]) {
    let engine = |precision| {
        let scratch = tempfile::tempdir().unwrap();
        let engine_dir = scratch.path().join("engine");
        build_gguf(&options(&gguf(file), &engine_dir, precision)).unwrap();
        (Engine::open(&engine_dir).unwrap(), scratch)
    };
    let ((kept, kept_dir), (plain, plain_dir)) = (engine(Precision::Stored), engine(Precision::F32));
    let bytes = fs::read(gguf(file)).unwrap();
    let parsed = GgufFile::parse(&bytes).unwrap();
    for item in items(&kept.config.architecture, Precision::F32) {
        let Item::Matrix { name, shape, .. } = &item else { continue };
        let stored = StoredMatrix::find(&kept.tensors, name, *shape).unwrap();
        let wanted = kinds.iter().find(|(part, _)| name.contains(part));
        assert_eq!(
            stored.kind.to_string(),
            wanted.map_or("int4 in groups of 32", |(_, kind)| kind),
            "{name}"
        );
        let numbers = matrix_numbers(&kept, &item).unwrap();
        assert!(numbers.iter().any(|number| *number != 0.0), "{name}");
        assert_eq!(Some(numbers), matrix_numbers(&plain, &item), "{name}");
        let place = gguf_place(&kept.config.architecture, name).unwrap();
        // Scales of six bits take a byte each, those of Q8_0 four.
        let in_file =
            parsed.tensor(&place.tensor).unwrap().bytes.len() * shape.rows.next_multiple_of(16) / shape.rows;
        let in_engine = [Some(&stored.values), stored.scale.as_ref(), stored.row_scale.as_ref()];
        let in_engine: usize = in_engine.into_iter().flatten().map(|tensor| tensor.data().len()).sum();
        assert!(in_engine <= in_file * 106 / 100, "{name}: {in_engine} of {in_file}");
    }
    // Inputs are rounded to eight bits in blocks.
    let [kept_logits, plain_logits] =
        [kept_dir, plain_dir].map(|folder| Built::open(folder, 2).logits(&[5, 42, 7, 91], None, 4).concat());
    let largest = |values: &[f32]| values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let differences: Vec<f32> = kept_logits.iter().zip(&plain_logits).map(|(a, b)| a - b).collect();
    assert!(largest(&differences) < 0.05 * largest(&plain_logits), "{file} {}", largest(&differences));
    assert_eq!(kept.config.precision, Precision::Stored);
}

/// What is made of an adapter's file are the bytes that are made of PEFT's.
#[test]
fn adapters_are_those_of_peft() {
    for (model, adapter) in [("llama_bias", "all_r8"), ("phi3_short", "fused_patterns")] {
        let scratch = tempfile::tempdir().unwrap();
        let [engine_dir, wanted_dir, found_dir] =
            ["engine", "wanted", "found"].map(|name| scratch.path().join(name));
        build(&options(&reference(&format!("models/{model}")), &engine_dir, Precision::F16)).unwrap();
        let peft_dir = reference(&format!("models/{model}/adapters/{adapter}"));
        let wanted = process_lora(&ProcessOptions::new(peft_dir, wanted_dir.clone())).unwrap();
        let input =
            ProcessInput::Gguf { file: gguf(&format!("{model}.{adapter}")), engine_dir: engine_dir.clone() };
        let from_gguf = ProcessOptions { input, ..ProcessOptions::new(PathBuf::new(), found_dir.clone()) };
        let found = process_lora(&from_gguf).unwrap();
        assert_eq!((found.n_pairs, found.max_rank), (wanted.n_pairs, wanted.max_rank), "{model}");
        let weights = |path: &Path| fs::read(path).unwrap();
        assert_eq!(weights(&found.path), weights(&wanted.path), "{model}");
        let page = inspect(&gguf(&format!("{model}.{adapter}"))).unwrap();
        assert!(page.contains("adapter.type = lora") && page.contains("process-lora --ggufFile"), "{page}");
        let not_built = reference(&format!("models/{model}"));
        let input = ProcessInput::Gguf { file: gguf(&format!("{model}.{adapter}")), engine_dir: not_built };
        let refused = process_lora(&ProcessOptions { input, ..from_gguf.clone() }).unwrap_err().to_string();
        assert!(refused.contains("is a checkpoint, wanted an engine directory"), "{refused}");
        // A model is no adapter, and an adapter no model.
        let input = ProcessInput::Gguf { file: gguf("qwen3"), engine_dir: engine_dir.clone() };
        let refused = process_lora(&ProcessOptions { input, ..from_gguf.clone() }).unwrap_err().to_string();
        assert!(refused.contains("not of a LoRA adapter"), "{refused}");
        let file =
            gguf(if model == "phi3_short" { "llama_bias.all_r8" } else { "phi3_short.fused_patterns" });
        let input = ProcessInput::Gguf { file, engine_dir: engine_dir.clone() };
        let refused = process_lora(&ProcessOptions { input, ..from_gguf.clone() }).unwrap_err().to_string();
        assert!(refused.contains("the engine is of"), "{refused}");
        let built = build_gguf(&options(&gguf(&format!("{model}.{adapter}")), &wanted_dir, Precision::F16));
        let refused = built.unwrap_err().to_string();
        assert!(refused.contains("process-lora --ggufFile"), "{refused}");
    }
}

/// tokenizer.json and tokenizer_config.json of a file.
fn tokenizer_files(path: &Path) -> Result<(Vec<u8>, Vec<u8>), TextError> {
    let bytes = fs::read(path).unwrap();
    let file = GgufFile::parse(&bytes).unwrap();
    let vocabulary = read_vocabulary(&file.metadata, 1 << 20).unwrap().unwrap();
    let files = assemble_tokenizer(&VocabularyParts {
        model: vocabulary.model,
        pre_tokenizer: vocabulary.pre_tokenizer,
        tokens: &vocabulary.tokens,
        kinds: &vocabulary.kinds,
        merges: &vocabulary.merges,
        scores: &vocabulary.scores,
        add_space_prefix: vocabulary.add_space_prefix,
        named_tokens: &[("unk_token", vocabulary.unknown.unwrap_or_default())],
        ..VocabularyParts::default()
    })?;
    Ok((files.tokenizer, files.config))
}

#[test]
fn token_ids_are_the_librarys() {
    for name in ["qwen2", "llama3"] {
        let path = data(&format!("gguf/{name}.vocabulary.gguf"));
        let (tokenizer, _) = tokenizer_files(&path).unwrap();
        let tokenizer = Tokenizer::parse(&tokenizer).unwrap();
        let cases = json(&reference(&format!("tokenizers/{name}/cases.json")));
        let cases = cases["cases"].as_array().unwrap().iter().chain(cases["long_cases"].as_array().unwrap());
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let found = tokenizer.encode(&Prompt::trusted(text).unwrap()).unwrap();
            assert_eq!(serde_json::json!(found), case["ids"], "{name} {text:.60?}");
        }
    }
}

#[test]
fn pieces_are_those_of_sentencepiece() {
    for name in ["pieces", "pieces_plain"] {
        let path = data(&format!("gguf/{name}.vocabulary.gguf"));
        let tokenizer = Tokenizer::parse(&tokenizer_files(&path).unwrap().0).unwrap();
        let cases = json(&data(&format!("gguf/{name}.json")));
        for case in cases.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let found = tokenizer.encode(&Prompt::trusted(text).unwrap()).unwrap();
            assert_eq!(serde_json::json!(found), case["ids"], "{name} {text:?}");
            assert_eq!(tokenizer.decode(&found), case["decoded"].as_str().unwrap(), "{name} {text:?}");
        }
    }
    // As llama.cpp: a text behind a special token begins with a space too.
    let path = data("gguf/pieces.vocabulary.gguf");
    let tokenizer = Tokenizer::parse(&tokenizer_files(&path).unwrap().0).unwrap();
    let ids = |text: &str| tokenizer.encode(&Prompt::trusted(text).unwrap()).unwrap();
    assert_eq!(ids("<s>Hello"), [vec![1], ids("Hello")].concat());
}

#[test]
fn an_engine_has_the_texts_of_its_file() {
    let scratch = tempfile::tempdir().unwrap();
    let engine_dir = scratch.path().join("engine");
    let config = build_gguf(&options(&gguf("qwen2"), &engine_dir, Precision::Stored)).unwrap().config;
    assert_eq!((config.precision, config.bos_token_id), (Precision::F16, Some(596)));
    // <|im_end|> by its id, <|endoftext|> by its text.
    assert_eq!(config.eos_token_ids, [596, 598]);
    let template = fs::read_to_string(reference("tokenizers/qwen2/chat_template.jinja")).unwrap();
    let texts = json(&engine_dir.join("tokenizer_config.json"));
    assert_eq!((&texts["chat_template"], &texts["eos_token"]), (&template.into(), &"<|im_end|>".into()));
    assert!(Engine::open(&engine_dir).unwrap().tokenizer_table.is_some());
}

/// As the checkpoint's configuration has it, from which llama.cpp's converter takes the keys.
#[test]
fn yarn_is_that_of_the_checkpoint() {
    for name in ["yarn", "yarn_given"] {
        let bytes = fs::read(gguf(name)).unwrap();
        let found = read_decoder(&GgufFile::parse(&bytes).unwrap(), &bytes).unwrap().architecture.rope;
        let config = fs::read(data(&format!("gguf/{name}.json"))).unwrap();
        let wanted = parse_checkpoint_config(&config).unwrap().architecture.rope;
        assert!(matches!(found.scaling, RopeScaling::Yarn(_)), "{name}");
        assert_eq!(found, wanted, "{name}");
    }
}

#[test]
fn a_file_is_shown() {
    let page = inspect(&gguf("qwen2")).unwrap();
    for part in ["GGUF", "qwen2, 1 layer", "vocab 608", "BF16", "gpt2, qwen2", "chat template", "--ggufFile"]
    {
        assert!(page.contains(part), "{part} is not in\n{page}");
    }
}

/// A file of keys alone, with `changes` to the texts of the one for llama3.
fn changed(file: &str, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(gguf(file)).unwrap();
    let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
    bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
    bytes
}

#[test]
fn what_is_not_read_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.gguf");
    let refused = |bytes: &[u8]| -> ToolError {
        fs::write(&path, bytes).unwrap();
        build_gguf(&options(&path, &scratch.path().join("engine"), Precision::F16)).unwrap_err()
    };
    let cases = [
        (changed("qwen2", "qwen2", "gemma"), "gemma; supported: llama, qwen2, qwen3, phi3, gemma3"),
        (
            changed("qwen2", "gpt2", "bert"),
            "tokenizer.ggml.model bert is not supported; supported: gpt2, llama",
        ),
        (changed("llama_gqa", "attn_q.w", "attn_x.w"), "blk.0.attn_x.weight"),
        (changed("qwen2", "qwen2.block_count", "qwen2.blank_count"), "qwen2.block_count is missing"),
    ];
    for (bytes, said) in cases {
        let error = refused(&bytes).to_string();
        assert!(error.contains(said) && error.contains("model.gguf"), "{error}");
    }
    let error = refused(b"GGML").to_string();
    assert!(error.contains("begins \"GGML\", wanted a GGUF file"), "{error}");
    let mut bytes = fs::read(gguf("qwen2")).unwrap();
    bytes[4] = 1;
    assert!(refused(&bytes).to_string().contains("supported: 2, 3"));
    bytes[4..8].copy_from_slice(&[0, 0, 0, 3]);
    assert!(refused(&bytes).to_string().contains("big endian"));
    let unknown =
        VocabularyParts { model: "gpt2", pre_tokenizer: Some("poro"), ..VocabularyParts::default() };
    let error = assemble_tokenizer(&unknown).unwrap_err().to_string();
    assert!(error.contains("poro") && error.contains("llama-bpe"), "{error}");
}

/// All types of values, as docs/gguf.md has them; lists of lists are passed over.
#[test]
fn values_of_all_types_are_read() {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    let scalars: [(u32, &[u8], Value); 12] = [
        (0, &[200], Value::Unsigned(200)),
        (1, &[0xff], Value::Signed(-1)),
        (2, &[1, 2], Value::Unsigned(513)),
        (3, &[0xfe, 0xff], Value::Signed(-2)),
        (4, &[0xff; 4], Value::Unsigned(0xffff_ffff)),
        (5, &[0xff; 4], Value::Signed(-1)),
        (6, &[0, 0, 0x80, 0x3f], Value::Float(1.0)),
        (7, &[1], Value::Flag(true)),
        (8, &[2, 0, 0, 0, 0, 0, 0, 0, b'h', b'i'], Value::Text("hi")),
        (10, &[0xff; 8], Value::Unsigned(u64::MAX)),
        (11, &[0xff; 8], Value::Signed(-1)),
        (12, &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f], Value::Float(1.0)),
    ];
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend((scalars.len() as u64 + 2).to_le_bytes());
    for (kind, value, _) in &scalars {
        bytes.extend(3_u64.to_le_bytes());
        bytes.extend(format!("k{kind:02}").bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(*value);
    }
    let list = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let lists = [
        ("ids", [list(5, 2), vec![7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]].concat()),
        ("in", [list(9, 1), list(0, 3), vec![1; 3]].concat()),
    ];
    for (key, value) in &lists {
        bytes.extend((key.len() as u64).to_le_bytes());
        bytes.extend(key.bytes());
        bytes.extend(9_u32.to_le_bytes());
        bytes.extend(value);
    }
    let file = GgufFile::parse(&bytes).unwrap();
    for (kind, _, value) in &scalars {
        assert_eq!(file.metadata.get(&format!("k{kind:02}")), Some(value), "type {kind}");
    }
    assert_eq!(file.metadata.get("ids"), Some(&Value::Wholes(vec![7, -1])));
    assert_eq!(file.metadata.get("in"), Some(&Value::Other(1)));
    for end in 0..bytes.len() {
        assert!(GgufFile::parse(&bytes[..end]).is_err(), "cut at {end}");
    }
}

/// Nothing that a damaged header says makes a panic; what is read of it stays inside the file.
#[test]
fn damaged_headers_are_errors() {
    let good = fs::read(gguf("phi3_short")).unwrap();
    let file = GgufFile::parse(&good).unwrap();
    let data_start = file.tensors().map(|(_, tensor)| tensor.bytes.start).min().unwrap();
    let read = |bytes: &[u8]| {
        let Ok(file) = GgufFile::parse(bytes) else { return false };
        assert!(file.tensors().all(|(_, tensor)| tensor.bytes.end <= bytes.len()));
        read_decoder(&file, bytes).is_ok() && read_vocabulary(&file.metadata, 608).is_ok()
    };
    assert!(read(&good));
    for end in 0..data_start {
        assert!(!read(&good[..end]), "cut at {end} is read");
    }
    assert!(!read(&good[..good.len() - 33]));
    let mut n_refused = 0;
    for at in 0..data_start {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            n_refused += usize::from(!read(&bad));
        }
    }
    assert!(n_refused > data_start, "only {n_refused} of {} were refused", data_start * 3);
    let mut random = Random(15);
    for _ in 0..5000 {
        let mut bad = good.clone();
        for _ in 0..=random.below(4) {
            bad[random.below(data_start)] = random.next().to_le_bytes()[0];
        }
        read(&bad);
    }
}

/// Files with flipped bytes are built without a panic.
#[test]
fn damaged_files_are_built_or_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.gguf");
    let good = fs::read(gguf("qwen2")).unwrap();
    let mut random = Random(16);
    for _ in 0..60 {
        let mut bad = good.clone();
        bad[random.below(good.len() / 4)] ^= 1 << random.below(8);
        fs::write(&path, &bad).unwrap();
        let _ = build_gguf(&options(&path, &scratch.path().join("engine"), Precision::Int8));
    }
}
