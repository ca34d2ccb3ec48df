//! The static way, whole: a checkpoint with an adapter merged, quantized in every way, exported, built. References are
//! numpy's (`scripts/make_static_fixture.py`), those of other families the engines that parity.rs holds against
//! transformers; what quantized numbers mean is decoded here, by the layouts' descriptions.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::onnx::{differences, insert};
use crate::quantize_llm::{Stored, is_emulated};
use crate::support::random::Random;
use crate::support::{Built, build_options, ids, json, limits, reference, tensors, token};
use half::f16;
use jetspool::compress::{
    Cache, CalibrationOptions, Method, QuantizeOptions, QuantizeReport, Rounding, build_calibrated, quantize,
};
use jetspool::device::Cpu;
use jetspool::format::onnx::Model;
use jetspool::kernels::Kernels;
use jetspool::model::Decoder;
use jetspool::numbers::Precision;
use jetspool::store::{Engine, weight_files::WeightFiles};
use jetspool::tools::build::Progress;
use jetspool::tools::{
    ExportOptions, MergeOptions, MergeType, ProcessOptions, build, build_onnx, export, merge_lora,
    process_lora,
};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json as object};

/// Least cosine of a quantized model's logits with the original's, by method.
const LEAST: [(Method, f64); 5] = [
    (Method::Fp8, 0.99),
    (Method::Int8Sq, 0.99),
    (Method::Mxfp8, 0.99),
    (Method::INT4_AWQ, 0.93),
    (Method::Nvfp4, 0.90),
];

/// A scratch copy of a reference checkpoint with a tokenizer of single letters, which every vocabulary has room for.
fn with_letters(checkpoint: &Path, scratch: &Path) -> PathBuf {
    let directory = scratch.join("checkpoint");
    fs::create_dir(&directory).unwrap();
    for entry in fs::read_dir(checkpoint).unwrap().map(|entry| entry.unwrap()) {
        if entry.path().is_file() {
            fs::copy(entry.path(), directory.join(entry.file_name())).unwrap();
        }
    }
    add_letters(&directory);
    directory
}

fn add_letters(directory: &Path) {
    let mut tokenizer = json(&reference("tokenizers/qwen2/tokenizer.json"));
    let letters = ('!'..='~').map(String::from).chain(["Ġ".to_owned(), "Ċ".to_owned()]);
    let vocabulary = letters.enumerate().map(|(id, letter)| (letter, object!(id)));
    tokenizer["model"]["vocab"] = Value::Object(vocabulary.collect());
    tokenizer["model"]["merges"] = object!([]);
    tokenizer["added_tokens"] = object!([]);
    tokenizer["post_processor"] = Value::Null;
    fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

fn quantized(model_dir: &Path, output_dir: &Path, method: Method) -> QuantizeReport {
    let text = output_dir.with_extension("txt");
    fs::write(&text, some_letters()).unwrap();
    let options = QuantizeOptions {
        model_dir: model_dir.to_owned(),
        output_dir: output_dir.to_owned(),
        method,
        head: None,
        quantizes_cache: Cache::Fp8,
        calibration_text: Some(text),
        held_text: None,
        n_sequences: 32,
        sequence_len: 24,
        rounding: Rounding::Calibrated,
        n_threads: 2,
        progress: Progress::Quiet,
    };
    quantize(&options).unwrap_or_else(|error| panic!("{} {}: {error}", model_dir.display(), method.name()))
}

fn cosine(found: &[f32], wanted: &[f32]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    dot(found, wanted) / (dot(found, found) * dot(wanted, wanted)).sqrt()
}

fn largest_difference(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn write_tensors(path: &Path, all: &[(String, Dtype, Vec<usize>, Vec<u8>)]) {
    let views = all.iter().map(|(name, dtype, shape, bytes)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The checkpoint with every quantized matrix as f32 numbers; returns how many there are.
fn decode(quantized: &Path, original: &Path, method: Method, to: &Path) -> usize {
    const PARTS: [&str; 6] =
        ["weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale", "k_scale", "v_scale"];
    fs::create_dir(to).unwrap();
    fs::copy(original.join("config.json"), to.join("config.json")).unwrap();
    let shapes = WeightFiles::open(original).unwrap();
    let file = tensors(&quantized.join("model.safetensors"));
    let group = json(&quantized.join("hf_quant_config.json"))["quantization"]["group_size"].as_u64();
    let method = match (method, group) {
        (Method::Int4Awq { .. }, Some(group)) => Method::Int4Awq { group: usize::try_from(group).unwrap() },
        _ => method,
    };
    let (mut all, mut n_decoded) = (Vec::new(), 0);
    for name in file.names() {
        let (module, part) = name.rsplit_once('.').unwrap();
        if PARTS.contains(&part) {
            continue;
        }
        let tensor = file.get(name).unwrap();
        if part != "weight" || file.get(&format!("{module}.weight_scale")).is_none() {
            all.push((name.to_owned(), tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec()));
            continue;
        }
        let shape = shapes.tensor(name).unwrap().shape().to_vec();
        let stored = Stored::new(&file, module, method, (shape[0], shape[1]));
        let values = (0..shape[0]).flat_map(|row| (0..shape[1]).map(move |column| (row, column)));
        let bytes = values.flat_map(|(row, column)| stored.value(row, column).to_le_bytes()).collect();
        all.push((name.to_owned(), Dtype::F32, shape, bytes));
        n_decoded += 1;
    }
    write_tensors(&to.join("model.safetensors"), &all);
    n_decoded
}

/// Through every method: the engine of what quantize-llm writes is near the original, has exactly the numbers that
/// the layout says, and is the one that comes of the exported graph. Returns quantized matrices by method.
fn check_ways(checkpoint: &Path, wanted: &[f32], tokens: &[u32], scratch: &Path) -> Vec<usize> {
    check_ways_with(&LEAST, checkpoint, wanted, tokens, scratch)
}

fn check_ways_with(
    least: &[(Method, f64)],
    checkpoint: &Path,
    wanted: &[f32],
    tokens: &[u32],
    scratch: &Path,
) -> Vec<usize> {
    let mut counts = Vec::new();
    for &(method, least) in least {
        let folder = scratch.join(method.name());
        fs::create_dir(&folder).unwrap();
        let output = folder.join("quantized");
        let report = quantized(checkpoint, &output, method);
        let of = |precision: Precision| {
            let built = Built::new(&output, precision, 2);
            built.logits(tokens, None, tokens.len()).concat()
        };
        let cosine = cosine(&of(Precision::Stored), wanted);
        let (before, after) = report.perplexity;
        println!(
            "{} {}: {cosine:.5}, perplexity {before:.2} {after:.2}",
            checkpoint.display(),
            method.name()
        );
        assert!(cosine >= least, "{} {}: cosine {cosine}", checkpoint.display(), method.name());
        assert!((after / before).ln().abs() < 0.5, "perplexity {before} became {after}");

        let n_decoded = decode(&output, checkpoint, method, &folder.join("decoded"));
        assert_eq!(n_decoded, report.matrices.len());
        let numbers = Built::new(&folder.join("decoded"), Precision::F32, 2);
        let numbers = numbers.logits(tokens, None, tokens.len()).concat();
        let difference = largest_difference(&of(Precision::F32), &numbers);
        assert!(difference <= 1e-5, "{} {}: {difference}", checkpoint.display(), method.name());

        let onnx = folder.join("onnx");
        let options =
            ExportOptions { model_dir: output.clone(), output_dir: onnx.clone(), precision: Precision::F16 };
        export(&options).unwrap();
        insert(&onnx);
        let different = differences(&output, &onnx, Precision::Stored);
        assert!(different.is_empty(), "{}: {different:?}", method.name());
        counts.push(n_decoded);
    }
    counts
}

/// Of an int4 engine that a text was read for.
fn check_calibrated_engine(checkpoint: &Path, wanted: &[f32], tokens: &[u32]) {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    fs::write(&text, some_letters()).unwrap();
    let options = build_options(checkpoint, &folder.path().join("engine"), Precision::Int4, 0);
    build_calibrated(&options, &CalibrationOptions { text, n_sequences: 32, sequence_len: 24 }).unwrap();
    let built = Built::open(folder, 2);
    let cosine = cosine(&built.logits(tokens, None, tokens.len()).concat(), wanted);
    assert!(cosine >= 0.93, "{}: {cosine}", checkpoint.display());
}

/// Of all that the tokenizer knows.
fn some_letters() -> String {
    let mut random = Random(15);
    (0..1200).map(|_| char::from(b'!' + random.byte_below(94))).collect()
}

fn base_logits(checkpoint: &Path, tokens: &[u32]) -> Vec<f32> {
    Built::new(checkpoint, Precision::F32, 2).logits(tokens, None, tokens.len()).concat()
}

fn some_tokens() -> Vec<u32> {
    let mut random = Random(4);
    (0..20).map(|_| token(3 + random.below(90))).collect()
}

/// Without merging first the weights under the adapters are quantized, and that is told.
#[test]
fn adapters_inside_the_checkpoint_are_told() {
    let scratch = tempfile::tempdir().unwrap();
    let checkpoint = with_letters(&reference("static/phi4mm"), scratch.path());
    let output = scratch.path().join("quantized");
    let report = quantized(&checkpoint, &output, Method::Fp8);
    let warnings = report.warnings.join("\n");
    assert!(warnings.contains("(speech, vision)") && warnings.contains("merge-lora"), "{warnings}");
    let tokens = some_tokens();
    let found = Built::new(&output, Precision::Stored, 2).logits(&tokens, None, tokens.len()).concat();
    let cosine = cosine(&found, &base_logits(&checkpoint, &tokens));
    assert!(cosine >= 0.99, "{cosine}");
}

/// Phi-4-multimodal with its vision adapter merged.
fn merged(scratch: &Path, element: MergeType) -> PathBuf {
    let model_dir = reference("static/phi4mm");
    let output_dir = scratch.join(format!("merged-{element:?}"));
    merge_lora(&MergeOptions {
        lora_dir: model_dir.join("vision-lora"),
        model_dir,
        output_dir: output_dir.clone(),
        element,
        n_threads: 2,
        progress: Progress::Quiet,
        home: None,
    })
    .unwrap();
    add_letters(&output_dir);
    output_dir
}

#[test]
fn phi_4_multimodal_merged_quantized_exported_and_built() {
    if is_emulated() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let expected = tensors(&reference("static/logits.safetensors"));
    let tokens = ids(&expected, "tokens");
    let wanted = expected.require("merged").unwrap();
    let wanted = wanted.as_slice::<f32>().unwrap();
    let exact = base_logits(&merged(scratch.path(), MergeType::F32), &tokens);
    let difference = largest_difference(&exact, wanted);
    assert!(difference < 1e-4, "merged, f32: {difference}");
    let checkpoint = merged(scratch.path(), MergeType::F16);
    let counts = check_ways(&checkpoint, wanted, &tokens, scratch.path());
    // Four fused matrices in each of two layers.
    assert_eq!(counts, [8; 5]);
}

#[test]
fn an_adapter_runs_on_each_quantized_form() {
    if is_emulated() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let expected = tensors(&reference("static/logits.safetensors"));
    let tokens = ids(&expected, "tokens");
    let wanted = expected.require("user").unwrap();
    let wanted = wanted.as_slice::<f32>().unwrap();
    let checkpoint = merged(scratch.path(), MergeType::F16);
    let adapter = reference("static/phi4mm/adapters/user");
    let processed = scratch.path().join("processed");
    process_lora(&ProcessOptions::new(adapter.clone(), processed.clone())).unwrap();
    let processed = tensors(&processed.join("processed_adapter_model.safetensors"));
    let exact = Built::new(&checkpoint, Precision::F32, 2);
    let exact = exact.logits(&tokens, Some(&exact.lora(&adapter)), tokens.len()).concat();
    assert!(largest_difference(&exact, wanted) < 5e-2, "{}", largest_difference(&exact, wanted));
    for (method, least) in LEAST {
        let folder = tempfile::tempdir().unwrap();
        let (output, onnx) = (folder.path().join("quantized"), folder.path().join("onnx"));
        quantized(&checkpoint, &output, method);
        let options =
            ExportOptions { model_dir: output, output_dir: onnx.clone(), precision: Precision::F16 };
        export(&options).unwrap();
        let graph = fs::read(insert(&onnx)).unwrap();
        let graph = Model::parse(&graph).unwrap().graph;
        let inputs = graph.inputs.iter().map(|input| input.name).filter(|name| name.contains(".lora_"));
        let mut inputs: Vec<&str> = inputs.collect();
        inputs.sort_unstable();
        assert_eq!(inputs, processed.names().collect::<Vec<_>>(), "{}", method.name());
        build_onnx(&build_options(&onnx, &folder.path().join("engine"), Precision::Stored, 64)).unwrap();
        let engine = Engine::open(&folder.path().join("engine")).unwrap();
        assert!(engine.config.limits.max_lora_rank <= limits().max_lora_rank);
        let cpu = Cpu::new(Kernels::detect(), 2).unwrap();
        let decoder = Decoder::new(cpu, &engine.config, &engine.tensors).unwrap();
        let built = Built { folder, decoder };
        let lora: Arc<_> = built.lora(&adapter);
        let cosine = cosine(&built.logits(&tokens, Some(&lora), tokens.len()).concat(), wanted);
        println!("{} with an adapter: {cosine:.5}", method.name());
        assert!(cosine >= least, "{}: {cosine}", method.name());
    }
}

#[test]
fn names_of_a_backbone_go_through_every_method() {
    if is_emulated() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let checkpoint = with_letters(&reference("models/qwen3_vl"), scratch.path());
    let tokens = some_tokens();
    let wanted = base_logits(&checkpoint, &tokens);
    let counts = check_ways(&checkpoint, &wanted, &tokens, scratch.path());
    assert_eq!(counts[0], 14);
}

#[test]
fn gemma_3_goes_through_every_method() {
    if is_emulated() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let checkpoint = with_letters(&reference("models/gemma3"), scratch.path());
    let tokens = some_tokens();
    let wanted = base_logits(&checkpoint, &tokens);
    let counts = check_ways(&checkpoint, &wanted, &tokens, scratch.path());
    assert_eq!(counts[0], 7 * 4);
    check_calibrated_engine(&checkpoint, &wanted, &tokens);
}

#[test]
fn gemma_3_with_images_goes_through_every_method() {
    if is_emulated() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let checkpoint = with_letters(&reference("models/gemma3_vision"), scratch.path());
    let tokens = some_tokens();
    let wanted = base_logits(&checkpoint, &tokens);
    let counts = check_ways(&checkpoint, &wanted, &tokens, scratch.path());
    assert_eq!(counts[0], 7 * 2);
    let about = json(&scratch.path().join("fp8/quantized/hf_quant_config.json"));
    let excluded = about["quantization"]["exclude_modules"].to_string();
    for name in ["\"language_model.model.embed_tokens\"", "\"vision_tower.*\""] {
        assert!(excluded.contains(name), "{excluded}");
    }
}

/// A mixture whose matrices fit all methods: hidden 64, 4 experts of 64.
fn wide_mixture(directory: &Path) {
    fs::create_dir(directory).unwrap();
    let mut config = json(&reference("models/qwen3_moe/config.json"));
    let changes = object!({"hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 64, "num_experts": 4,
        "num_hidden_layers": 2, "vocab_size": 128});
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    let mut random = Random(31);
    let mut all = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        let values = random.floats(shape.iter().product());
        let of = |value: f32| if shape.len() == 1 { 1.0 + 0.1 * value } else { 0.25 * value };
        let bytes = values.into_iter().flat_map(|value| f16::from_f32(of(value)).to_le_bytes()).collect();
        all.push((name, Dtype::F16, shape.to_vec(), bytes));
    };
    for table in ["model.embed_tokens.weight", "lm_head.weight"] {
        add(table.to_owned(), &[128, 64]);
    }
    add("model.norm.weight".to_owned(), &[64]);
    for layer in 0..2 {
        let mut add = |part: &str, shape: &[usize]| add(format!("model.layers.{layer}.{part}.weight"), shape);
        add("input_layernorm", &[64]);
        add("post_attention_layernorm", &[64]);
        for (part, n) in [("q", 64), ("k", 32), ("v", 32), ("o", 64)] {
            add(&format!("self_attn.{part}_proj"), &[n, 64]);
        }
        add("self_attn.q_norm", &[16]);
        add("self_attn.k_norm", &[16]);
        let mlps: Vec<String> = match layer {
            0 => vec!["mlp".to_owned()],
            _ => (0..4).map(|expert| format!("mlp.experts.{expert}")).collect(),
        };
        for (mlp, part) in mlps.iter().flat_map(|mlp| ["gate", "up", "down"].map(|part| (mlp, part))) {
            add(&format!("{mlp}.{part}_proj"), &[64, 64]);
        }
        if layer == 1 {
            add("mlp.gate", &[4, 64]);
        }
    }
    write_tensors(&directory.join("model.safetensors"), &all);
    add_letters(directory);
}

#[test]
fn mixtures_go_through_every_method() {
    if is_emulated() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let checkpoint = scratch.path().join("checkpoint");
    wide_mixture(&checkpoint);
    let tokens = some_tokens();
    let wanted = base_logits(&checkpoint, &tokens);
    let counts = check_ways(&checkpoint, &wanted, &tokens, scratch.path());
    assert_eq!(counts, [7 + 4 + 3 * 4; 5]);
    check_calibrated_engine(&checkpoint, &wanted, &tokens);

    // Experts with scales of their inputs, as other programs write them, become numbers or are refused.
    let written = scratch.path().join("int8_sq/quantized");
    let path = written.join("model.safetensors");
    let file = tensors(&path);
    let changed: Vec<_> = file
        .names()
        .map(|name| {
            let tensor = file.get(name).unwrap();
            let mut bytes = tensor.data().to_vec();
            if name == "model.layers.1.mlp.experts.2.up_proj.pre_quant_scale" {
                bytes[..2].copy_from_slice(&f16::from_f32(2.0).to_le_bytes());
            }
            (name.to_owned(), tensor.dtype(), tensor.shape().to_vec(), bytes)
        })
        .collect();
    drop(file);
    fs::remove_file(&path).unwrap();
    write_tensors(&path, &changed);
    let options = |precision| build_options(&written, &scratch.path().join("engine"), precision, 0);
    let message = build(&options(Precision::Stored)).unwrap_err().to_string();
    for words in ["experts", "model.layers.1.mlp.experts.0.up_proj", "inputs", "--precision f16"] {
        assert!(message.contains(words), "{message}");
    }
    build(&options(Precision::F16)).unwrap();
}

#[test]
fn small_mixtures_keep_what_does_not_fit() {
    if is_emulated() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let checkpoint = with_letters(&reference("models/qwen3_moe"), scratch.path());
    let tokens = some_tokens();
    let wanted = base_logits(&checkpoint, &tokens);
    // The routers of random weights have no firm opinion: some tokens go to other experts.
    let least = LEAST.map(|(method, least)| (method, least - 0.05));
    let least = [least[0], least[2], least[4]];
    let counts = check_ways_with(&least, &checkpoint, &wanted, &tokens, scratch.path());
    // Three layers of attention, one MLP, two mixtures of six experts; rows of 48 and 40 fit few methods.
    assert_eq!(counts[0], 12 + 3 + 2 * 6 * 3);
    assert!(counts[1] < counts[0] && counts[2] < counts[0], "{counts:?}");
}
