//! The ONNX tools: what export-llm writes and what the workflow's exporters wrote gives the checkpoint's engine.
//!
//! onnx.checker and onnxruntime look at the same files in scripts/check-onnx; directories under
//! tests/data/references/onnx are made with the onnx package.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::quantized::support::{CASES, InGraph};
use crate::support::{Built, build_options, contents, ids, json, models, reference, tensors};
use jetspool::device::Cpu;
use jetspool::format::Adapter;
use jetspool::format::onnx::Model;
use jetspool::kernels::Kernels;
use jetspool::model::Decoder;
use jetspool::numbers::Precision;
use jetspool::numbers::architecture::Projection;
use jetspool::store::{Checkpoint, Engine};
use jetspool::tools::{
    BuildReport, ExportOptions, InsertOptions, ToolError, build, build_onnx, export, insert_lora,
};

/// A copy of a directory of the fixtures.
fn layout(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(reference(&format!("onnx/{name}"))).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

pub fn insert(directory: &Path) -> PathBuf {
    let report = insert_lora(&InsertOptions { onnx_dir: directory.to_owned() }).unwrap();
    // Phi's layers have fused projections, those of mixtures a router and experts.
    let config = json(&directory.join("config.json"));
    let n_modules = if config["model"] == "phi3" || config["model"] == "phi4mm" { 4 } else { 7 };
    let is_mixture = config["model"] == "qwen3moe";
    assert!(is_mixture || report.n_pairs == n_modules * report.n_layers, "{} pairs", report.n_pairs);
    report.path
}

/// Names of tensors that are not the same bytes; both engines have the same ones and the same configuration.
pub fn differences(checkpoint: &Path, onnx: &Path, precision: Precision) -> Vec<String> {
    let scratch = tempfile::tempdir().unwrap();
    let wanted_dir = scratch.path().join("wanted");
    let wanted_config = build(&build_options(checkpoint, &wanted_dir, precision, 0)).unwrap().config;
    let wanted = contents(&wanted_dir);
    let mut different = Vec::new();
    for max_lora_rank in [0, 16] {
        let found_dir = scratch.path().join(format!("found-{max_lora_rank}"));
        let found_config =
            build_onnx(&build_options(onnx, &found_dir, precision, max_lora_rank)).unwrap().config;
        assert_eq!(found_config.architecture, wanted_config.architecture, "{}", onnx.display());
        let found = contents(&found_dir);
        let names = |all: &BTreeMap<String, Vec<u8>>| all.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&wanted), "{}", onnx.display());
        let names = wanted.keys().filter(|name| found[*name] != wanted[*name]);
        different.extend(names.cloned());
    }
    different
}

fn export_to(model: &str, output_dir: &Path, precision: Precision) {
    let model_dir = reference(&format!("models/{model}"));
    export(&ExportOptions { model_dir, output_dir: output_dir.to_owned(), precision }).unwrap();
}

#[test]
fn exported_directories_build_the_checkpoints_engine() {
    let mut n_models = 0;
    for model in models().into_keys().filter(|model| model != "llama_bias") {
        let checkpoint = reference(&format!("models/{model}"));
        let scratch = tempfile::tempdir().unwrap();
        for precision in [Precision::F32, Precision::F16] {
            let directory = scratch.path().join(precision.name());
            export_to(&model, &directory, precision);
            insert(&directory);
            let different = differences(&checkpoint, &directory, precision);
            assert!(different.is_empty(), "{model} {precision}: {different:?}");
        }
        n_models += 1;
    }
    assert!(n_models >= 18);
}

#[test]
fn directories_of_the_workflow_build_the_checkpoints_engine() {
    for (name, model) in [
        ("older_qwen2", "qwen2"),
        ("older_qwen3", "qwen3"),
        ("older_phi3", "phi3_short"),
        ("newer_qwen2", "qwen2"),
        ("newer_qwen3", "qwen3"),
    ] {
        let directory = layout(name);
        insert(directory.path());
        let checkpoint = reference(&format!("models/{model}"));
        let different = differences(&checkpoint, directory.path(), Precision::F16);
        assert!(different.is_empty(), "{name}: {different:?}");
    }
}

/// What process-lora writes, a graph takes: every expert's and the router's too.
#[test]
fn inputs_have_the_names_of_processed_adapters() {
    for model in ["gemma3", "gemma3_vision", "qwen3_moe", "qwen3_moe_step"] {
        let exported = tempfile::tempdir().unwrap();
        export_to(model, exported.path(), Precision::F16);
        let graph = fs::read(insert(exported.path())).unwrap();
        let graph = Model::parse(&graph).unwrap().graph;
        let inputs: BTreeSet<&str> = graph.inputs.iter().map(|input| input.name).collect();
        for entry in fs::read_dir(reference(&format!("process/{model}"))).unwrap() {
            let path = entry.unwrap().path();
            for name in tensors(&path).names() {
                let plain = name.replace("model.language_model.", "model.");
                assert!(inputs.contains(&*plain), "{}: {name}", path.display());
            }
        }
    }
}

/// Processed adapters of Phi keep the fused modules' names, and so the graph's inputs have them: in what we
/// export, and in what the workflow's exporter cut into projections.
#[test]
fn inputs_for_fused_modules_are_named_as_adapters_are() {
    let adapter = tensors(&reference("process/phi3_short/fused_all.safetensors"));
    let exported = tempfile::tempdir().unwrap();
    export_to("phi3_short", exported.path(), Precision::F16);
    let workflow = layout("older_phi3");
    for directory in [exported.path(), workflow.path()] {
        let model = fs::read(insert(directory)).unwrap();
        let model = Model::parse(&model).unwrap();
        let inputs = model.graph.inputs.iter().map(|input| input.name).filter(|name| name.contains(".lora_"));
        let inputs: BTreeSet<&str> = inputs.collect();
        assert!(inputs.into_iter().eq(adapter.names()), "{}", directory.display());
    }
}

#[test]
fn quantized_layouts_give_the_logits_of_transformers() {
    for name in ["older_int4", "newer_int4", "older_fp8", "older_int8", "newer_nvfp4"] {
        let directory = layout(name);
        insert(directory.path());
        let expected = tensors(&reference(&format!("onnx/{name}/logits.safetensors")));
        let adapter = tensors(&reference(&format!("onnx/{name}/processed_adapter_model.safetensors")));
        let tokens = ids(&expected, "tokens");
        // As numbers, and as the graph has them, with inputs of codes rounded to eight bits.
        for (precision, bound) in [(Precision::F32, 1e-4), (Precision::Stored, 0.5)] {
            let folder = tempfile::tempdir().unwrap();
            let engine_dir = folder.path().join("engine");
            let report = build_onnx(&build_options(directory.path(), &engine_dir, precision, 16)).unwrap();
            if precision == Precision::Stored {
                let kind = name.split_once('_').unwrap().1;
                // Tables are rows of int8.
                let is_known = |part: &str| part.contains(kind) || part.ends_with(" int8");
                assert!(report.kinds.split(", ").all(is_known), "{name}: {}", report.kinds);
                assert!(report.kinds.contains(kind), "{name}: {}", report.kinds);
            }
            let engine = Engine::open(&engine_dir).unwrap();
            let cpu = Cpu::new(Kernels::detect(), 1).unwrap();
            let decoder = Decoder::new(cpu, &engine.config, &engine.tensors).unwrap();
            let adapter = Adapter::bind(adapter.clone(), decoder.architecture(), 16).unwrap();
            let lora = Arc::new(decoder.lora(&adapter).unwrap());
            let built = Built { folder, decoder };
            for (run, lora) in [("base", None), ("adapter", Some(&lora))] {
                let found = built.logits(&tokens, lora, tokens.len()).concat();
                let wanted = expected.require(run).unwrap();
                let wanted = wanted.as_slice::<f32>().unwrap();
                assert_eq!(found.len(), wanted.len());
                let largest = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(largest < bound, "{name} {precision} {run}: {largest}");
            }
        }
    }
}

#[test]
fn a_graph_that_is_int4_stays_as_it_is_and_says_so() {
    let directory = layout("older_int4");
    let engine_dir = directory.path().join("engine");
    let report = build_onnx(&build_options(directory.path(), &engine_dir, Precision::Int4, 0)).unwrap();
    let told = "the graph's weights are int4 already: they stay as they are (precision stored)";
    assert!(report.warnings.iter().any(|warning| warning == told), "{:?}", report.warnings);
    assert_eq!(report.config.precision, Precision::Stored);
}

fn exported(wanted: InGraph) -> impl Iterator<Item = &'static str> {
    CASES.into_iter().filter(move |(_, found)| *found == wanted).map(|(name, _)| name)
}

/// Scales, zeros and factors of inputs come through a graph of DequantizeLinear as they are.
#[test]
fn quantized_checkpoints_export_and_build_the_same_engine() {
    for name in exported(InGraph::AsItIs) {
        let checkpoint = reference(&format!("quantized/{name}"));
        let scratch = tempfile::tempdir().unwrap();
        for precision in [Precision::F32, Precision::F16] {
            let output_dir = scratch.path().join(precision.name());
            export(&ExportOptions {
                model_dir: checkpoint.clone(),
                output_dir: output_dir.clone(),
                precision,
            })
            .unwrap();
            insert(&output_dir);
            let different = differences(&checkpoint, &output_dir, Precision::Stored);
            assert!(different.is_empty(), "{name} {precision}: {different:?}");
        }
    }
}

/// What DequantizeLinear cannot say goes through a graph as numbers.
#[test]
fn other_quantized_checkpoints_export_as_numbers() {
    for name in exported(InGraph::AsNumbers) {
        let checkpoint = reference(&format!("quantized/{name}"));
        let scratch = tempfile::tempdir().unwrap();
        let output_dir = scratch.path().join("onnx");
        let precision = Precision::F32;
        export(&ExportOptions { model_dir: checkpoint.clone(), output_dir: output_dir.clone(), precision })
            .unwrap();
        insert(&output_dir);
        let different = differences(&checkpoint, &output_dir, precision);
        assert!(different.is_empty(), "{name}: {different:?}");
    }
}

#[test]
fn adapter_inputs_are_named_after_modules_and_every_reader_keeps_its_order() {
    let scratch = tempfile::tempdir().unwrap();
    let ours = scratch.path().join("ours");
    export_to("qwen3", &ours, Precision::F16);
    let names = ["older_qwen2", "older_qwen3", "newer_qwen2", "newer_qwen3", "older_int4", "newer_int4"];
    let layouts: Vec<_> = names.into_iter().map(layout).collect();
    for directory in layouts.iter().map(tempfile::TempDir::path).chain([ours.as_path()]) {
        let before = fs::read(directory.join("model.onnx")).unwrap();
        let after = fs::read(insert(directory)).unwrap();
        assert_eq!(fs::read(directory.join("model.onnx")).unwrap(), before, "the graph itself changed");
        let (before, after) = (Model::parse(&before).unwrap().graph, Model::parse(&after).unwrap().graph);
        let n_layers = json(&directory.join("config.json"))["num_hidden_layers"].as_u64().unwrap();
        let mut wanted = Vec::new();
        for layer in 0..n_layers {
            for path in Projection::ALL.map(Projection::path) {
                let pair = ["A", "B"].map(|half| format!("model.layers.{layer}.{path}.lora_{half}.weight"));
                wanted.extend(pair);
            }
        }
        let mut found: Vec<&str> =
            after.inputs[before.inputs.len()..].iter().map(|input| input.name).collect();
        found.sort_unstable();
        wanted.sort();
        assert_eq!(found, wanted, "{}", directory.display());
        let old: Vec<_> = after.nodes.iter().filter(|node| !node.name.contains("/lora_")).collect();
        assert_eq!(old.len(), before.nodes.len());
        for (old, new) in before.nodes.iter().zip(old) {
            assert_eq!((old.name, old.inputs.len()), (new.name, new.inputs.len()));
            for (old, new) in old.inputs.iter().zip(&new.inputs) {
                assert!(old == new || new.ends_with("/lora_add_output"), "{old} became {new}");
            }
        }
        let again = insert_adapters_of(directory).unwrap_err().to_string();
        assert!(again.contains("inputs for adapters"), "{again}");
    }
}

/// insert-lora on the graph that it has made.
fn insert_adapters_of(directory: &Path) -> Result<(), ToolError> {
    fs::rename(directory.join("lora_model.onnx"), directory.join("model.onnx")).unwrap();
    insert_lora(&InsertOptions { onnx_dir: directory.to_owned() }).map(drop)
}

/// Builds from a directory in which something was changed.
fn build_changed(
    name: &str,
    max_lora_rank: usize,
    change: impl FnOnce(&Path),
) -> Result<BuildReport, ToolError> {
    let directory = layout(name);
    change(directory.path());
    let scratch = tempfile::tempdir().unwrap();
    let engine_dir = scratch.path().join("engine");
    let result = build_onnx(&build_options(directory.path(), &engine_dir, Precision::F16, max_lora_rank));
    if result.is_err() {
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "files are left");
    }
    result
}

fn replace(path: &Path, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(path).unwrap();
    let places: Vec<usize> =
        (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_not_understood_is_named() {
    struct Case {
        name: &'static str,
        change: fn(&Path),
        names: &'static [&'static str],
    }
    let cases = [
        Case {
            name: "older_qwen2",
            change: |dir| replace(&dir.join("model.onnx"), b"Sigmoid", b"Softmax"),
            names: &["model.onnx", "/mlp/Mul", "SiLU", "with inputs /model/layers.1/mlp"],
        },
        Case {
            name: "older_phi3",
            change: |dir| replace(&dir.join("model.onnx"), b"Slice", b"Slide"),
            names: &["model.onnx", "/mlp/Mul", "SiLU", "Slide"],
        },
        Case {
            name: "older_phi3",
            change: |dir| replace(&dir.join("config.json"), b"longrope", b"longripe"),
            names: &["config.json", "longripe", "longrope"],
        },
        Case {
            name: "older_qwen3",
            change: |dir| replace(&dir.join("model.onnx"), b"AttentionPlugin", b"RetentionPlugin"),
            names: &["model.onnx", "trt::RetentionPlugin", "past_key_values_1", "kvcache_start_index"],
        },
        Case {
            name: "newer_qwen2",
            change: |dir| replace(&dir.join("model.onnx"), b"Reciprocal", b"Reciprocol"),
            names: &["model.onnx", "a norm before the head"],
        },
        Case {
            name: "newer_qwen2",
            change: |dir| fs::remove_file(dir.join("model.onnx.data")).unwrap(),
            names: &["model.onnx.data is not there", "hf download"],
        },
        Case {
            name: "older_qwen2",
            change: |dir| fs::remove_file(dir.join("onnx_model.data")).unwrap(),
            names: &["onnx_model.data is not there"],
        },
        Case {
            name: "older_qwen2",
            change: |dir| replace(&dir.join("model.onnx"), b"onnx_model.data", b"../_model./data"),
            names: &["../_model./data", "plain file name"],
        },
        Case {
            name: "older_qwen2",
            change: |dir| {
                let file = fs::File::options().write(true).open(dir.join("onnx_model.data")).unwrap();
                file.set_len(100_000).unwrap();
            },
            names: &["onnx_model.data is a file of 100000 bytes without its end", "the download or the copy"],
        },
        Case {
            name: "older_int4",
            change: |dir| {
                replace(&dir.join("config.json"), b"\"num_hidden_layers\": 1", b"\"num_hidden_layers\": 2")
            },
            names: &["num_hidden_layers is 2, wanted 1"],
        },
        Case {
            name: "newer_qwen3",
            change: |dir| replace(&dir.join("config.json"), b"\"head_dim\": 32", b"\"head_dim\": 64"),
            names: &["head_dim is 64, wanted 32"],
        },
        Case {
            name: "newer_qwen3",
            change: |dir| replace(&dir.join("config.json"), b"\"vocab_size\": 320", b"\"vocab_size\": 319"),
            names: &["embedding", "[320, 64]", "[319, 64]"],
        },
        Case {
            name: "older_qwen2",
            change: |dir| fs::remove_file(dir.join("embedding.safetensors")).unwrap(),
            names: &["embedding.safetensors"],
        },
    ];
    for case in cases {
        let message = build_changed(case.name, 0, case.change).unwrap_err().to_string();
        for name in case.names {
            assert!(message.contains(name), "{}: {message} does not name {name}", case.name);
        }
    }
    let message = build_changed("older_qwen2", 16, |_| {}).unwrap_err().to_string();
    assert!(message.contains("lora_model.onnx") && message.contains("insert-lora"), "{message}");
}

/// The graph says how much of a head is rotated, and so does the configuration.
#[test]
fn rotations_must_agree() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("onnx");
    export_to("phi3", &directory, Precision::F32);
    let config = fs::read_to_string(directory.join("config.json")).unwrap();
    let changed = config.replace("\"partial_rotary_factor\": 1.0", "\"partial_rotary_factor\": 0.5");
    assert_ne!(changed, config);
    fs::write(directory.join("config.json"), changed).unwrap();
    let options = build_options(&directory, &scratch.path().join("engine"), Precision::F32, 0);
    let message = build_onnx(&options).unwrap_err().to_string();
    for name in ["config.json", "partial_rotary_factor is 0.5", "16 elements of a head"] {
        assert!(message.contains(name), "{message} does not name {name}");
    }
}

#[test]
fn exports_hold_each_weight_once_and_are_replaced_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("onnx");
    export_to("qwen2", &directory, Precision::F16);
    let checkpoint = Checkpoint::open(&reference("models/qwen2")).unwrap();
    let n_elements: usize =
        checkpoint.names().map(|name| checkpoint.tensor(name).unwrap().n_elements()).sum();
    let n_elements = n_elements as u64;
    let size = |name: &str| fs::metadata(directory.join(name)).unwrap().len();
    // Tensors start on pages.
    let slack = 4096 * (1 + checkpoint.names().count() as u64);
    let stored = size("onnx_model.data") + size("embedding.safetensors");
    assert!(stored < 2 * n_elements + slack, "{stored} bytes for {n_elements} weights of a tied model");
    let embedding = tensors(&directory.join("embedding.safetensors"));
    assert_eq!(embedding.names().collect::<Vec<_>>(), ["embedding"]);

    insert(&directory);
    fs::write(directory.join("notes.txt"), "mine").unwrap();
    export_to("qwen3", &directory, Precision::F32);
    assert!(!directory.join("lora_model.onnx").exists(), "the graph of another model stays");
    assert!(directory.join("notes.txt").exists());
    assert_eq!(json(&directory.join("config.json"))["model"], "qwen3");
    for taken in ["models/qwen2", "models/mistral"] {
        let copy = tempfile::tempdir().unwrap();
        let config = copy.path().join("config.json");
        fs::copy(reference(&format!("{taken}/config.json")), &config).unwrap();
        let model_dir = reference("models/qwen3");
        let output_dir = copy.path().to_owned();
        let refused =
            export(&ExportOptions { model_dir, output_dir, precision: Precision::F16 }).unwrap_err();
        assert!(refused.to_string().contains("choose another output directory"), "{refused}");
    }
}

#[test]
fn chat_templates_become_frames_only_where_that_is_true() {
    struct Case {
        tokenizer: &'static str,
        user_prefix: Option<&'static str>,
    }
    let cases = [
        Case { tokenizer: "qwen2", user_prefix: Some("<|im_start|>user\n") },
        // It always writes a system block with dates; this one puts the system message into the user's.
        Case { tokenizer: "llama3", user_prefix: None },
        Case { tokenizer: "mistral", user_prefix: None },
    ];
    for Case { tokenizer, user_prefix } in cases {
        let scratch = tempfile::tempdir().unwrap();
        let model_dir = scratch.path().join("model");
        fs::create_dir(&model_dir).unwrap();
        for folder in [format!("models/{tokenizer}"), format!("tokenizers/{tokenizer}")] {
            for entry in fs::read_dir(reference(&folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    fs::copy(&path, model_dir.join(path.file_name().unwrap())).unwrap();
                }
            }
        }
        let output_dir = scratch.path().join("onnx");
        let options = ExportOptions { model_dir, output_dir: output_dir.clone(), precision: Precision::F16 };
        let warnings = export(&options).unwrap().warnings;
        let processed = output_dir.join("processed_chat_template.json");
        assert_eq!(warnings.is_empty(), user_prefix.is_some(), "{tokenizer}: {warnings:?}");
        assert_eq!(processed.exists(), user_prefix.is_some(), "{tokenizer}");
        if let Some(prefix) = user_prefix {
            let layout = json(&processed);
            assert_eq!(layout["roles"]["user"]["prefix"], prefix);
            assert_eq!(layout["generation_prompt"], "<|im_start|>assistant\n<think>\n\n</think>\n\n");
            assert_eq!(layout["generation_prompt_thinking"], "<|im_start|>assistant\n");
        }
        assert!(output_dir.join("tokenizer.json").exists());
    }
}
