//! The tool chain against the reference fixtures: build, process-lora and inspect on real directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;
use jetspool::format::engine::{EMBEDDING, HEAD, Item, checkpoint_names, items};
use jetspool::format::{Adapter, StoredMatrix, TensorFile};
use jetspool::numbers::architecture::{Architecture, Projection};
use jetspool::numbers::family::Family;
use jetspool::numbers::kind::row_scale_name;
use jetspool::numbers::precision::{ROW_ALIGN, row_stride, scale_name};
use jetspool::numbers::{Kind, MatrixShape, Precision};
use jetspool::store::{Checkpoint, Engine, map_file};
use jetspool::text::Tokenizer;
use jetspool::tools::{BuildOptions, ProcessOptions, build, inspect, process_lora};
use safetensors::Dtype;
use serde_json::Value;

use crate::support::build_options;

fn references() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/references")
}

/// Each model's name with each of its adapters and the reason to refuse it, if there is one.
fn adapters() -> Vec<(String, String, Option<String>)> {
    let index: Value = serde_json::from_slice(&fs::read(references().join("index.json")).unwrap()).unwrap();
    let mut found = Vec::new();
    for (model, about) in index["models"].as_object().unwrap() {
        for (adapter, about) in about["adapters"].as_object().unwrap() {
            found.push((model.clone(), adapter.clone(), about["refused"].as_str().map(str::to_owned)));
        }
    }
    assert!(found.len() > 30);
    found
}

fn models() -> Vec<String> {
    let mut names: Vec<String> = adapters().into_iter().map(|(model, ..)| model).collect();
    names.dedup();
    // Its feed-forward layers have biases, which are refused by name.
    names.retain(|name| !has_mlp_bias(name));
    names
}

fn has_mlp_bias(model: &str) -> bool {
    let config = fs::read(model_dir(model).join("config.json")).unwrap();
    serde_json::from_slice::<Value>(&config).unwrap()["mlp_bias"] == true
}

fn model_dir(model: &str) -> PathBuf {
    references().join("models").join(model)
}

fn options(model: &str, engine_dir: &Path, precision: Precision) -> BuildOptions {
    build_options(&model_dir(model), engine_dir, precision, 64)
}

fn process(model: &str, adapter: &str, output: &Path) -> Result<Vec<u8>, String> {
    let input_dir = model_dir(model).join("adapters").join(adapter);
    let report = process_lora(&ProcessOptions::new(input_dir.clone(), output.to_owned()))
        .map_err(|error| error.to_string())?;
    let [mut config, source] = [output.join("config.json"), input_dir.join("adapter_config.json")]
        .map(|path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap());
    let mark = config.as_object_mut().unwrap().remove("jetspool").unwrap();
    assert!(mark["producer"].as_str().unwrap().ends_with("process-lora"), "{mark}");
    assert_eq!(config, source);
    Ok(fs::read(report.path).unwrap())
}

#[test]
fn processed_adapters_equal_the_references_byte_for_byte() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut n_equal, mut n_once) = (0, 0);
    for (model, adapter, refused) in adapters() {
        let output = scratch.path().join(&model).join(&adapter);
        match (process(&model, &adapter, &output), refused) {
            (Ok(bytes), None) => {
                let folder = references().join("process").join(&model);
                // Rounded once, where the workflow's tool rounds twice.
                let once = folder.join(format!("{adapter}.once.safetensors"));
                n_once += usize::from(once.exists());
                let path = if once.exists() { once } else { folder.join(format!("{adapter}.safetensors")) };
                assert!(
                    bytes == fs::read(&path).unwrap(),
                    "{model} {adapter} differs from {}",
                    path.display()
                );
                n_equal += 1;
            }
            (Err(message), Some(reason)) => {
                assert!(message.contains(&reason), "{model} {adapter}: {message} does not name {reason}");
                assert!(!output.exists(), "{model} {adapter} left files");
            }
            (Ok(_), Some(reason)) => panic!("{model} {adapter} was not refused for {reason}"),
            (Err(message), None) => panic!("{model} {adapter}: {message}"),
        }
    }
    assert!(n_equal > 25 && n_once == 6, "{n_equal} {n_once}");
}

#[test]
fn processed_adapters_bind() {
    let scratch = tempfile::tempdir().unwrap();
    for (model, adapter, refused) in adapters() {
        if refused.is_some() || has_mlp_bias(&model) {
            continue;
        }
        let architecture = Checkpoint::open(&model_dir(&model)).unwrap().config.architecture;
        let bytes = process(&model, &adapter, &scratch.path().join(&model).join(&adapter)).unwrap();
        let file = TensorFile::parse(Arc::new(bytes)).unwrap();
        let n_tensors = file.names().count();
        let bound = Adapter::bind(file.clone(), &architecture, 64).unwrap();
        assert_eq!(bound.n_pairs() * 2, n_tensors, "{model} {adapter}");
        let too_small = Adapter::bind(file.clone(), &architecture, bound.max_rank() - 1).err().unwrap();
        assert!(too_small.to_string().contains("--maxLoraRank"), "{too_small}");

        let peft = model_dir(&model).join("adapters").join(&adapter).join("adapter_model.safetensors");
        let raw = TensorFile::parse(map_file(&peft).unwrap()).unwrap();
        let unprocessed = Adapter::bind(raw, &architecture, 64).err().unwrap();
        assert!(unprocessed.to_string().contains("process-lora"), "{unprocessed}");
    }
}

#[test]
fn engines_hold_the_checkpoint() {
    let scratch = tempfile::tempdir().unwrap();
    for model in models() {
        for precision in Precision::ALL {
            let engine_dir = scratch.path().join(format!("{model}-{precision}"));
            let report = build(&options(&model, &engine_dir, precision)).unwrap();
            let engine = Engine::open(&engine_dir).unwrap();
            assert_eq!(engine.config, report.config);
            check_alignment(&engine.tensors, &engine_dir);
            let checkpoint = Checkpoint::open(&model_dir(&model)).unwrap();
            for item in items(&engine.config.architecture, precision) {
                check_item(&item, &checkpoint, &engine.tensors, &format!("{model} {precision}"));
            }
        }
    }
}

/// Tensors start at multiples of 64 bytes of the file, the first one on a page; fillers are short.
fn check_alignment(tensors: &TensorFile, engine_dir: &Path) {
    let file_start = tensors.as_bytes().as_ptr() as usize;
    let mut first = usize::MAX;
    for name in tensors.names() {
        let tensor = tensors.get(name).unwrap();
        let offset = tensor.data().as_ptr() as usize - file_start;
        first = first.min(offset);
        if name.starts_with("pad.") {
            assert!(tensor.data().len() < 64 && tensor.data().iter().all(|byte| *byte == 0));
        } else {
            assert_eq!(offset % 64, 0, "{name} in {}", engine_dir.display());
        }
    }
    assert_eq!(first % 4096, 0);
}

fn check_item(item: &Item, checkpoint: &Checkpoint, engine: &TensorFile, case: &str) {
    let source = checkpoint_values(item, checkpoint);
    let stored = engine.require(item.name()).unwrap();
    let (shape, kind) = match *item {
        Item::Vector { .. } => {
            assert_eq!(floats(&stored), source, "{case} {}", item.name());
            return;
        }
        Item::Matrix { shape, storage, .. } => (shape, storage.kind),
    };
    let (columns, stride) = (shape.columns, row_stride(shape.columns));
    assert!(stride.is_multiple_of(ROW_ALIGN) && stride - columns < ROW_ALIGN);
    let beside = engine.get(&scale_name(item.name()));
    let of_rows = if kind == Kind::Affine { row_scale_name(item.name()) } else { scale_name(item.name()) };
    let scales = engine.get(&of_rows).map(|tensor| floats(&tensor));
    let decoded = decode(&stored, beside.as_ref(), scales.as_deref(), shape, kind);
    let (mut error, mut power, mut worst) = (0.0_f64, 0.0_f64, 0.0_f32);
    for (row, wanted) in decoded.chunks(stride).zip(source.chunks(columns)) {
        // Of minima the padding may be anything: it meets activations that are zero.
        let is_padded = kind == Kind::Affine || row[columns..].iter().all(|value| *value == 0.0);
        assert!(is_padded, "{case} {} is not padded", item.name());
        for (found, wanted) in row.iter().zip(wanted) {
            error += f64::from(found - wanted).powi(2);
            power += f64::from(*wanted).powi(2);
            worst = worst.max((found - wanted).abs());
        }
    }
    let bound = match kind {
        Kind::F32 => 0.0,
        Kind::F16 => 1e-6,
        Kind::Int8 => 1e-4,
        Kind::Affine => 6e-3,
        other => panic!("{case}: {other}"),
    };
    assert!(error / power <= bound, "{case} {}: {} worst {worst}", item.name(), error / power);
}

/// The matrices of experts one below the other; 1 more than Gemma's norms hold.
fn checkpoint_values(item: &Item, checkpoint: &Checkpoint) -> Vec<f32> {
    let architecture: &Architecture = &checkpoint.config.architecture;
    let names = checkpoint_names(architecture, item);
    assert_eq!(
        names.len(),
        if item.name().contains(".experts.") { architecture.experts.as_ref().unwrap().n_experts } else { 1 }
    );
    let mut values: Vec<f32> =
        names.iter().flat_map(|name| floats(&checkpoint.find(name).unwrap().unwrap())).collect();
    if architecture.family == Family::Gemma3 && item.name().contains("norm") {
        values.iter_mut().for_each(|value| *value += 1.0);
    }
    values
}

fn floats(tensor: &jetspool::format::Tensor) -> Vec<f32> {
    let data = tensor.data();
    match tensor.dtype() {
        Dtype::F32 => data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        Dtype::F16 => data.chunks(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
        Dtype::BF16 => {
            data.chunks(2).map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// The format document's words, written a second time: rows of the stride, part after part.
fn decode(
    stored: &jetspool::format::Tensor,
    lines: Option<&jetspool::format::Tensor>,
    scales: Option<&[f32]>,
    shape: MatrixShape,
    kind: Kind,
) -> Vec<f32> {
    let stride = row_stride(shape.columns);
    let numbers = if matches!(kind, Kind::F32 | Kind::F16) { floats(stored) } else { Vec::new() };
    let tiles_of_part = shape.rows.div_ceil(16);
    let mut decoded = Vec::new();
    for row in 0..shape.n_parts * shape.rows {
        let tile = row / shape.rows * tiles_of_part + row % shape.rows / 16;
        let lane = row % shape.rows % 16;
        decoded.extend((0..stride).map(|k| match kind {
            Kind::Int8 => {
                let q = stored.data()[tile * 16 * stride + k / 4 * 64 + lane * 4 + k % 4].cast_signed();
                f32::from(q) * scales.unwrap()[tile * 16 + lane]
            }
            Kind::Affine => {
                let byte = stored.data()[tile * 8 * stride + k / 8 * 64 + lane * 4 + k % 4];
                let code = f32::from(if k % 8 < 4 { byte & 15 } else { byte >> 4 });
                let line = (tile * (stride / 32) + k / 32) * 32 + lane;
                let [scale, minimum] = [line, line + 16].map(|at| f32::from(lines.unwrap().data()[at]));
                let factor = |j: usize| scales.unwrap()[tile * 32 + j * 16 + lane];
                factor(0) * (scale * code - factor(1) * minimum)
            }
            _ => numbers[(tile * stride + k) * 16 + lane],
        }));
    }
    decoded
}

#[test]
fn builds_are_reproducible_and_replace_in_place() {
    let scratch = tempfile::tempdir().unwrap();
    let (first, second) = (scratch.path().join("first"), scratch.path().join("second"));
    build(&options("qwen2_odd", &first, Precision::Int4)).unwrap();
    build(&BuildOptions { n_threads: 5, ..options("qwen2_odd", &second, Precision::Int4) }).unwrap();
    for name in ["llm.engine", "config.json"] {
        assert!(fs::read(first.join(name)).unwrap() == fs::read(second.join(name)).unwrap(), "{name}");
    }
    let held = Engine::open(&first).unwrap();
    let before = held.tensors.as_bytes().to_vec();
    fs::write(first.join("chat_template.jinja"), "old").unwrap();
    fs::write(first.join("notes.txt"), "mine").unwrap();
    build(&options("qwen2_odd", &first, Precision::F16)).unwrap();
    assert!(held.tensors.as_bytes() == before, "the mapped engine changed under its holder");
    let replaced = Engine::open(&first).unwrap();
    assert_eq!(replaced.config.precision, Precision::F16);
    assert!(replaced.chat_template.is_none() && first.join("notes.txt").exists());
    // A crash between the renames is seen.
    fs::copy(second.join("llm.engine"), first.join("llm.engine")).unwrap();
    assert!(Engine::open(&first).err().unwrap().to_string().contains("different builds"));
    let left: Vec<_> =
        fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn tables_are_stored_as_wanted() {
    let scratch = tempfile::tempdir().unwrap();
    // Tied, and with a head of its own.
    for (model, tables) in [("qwen2", &[EMBEDDING][..]), ("llama3", &[EMBEDDING, HEAD])] {
        for (precision, head, wanted) in [
            (Precision::Int4, None, Kind::Int8),
            (Precision::Int4, Some(Precision::F16), Kind::F16),
            (Precision::Int4, Some(Precision::Int4), Kind::Affine),
            (Precision::F16, Some(Precision::Int8), Kind::Int8),
            (Precision::F16, None, Kind::F16),
        ] {
            let engine_dir = scratch.path().join(model);
            build(&BuildOptions { head, ..options(model, &engine_dir, precision) }).unwrap();
            let engine = Engine::open(&engine_dir).unwrap();
            let a = &engine.config.architecture;
            assert_eq!(a.tied_head, tables.len() == 1, "{model}");
            let kind = |name: &str, shape| StoredMatrix::find(&engine.tensors, name, shape).unwrap().kind;
            for table in tables {
                assert_eq!(kind(table, (a.vocab_size, a.hidden_size)), wanted, "{model} {table} {head:?}");
            }
            let q = "model.layers.0.self_attn.q_proj.weight";
            assert_eq!(kind(q, a.projection_shape(Projection::Q)), Kind::of(precision), "{model}");
        }
    }
}

/// Copies a model and changes one thing in it.
fn changed_model(model: &str, change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(model_dir(model)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    change(copy.path());
    copy
}

fn edit_config(dir: &Path, key: &str, value: Value) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

fn edit_tensors(dir: &Path, edit: impl FnOnce(&mut Vec<(String, Dtype, Vec<usize>, Vec<u8>)>)) {
    let path = dir.join("model.safetensors");
    let file = TensorFile::parse(Arc::new(fs::read(&path).unwrap())).unwrap();
    let mut tensors: Vec<_> = file
        .names()
        .map(|name| {
            let tensor = file.get(name).unwrap();
            (name.to_owned(), tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec())
        })
        .collect();
    edit(&mut tensors);
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn damaged_checkpoints_are_refused_by_name() {
    struct Case {
        model: &'static str,
        change: fn(&Path),
        names: &'static [&'static str],
    }
    let cases = [
        Case {
            model: "llama3",
            change: |dir| fs::remove_file(dir.join("model-00002-of-00004.safetensors")).unwrap(),
            names: &["1 shard of", "missing: model-00002-of-00004.safetensors"],
        },
        Case {
            model: "qwen2_odd",
            change: |dir| edit_tensors(dir, |tensors| tensors.retain(|tensor| !tensor.0.contains("1.mlp"))),
            names: &["3 tensors missing", "model.layers.1.mlp.up_proj.weight"],
        },
        Case {
            model: "qwen3_moe",
            change: |dir| {
                edit_tensors(dir, |tensors| tensors.retain(|tensor| !tensor.0.contains("1.mlp.experts.4.")))
            },
            names: &["3 tensors missing", "model.layers.1.mlp.experts.4.up_proj.weight"],
        },
        Case {
            model: "qwen3_moe",
            change: |dir| edit_config(dir, "moe_intermediate_size", 32.into()),
            names: &["mlp.experts.0.gate_proj", "[40, 48]", "[32, 48]"],
        },
        Case {
            model: "gemma3",
            change: |dir| edit_config(dir, "final_logit_softcapping", 30.into()),
            names: &["final_logit_softcapping", "30"],
        },
        Case {
            model: "qwen2",
            change: |dir| edit_config(dir, "intermediate_size", 96.into()),
            names: &["gate_proj", "[96, 64]", "[160, 64]"],
        },
        Case {
            model: "qwen2",
            change: |dir| edit_config(dir, "tie_word_embeddings", false.into()),
            names: &["1 tensor missing", "lm_head.weight"],
        },
        Case {
            model: "qwen2_odd",
            change: |dir| {
                edit_tensors(dir, |tensors| {
                    let down = tensors.iter_mut().find(|tensor| tensor.0.contains("1.mlp.down")).unwrap();
                    down.3[400..404].copy_from_slice(&70_000.0_f32.to_le_bytes());
                });
            },
            names: &["model.layers.1.mlp.down_proj.weight", "70000", "f16"],
        },
        Case {
            model: "qwen2",
            change: |dir| fs::rename(dir.join("model.safetensors"), dir.join("pytorch_model.bin")).unwrap(),
            names: &["pytorch_model.bin", "safe_serialization"],
        },
        Case {
            model: "qwen2",
            change: |dir| fs::remove_file(dir.join("model.safetensors")).unwrap(),
            names: &["is a checkpoint without its weights", "hf download"],
        },
        Case {
            model: "qwen2",
            change: |dir| fs::write(dir.join("hf_quant_config.json"), "{}").unwrap(),
            names: &["hf_quant_config.json", "quantization is missing"],
        },
    ];
    for case in cases {
        let model = changed_model(case.model, case.change);
        let scratch = tempfile::tempdir().unwrap();
        let engine_dir = scratch.path().join("engine");
        let options = BuildOptions {
            model_dir: model.path().to_owned(),
            ..options(case.model, &engine_dir, Precision::F16)
        };
        let message = build(&options).unwrap_err().to_string();
        for name in case.names {
            assert!(message.contains(name), "{message} does not name {name}");
        }
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "{message}: files are left");
    }
}

#[test]
fn odd_checkpoints_build_with_warnings() {
    let model = changed_model("qwen2", |dir| {
        edit_tensors(dir, |tensors| {
            let embedding = tensors.iter().find(|tensor| tensor.0.contains("embed_tokens")).unwrap().clone();
            let other = |name: &str| (name.to_owned(), Dtype::F32, vec![1], vec![0; 4]);
            tensors.push(("lm_head.weight".to_owned(), embedding.1, embedding.2, embedding.3));
            tensors.push(other("model.layers.0.self_attn.rotary_emb.inv_freq"));
            tensors.push(other("vision.weight"));
        });
    });
    let scratch = tempfile::tempdir().unwrap();
    let options = BuildOptions {
        model_dir: model.path().to_owned(),
        ..options("qwen2", &scratch.path().join("engine"), Precision::Int8)
    };
    let warnings = build(&options).unwrap().warnings.join("\n");
    assert!(warnings.contains("1 tensor not used: vision.weight"), "{warnings}");
    assert!(!warnings.contains("lm_head") && !warnings.contains("inv_freq"), "{warnings}");
    assert!(warnings.contains("tokenizer.json"), "{warnings}");
}

#[test]
fn the_tokenizer_is_compiled() {
    let tokenizer_json = fs::read(references().join("tokenizers/qwen2/tokenizer.json")).unwrap();
    let model = changed_model("qwen2", |dir| fs::write(dir.join("tokenizer.json"), &tokenizer_json).unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let engine_dir = scratch.path().join("engine");
    let options =
        BuildOptions { model_dir: model.path().to_owned(), ..options("qwen2", &engine_dir, Precision::Int8) };
    build(&options).unwrap();
    let table = fs::read(engine_dir.join("tokenizer.table")).unwrap();
    assert_eq!(table, *Tokenizer::compile(&tokenizer_json).unwrap());
    assert!(!inspect(&engine_dir).unwrap().contains("warning"));

    let mut damaged = table.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let other = fs::read(references().join("tokenizers/llama3/tokenizer.json")).unwrap();
    let other = Tokenizer::compile(&other).unwrap();
    let tables: [(&[u8], &str); 3] =
        [(&damaged, "is damaged"), (&other, "of another tokenizer.json"), (&table[1..], "cannot be used")];
    for (bytes, warning) in tables {
        fs::write(engine_dir.join("tokenizer.table"), bytes).unwrap();
        let page = inspect(&engine_dir).unwrap();
        assert!(page.contains(warning), "{warning}:\n{page}");
    }

    fs::write(model.path().join("tokenizer.json"), "{}").unwrap();
    let error = build(&options).unwrap_err();
    assert_eq!(error.exit_code(), 65);
    assert!(error.to_string().contains("tokenizer.json is damaged"), "{error}");
    fs::remove_file(model.path().join("tokenizer.json")).unwrap();
    build(&options).unwrap();
    assert!(!engine_dir.join("tokenizer.table").exists(), "the old table stays");
}

#[test]
fn the_checkpoint_is_never_written_over() {
    let model = changed_model("qwen2", |_| {});
    let other = changed_model("qwen2", |_| {});
    for engine_dir in [model.path(), other.path()] {
        let options = BuildOptions {
            model_dir: model.path().to_owned(),
            ..options("qwen2", engine_dir, Precision::F32)
        };
        let message = build(&options).unwrap_err().to_string();
        assert!(message.contains("choose another output directory"), "{message}");
    }
    let input_dir = model_dir("qwen2").join("adapters/all_r8");
    let message =
        process_lora(&ProcessOptions::new(input_dir, model.path().to_owned())).unwrap_err().to_string();
    assert!(message.contains("choose another output directory"), "{message}");
}

#[test]
fn adapter_names_in_keys_and_overflow() {
    let scratch = tempfile::tempdir().unwrap();
    let input_dir = scratch.path().join("in");
    fs::create_dir(&input_dir).unwrap();
    let source = model_dir("qwen2").join("adapters/all_r8");
    let mut config: Value =
        serde_json::from_slice(&fs::read(source.join("adapter_config.json")).unwrap()).unwrap();
    fs::write(input_dir.join("adapter_config.json"), config.to_string()).unwrap();
    let file =
        TensorFile::parse(Arc::new(fs::read(source.join("adapter_model.safetensors")).unwrap())).unwrap();
    let renamed: Vec<_> = file
        .names()
        .map(|name| (name.replace(".weight", ".default.weight"), file.get(name).unwrap()))
        .collect();
    let views = renamed.iter().map(|(name, tensor)| {
        let shape = tensor.shape().to_vec();
        (name, safetensors::tensor::TensorView::new(tensor.dtype(), shape, tensor.data()).unwrap())
    });
    fs::write(input_dir.join("adapter_model.safetensors"), safetensors::serialize(views, None).unwrap())
        .unwrap();
    let options = ProcessOptions::new(input_dir.clone(), scratch.path().join("out"));
    let written = fs::read(process_lora(&options).unwrap().path).unwrap();
    assert!(written == fs::read(references().join("process/qwen2/all_r8.safetensors")).unwrap());

    config["lora_alpha"] = 1e9.into();
    fs::write(input_dir.join("adapter_config.json"), config.to_string()).unwrap();
    let message = process_lora(&options).unwrap_err().to_string();
    assert!(message.contains("lora_B.default.weight") && message.contains("f16"), "{message}");

    config["r"] = 5.into();
    fs::write(input_dir.join("adapter_config.json"), config.to_string()).unwrap();
    let message = process_lora(&options).unwrap_err().to_string();
    assert!(message.contains("rank 5") && message.contains("lora_A"), "{message}");
}

#[test]
fn inspect_fits_a_screen() {
    let scratch = tempfile::tempdir().unwrap();
    let engine_dir = scratch.path().join("engine");
    build(&options("qwen2", &engine_dir, Precision::Int4)).unwrap();
    let adapter = model_dir("qwen2").join("adapters/patterns");
    let processed = scratch.path().join("adapter");
    process("qwen2", "patterns", &processed).unwrap();
    let cases: [(&Path, &[&str]); 6] = [
        (&engine_dir, &["qwen2", "int4", "vocab 608", "rank 64", "tied"]),
        (&engine_dir.join("llm.engine"), &["engine", "int4"]),
        (&model_dir("llama3"), &["llama", "BF16", "4 files"]),
        (&adapter, &["LORA", "rank", "process-lora"]),
        (&processed, &["rank 2 to 12", "q_proj"]),
        (&processed.join("processed_adapter_model.safetensors"), &["rank 2 to 12", "q_proj"]),
    ];
    for (path, names) in cases {
        let text = inspect(path).unwrap();
        assert!(text.lines().count() <= 24, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
        for name in names {
            assert!(text.contains(name), "{name} is not in:\n{text}");
        }
        assert!(!text.contains("pad."), "{text}");
    }
    assert!(inspect(&scratch.path().join("nothing")).is_err());
}

#[test]
fn a_text_backbone_leaves_images_out_and_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let engine_dir = scratch.path().join("engine");
    let report = build(&options("gemma3_vision", &engine_dir, Precision::Int4)).unwrap();
    let warnings = report.warnings.join("\n");
    assert!(warnings.contains("tensors for images") && !warnings.contains("not used"), "{warnings}");
    let text = inspect(&engine_dir).unwrap();
    for words in ["gemma3, 2 layers", "window of 8 in 1 layer", "10000 under the window", "GELU"] {
        assert!(text.contains(words), "{words} is not in:\n{text}");
    }
    let text = inspect(&model_dir("qwen3_moe")).unwrap();
    assert!(text.contains("6 of 40 a layer, 2 a token; 1 layer without"), "{text}");
    process("qwen3_moe", "experts_r4", &scratch.path().join("adapter")).unwrap();
    let text = inspect(&scratch.path().join("adapter")).unwrap();
    assert!(text.contains("experts' up_proj") && text.contains("router"), "{text}");
}

#[test]
fn adapters_of_experts_need_the_layers_and_experts() {
    let scratch = tempfile::tempdir().unwrap();
    let bytes = process("qwen3_moe", "experts_r4", scratch.path()).unwrap();
    let file = TensorFile::parse(Arc::new(bytes)).unwrap();
    let architecture = Checkpoint::open(&model_dir("qwen3_moe")).unwrap().config.architecture;
    let refusal = |change: fn(&mut Architecture)| {
        let mut changed = architecture.clone();
        change(&mut changed);
        Adapter::bind(file.clone(), &changed, 64).err().unwrap().to_string()
    };
    let message = refusal(|a| a.experts.as_mut().unwrap().n_experts = 5);
    assert!(
        message.starts_with("12 tensors") && message.contains("layers.1.mlp.experts.5.up_proj"),
        "{message}"
    );
    let message = refusal(|a| a.experts.as_mut().unwrap().dense_layers.clear());
    assert!(message.starts_with("6 tensors") && message.contains("layers.0.mlp.up_proj"), "{message}");
    let message = refusal(|a| a.experts = None);
    assert!(
        message.starts_with("76 tensors") && message.contains("layers.1.mlp.experts.0.up_proj"),
        "{message}"
    );
}
