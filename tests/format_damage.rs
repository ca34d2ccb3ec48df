//! Damaged files are errors or harmless: never a panic, never much more memory than the file.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jetspool::device::Cpu;
use jetspool::format::engine::items;
use jetspool::format::onnx::OnnxConfig;
use jetspool::format::{
    Adapter, EngineConfig, PeftConfig, Quantization, ShardIndex, TensorFile, parse_checkpoint_config,
};
use jetspool::kernels::Kernels;
use jetspool::model::Decoder;
use jetspool::numbers::Precision;
use jetspool::store::{Checkpoint, Engine};
use jetspool::tools::build::Progress;
use jetspool::tools::{
    BuildOptions, InsertOptions, MergeOptions, MergeType, ProcessOptions, ToolError, build, build_onnx,
    insert_lora, merge_lora, process_lora,
};
use support::build_options;
use support::random::Random;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// Counts the bytes each thread holds.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = NOW.try_with(|now| {
            now.set(now.get().wrapping_add(layout.size()));
            let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
        });
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = NOW.try_with(|now| now.set(now.get().saturating_sub(layout.size())));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Highest number of bytes held at once during a call, beyond those held before.
fn peak_of(call: impl FnOnce()) -> usize {
    let before = NOW.get();
    PEAK.set(before);
    call();
    PEAK.get().saturating_sub(before)
}

/// One of: a flipped bit, another byte, a digit for a digit, bytes removed, bytes doubled, a number made huge.
fn mutate(bytes: &[u8], focus: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(focus.min(bytes.len()));
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next().to_le_bytes()[0],
            2 => {
                let digit = (at..focus.min(bytes.len())).find(|at| bytes[*at].is_ascii_digit());
                bytes[digit.unwrap_or(at)] = b'0' + random.byte_below(10);
            }
            3 => drop(bytes.drain(at..(at + 1 + random.below(8)).min(bytes.len()))),
            4 => {
                let piece = bytes[at..(at + 1 + random.below(40)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                if let Some(digit) = (at..focus.min(bytes.len())).find(|at| bytes[*at].is_ascii_digit()) {
                    bytes.splice(digit..=digit, *b"99999999999");
                }
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

/// Memory that a parser may use for a small file whatever its size: tables, messages, regular expressions.
const SLACK: usize = 384 << 10;

/// Runs every truncation at a multiple of 97 and 2,000 mutations of the first `focus` bytes.
fn torture(name: &str, good: &[u8], focus: usize, mut read: impl FnMut(&[u8]) -> bool) {
    assert!(read(good), "{name}: the undamaged file must be read");
    let mut check = |bytes: &[u8], what: &str| {
        let mut is_ok = false;
        let peak = peak_of(|| is_ok = read(bytes));
        assert!(peak <= 2 * bytes.len() + SLACK, "{name}: {what} needs {peak} bytes for {}", bytes.len());
        is_ok
    };
    for end in (0..good.len()).step_by(97) {
        assert!(!check(&good[..end], &format!("cut at {end}")), "{name}: cut at {end} is read");
    }
    let mut random = Random(good.len() as u64);
    let n_refused = (0..2000)
        .filter(|round| !check(&mutate(good, focus, &mut random), &format!("mutation {round}")))
        .count();
    assert!(n_refused > 100, "{name}: only {n_refused} mutations were refused");
}

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/references/models").join(name)
}

fn header_len(bytes: &[u8]) -> usize {
    8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap()
}

fn options(source: &Path, engine_dir: &Path, precision: Precision, max_lora_rank: usize) -> BuildOptions {
    // Memory is counted by thread.
    BuildOptions { n_threads: 1, ..build_options(source, engine_dir, precision, max_lora_rank) }
}

#[test]
fn configurations() {
    for name in ["llama3", "phi3_long", "qwen2_5_vl"] {
        let config = fs::read(model(name).join("config.json")).unwrap();
        torture(name, &config, config.len(), |bytes| parse_checkpoint_config(bytes).is_ok());
    }
    let adapter = fs::read(model("qwen2").join("adapters/patterns/adapter_config.json")).unwrap();
    torture("adapter config", &adapter, adapter.len(), |bytes| {
        PeftConfig::parse(bytes).is_ok_and(|config| config.scale_of("model.layers.0.mlp.up_proj") > -1e300)
    });
    let index = fs::read(model("llama3").join("model.safetensors.index.json")).unwrap();
    torture("shard index", &index, index.len(), |bytes| ShardIndex::parse(bytes).is_ok());
}

#[test]
fn processed_adapters() {
    for (of, name) in [("qwen2", "mlp_r3"), ("phi3", "fused_all")] {
        let process = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/references/process");
        let good = fs::read(process.join(of).join(format!("{name}.safetensors"))).unwrap();
        let config = fs::read(model(of).join("config.json")).unwrap();
        let architecture = parse_checkpoint_config(&config).unwrap().architecture;
        let focus = header_len(&good);
        torture(name, &good, focus, |bytes| {
            let file = TensorFile::parse(Arc::new(bytes.to_vec()));
            file.is_ok_and(|file| Adapter::bind(file, &architecture, 64).is_ok())
        });
    }
}

#[test]
fn peft_adapters() {
    let scratch = tempfile::tempdir().unwrap();
    let source = model("qwen2").join("adapters/mlp_r3");
    fs::copy(source.join("adapter_config.json"), scratch.path().join("adapter_config.json")).unwrap();
    let good = fs::read(source.join("adapter_model.safetensors")).unwrap();
    let focus = header_len(&good);
    let options = ProcessOptions::new(scratch.path().to_owned(), scratch.path().join("out"));
    torture("PEFT adapter", &good, focus, |bytes| {
        fs::write(scratch.path().join("adapter_model.safetensors"), bytes).unwrap();
        process_lora(&options).is_ok()
    });
}

#[test]
fn checkpoints() {
    let scratch = tempfile::tempdir().unwrap();
    let good = fs::read(model("qwen2").join("model.safetensors")).unwrap();
    let focus = header_len(&good);
    let config = fs::read(model("qwen2").join("config.json")).unwrap();
    fs::write(scratch.path().join("config.json"), &config).unwrap();
    let weights = scratch.path().join("model.safetensors");
    let engine_dir = scratch.path().join("engine");
    // A file this size is cut at its header and at a few places behind it.
    let architecture = parse_checkpoint_config(&config).unwrap().architecture;
    let wanted = items(&architecture, Precision::F32);
    torture("checkpoint weights", &good[..], focus, |bytes| {
        fs::write(&weights, bytes).unwrap();
        let opened = Checkpoint::open(scratch.path());
        opened.is_ok_and(|checkpoint| {
            wanted.iter().all(|item| {
                checkpoint.tensor(item.name()).is_some_and(|tensor| tensor.shape() == item.logical_shape())
            })
        })
    });
    let mut random = Random(5);
    for _ in 0..100 {
        fs::write(&weights, mutate(&good, focus, &mut random)).unwrap();
        let _ = build(&options(scratch.path(), &engine_dir, Precision::Int4, 16));
    }
    fs::write(&weights, &good).unwrap();
    for _ in 0..100 {
        fs::write(scratch.path().join("config.json"), mutate(&config, config.len(), &mut random)).unwrap();
        let _ = build(&options(scratch.path(), &engine_dir, Precision::Int4, 16));
    }
}

#[test]
fn engines() {
    let scratch = tempfile::tempdir().unwrap();
    let engine_dir = scratch.path().join("engine");
    build(&options(&model("qwen2"), &engine_dir, Precision::Int4, 16)).unwrap();
    let config_path = engine_dir.join("config.json");
    let config = fs::read(&config_path).unwrap();
    torture("engine config", &config, config.len() - 1, |bytes| EngineConfig::from_json(bytes).is_ok());
    let weights_path = engine_dir.join("llm.engine");
    let weights = fs::read(&weights_path).unwrap();
    torture("engine weights", &weights, header_len(&weights), |bytes| {
        fs::write(&weights_path, bytes).unwrap();
        Engine::open(&engine_dir).is_ok()
    });
}

fn onnx_directory(name: &str) -> (tempfile::TempDir, PathBuf) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/references/onnx").join(name);
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("onnx");
    fs::create_dir(&directory).unwrap();
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, directory.join(path.file_name().unwrap())).unwrap();
    }
    (scratch, directory)
}

#[test]
fn onnx_models() {
    for name in ["older_qwen3", "newer_int4", "older_int8", "newer_nvfp4"] {
        let (_scratch, directory) = onnx_directory(name);
        let path = directory.join("model.onnx");
        let good = fs::read(&path).unwrap();
        torture(name, &good, good.len(), |bytes| {
            fs::write(&path, bytes).unwrap();
            let inserted = insert_lora(&InsertOptions { onnx_dir: directory.clone() });
            if let Err(error) = &inserted {
                let message = error.to_string();
                assert!(message.contains("model.onnx"), "{name}: {message} names no file");
                assert!(message.len() < 2000, "{name}: {} bytes of message", message.len());
            }
            inserted.is_ok()
        });
    }
}

#[test]
fn onnx_directories() {
    check_onnx_directory("older_qwen2", "onnx_model.data");
    check_onnx_directory("older_int8", "onnx_model.data");
    check_onnx_directory("newer_nvfp4", "model.onnx.data");
}

fn check_onnx_directory(layout: &str, data_file: &str) {
    let (scratch, directory) = onnx_directory(layout);
    let engine_dir = scratch.path().join("engine");
    let options = options(&directory, &engine_dir, Precision::F16, 0);
    let config_path = directory.join("config.json");
    let config = fs::read(&config_path).unwrap();
    torture("ONNX config", &config, config.len() - 1, |bytes| OnnxConfig::from_json(bytes).is_ok());
    let mut random = Random(11);
    let names = ["model.onnx", "config.json", "embedding.safetensors", data_file];
    for name in names {
        let path = directory.join(name);
        let good = fs::read(&path).unwrap();
        for round in 0..60 {
            let is_cut = round % 3 == 0;
            let bytes = match is_cut {
                true => good[..random.below(good.len())].to_vec(),
                false => mutate(&good, good.len().min(4096), &mut random),
            };
            fs::write(&path, bytes).unwrap();
            match build_onnx(&options) {
                Ok(_) => assert!(!is_cut, "{name}: cut, but built"),
                Err(error) => {
                    let message = error.to_string();
                    // A number that no engine holds is named by its tensor.
                    let is_range = matches!(error, ToolError::Range { .. });
                    assert!(is_range || names.iter().any(|name| message.contains(name)), "{message}");
                }
            }
        }
        fs::write(&path, &good).unwrap();
    }
    build_onnx(&options).unwrap();
}

fn quantized_directory(name: &str) -> (tempfile::TempDir, PathBuf) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/references/quantized").join(name);
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("checkpoint");
    fs::create_dir(&directory).unwrap();
    for name in ["config.json", "hf_quant_config.json", "model.safetensors"] {
        if source.join(name).exists() {
            fs::copy(source.join(name), directory.join(name)).unwrap();
        }
    }
    (scratch, directory)
}

#[test]
fn quantized_checkpoints() {
    let mut random = Random(17);
    for name in ["gptq_order", "awq_g64", "int4_awq", "nvfp4", "mixed", "mxfp8"] {
        let (scratch, directory) = quantized_directory(name);
        let engine_dir = scratch.path().join("engine");
        let options = options(&directory, &engine_dir, Precision::Stored, 16);
        for file in ["model.safetensors", "config.json", "hf_quant_config.json"] {
            let path = directory.join(file);
            let Ok(good) = fs::read(&path) else { continue };
            let focus = if file == "model.safetensors" { header_len(&good) } else { good.len() };
            for round in 0..45 {
                let is_cut = round % 3 == 0;
                let bytes = match is_cut {
                    true => good[..random.below(good.len() - 1)].to_vec(),
                    false => mutate(&good, focus, &mut random),
                };
                fs::write(&path, bytes).unwrap();
                match build(&options) {
                    Ok(_) => assert!(!is_cut, "{name}: {file} cut, but built"),
                    Err(error) => {
                        let message = error.to_string();
                        let place = directory.display().to_string();
                        let is_option = matches!(error, ToolError::Options(_));
                        assert!(is_option || message.contains(&place), "{name}: {message} names no file");
                        assert!(message.len() < 4000, "{name}: {} bytes of message", message.len());
                    }
                }
            }
            fs::write(&path, &good).unwrap();
        }
        build(&options).unwrap();
        engine_of(&engine_dir, &mut random);
    }
}

/// Mutated headers of an engine: whoever makes a decoder of it says what is wrong, or makes one that fits.
fn engine_of(engine_dir: &Path, random: &mut Random) {
    let path = engine_dir.join("llm.engine");
    let good = fs::read(&path).unwrap();
    // The tensors of the header, without what fills it up.
    let end = good[8..header_len(&good)].iter().rposition(|byte| *byte == b'}').unwrap() + 9;
    let (mut n_refused, mut n_good) = (0, 0);
    for _ in 0..150 {
        fs::write(&path, mutate(&good, end, random)).unwrap();
        let Ok(engine) = Engine::open(engine_dir) else { continue };
        let cpu = Cpu::new(Kernels::detect(), 1).unwrap();
        match Decoder::new(cpu, &engine.config, &engine.tensors) {
            Ok(_) => n_good += 1,
            Err(error) => {
                n_refused += 1;
                assert!(error.to_string().len() < 2000, "{error}");
            }
        }
    }
    fs::write(&path, &good).unwrap();
    let engine = Engine::open(engine_dir).unwrap();
    Decoder::new(Cpu::new(Kernels::detect(), 1).unwrap(), &engine.config, &engine.tensors).unwrap();
    assert!(n_refused + n_good > 0, "no mutation got as far as a decoder");
}

#[test]
fn quantization_configurations() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/references/quantized");
    for name in ["mixed", "gptq_order", "awq_g128"] {
        let config = fs::read(root.join(name).join("config.json")).unwrap();
        torture(name, &config, config.len(), |bytes| parse_checkpoint_config(bytes).is_ok());
    }
    let config = fs::read(root.join("int4_awq/hf_quant_config.json")).unwrap();
    torture("hf_quant_config", &config, config.len(), |bytes| {
        Quantization::from_hf_quant_config(bytes).is_ok_and(|it| it.algorithm("lm_head").is_none())
    });
}

#[test]
fn merges() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/references/merge/gpt2");
    let scratch = tempfile::tempdir().unwrap();
    let (model_dir, lora_dir) = (scratch.path().join("model"), scratch.path().join("lora"));
    for (from, to) in [(source.clone(), &model_dir), (source.join("adapters/conv_dora"), &lora_dir)] {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
            if entry.path().is_file() {
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }
    let options = MergeOptions {
        model_dir: model_dir.clone(),
        lora_dir: lora_dir.clone(),
        output_dir: scratch.path().join("merged"),
        element: MergeType::F16,
        n_threads: 2,
        progress: Progress::Quiet,
        home: None,
    };
    merge_lora(&options).unwrap();
    let files = [
        lora_dir.join("adapter_model.safetensors"),
        lora_dir.join("adapter_config.json"),
        model_dir.join("model.safetensors"),
        model_dir.join("config.json"),
    ];
    let mut random = Random(13);
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let good = fs::read(&path).unwrap();
        let focus = if name.ends_with("json") { good.len() } else { header_len(&good) };
        let mut n_refused = 0;
        for round in 0..200 {
            let is_cut = round % 4 == 0;
            let bytes = match is_cut {
                true => good[..random.below(good.len() - 2)].to_vec(),
                false => mutate(&good, focus, &mut random),
            };
            fs::write(&path, &bytes).unwrap();
            let mut result = None;
            let peak = peak_of(|| result = Some(merge_lora(&options)));
            // Writing has a buffer of its own.
            let bound = 2 * bytes.len() + SLACK + (2 << 20);
            assert!(peak <= bound, "{name}: round {round} needs {peak} bytes");
            let Err(error) = result.unwrap() else {
                assert!(!is_cut, "{name}: cut, but merged");
                continue;
            };
            n_refused += 1;
            let message = error.to_string();
            // What is missing in one file is named with the other, which asks for it.
            let is_named = [lora_dir.as_path(), model_dir.as_path()]
                .iter()
                .any(|directory| message.contains(&directory.display().to_string()));
            assert!(is_named && message.len() < 4000, "{name}: {message}");
        }
        assert!(n_refused > 60, "{name}: only {n_refused} were refused");
        fs::write(&path, &good).unwrap();
    }
    merge_lora(&options).unwrap();
}
